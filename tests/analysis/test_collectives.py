"""Collectives in texts by hand and in programs compiled for eight CPUs."""

import collections
import dataclasses

import hlo_text
import pytest

from vit_jax_repro.analysis import collectives, hlo, traffic
from vit_jax_repro.benchmarks import programs

NUM_LAYERS = 2  # an unrolled program compiles much faster than with 12
MESH = {'data': 2, 'fsdp': 4, 'model': 1}


@pytest.mark.quick
@pytest.mark.parametrize(
  'groups, axes, group',
  [
    ('replica_groups={{0,1,2,3},{4,5,6,7}}', ('fsdp',), (0, 1, 2, 3)),
    ('replica_groups={{0,4},{1,5},{2,6},{3,7}}', ('data',), (0, 4)),
    ('replica_groups=[2,4]<=[8]', ('fsdp',), (0, 1, 2, 3)),
    ('replica_groups=[4,2]<=[2,4]T(1,0)', ('data',), (0, 4)),
    ('replica_groups={}', ('data', 'fsdp'), tuple(range(8))),
    (
      "replica_groups=mesh['data'=2,'fsdp'=4,'model'=1] {'data'}",
      ('data',),
      (0, 4),
    ),
    ("replica_groups=mesh['axis_0'=8] {'axis_0'}", ('data', 'fsdp'),
     tuple(range(8))),
  ],
)  # fmt: skip
def test_find_returns_the_mesh_axes_of_a_collective(groups, axes, group):
  (found,) = collectives.find(hlo_text.read(groups), MESH)
  assert (found.kind, found.axes, found.group) == ('all-gather', axes, group)


@pytest.mark.quick
def test_find_multiplies_a_collective_by_the_steps_of_its_loop():
  (found,) = collectives.find(hlo_text.read(), MESH)
  assert found.times == 6  # from 0 to 12 in steps of 2
  assert found.payload == 6 * 8 * 4 * 4


@pytest.mark.quick
def test_find_reads_dtypes_of_all_reduces_and_fused_reduce_scatters():
  text = """
%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (p: f32[8]) -> f32[1] {
  %p = f32[8]{0} parameter(0)
  %all = f32[8]{0} all-reduce(%p), replica_groups={}, to_apply=%add
  ROOT %mine = f32[1]{0} slice(%all), slice={[0:1]}
}

ENTRY %main (a: bf16[16], b: f32[8]) -> f32[1] {
  %a = bf16[16]{0} parameter(0)
  %b = f32[8]{0} parameter(1)
  %wide = f32[16]{0} all-reduce(%a), channel_id=1, replica_groups={}
  %start = ((f32[8]{0}), f32[8]{0}) all-reduce-start(%b), channel_id=1
  %done = f32[8]{0} all-reduce-done(%start)
  ROOT %part = f32[1]{0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
  found = collectives.find(hlo.HloModule(text), {'data': 8})
  assert sorted((c.kind, c.payload, c.arrays[0].dtype) for c in found) == [
    ('all-reduce', 32, 'f32'),
    ('all-reduce', 64, 'f32'),
    ('reduce-scatter', 32, 'f32'),
  ]


def exchanged(case):
  """Compiles an update; returns bytes by kind and axes, and the module."""
  program = programs.create(case)
  read = hlo.HloModule(programs.compile(program).as_text())
  total = collections.Counter()
  for each in collectives.find(read, dict(program.mesh.shape)):
    total[each.kind, each.axes] += each.payload
  return total, read


@pytest.mark.parametrize('mesh', [dict(data=8), dict(data=1, fsdp=8)], ids=str)
def test_scanned_update_has_the_collectives_of_an_unrolled_one(
  mesh, monkeypatch
):
  """All-gathers may differ: XLA reuses gathered arrays in an unrolled one."""
  create_model = programs.create_model
  monkeypatch.setattr(
    programs,
    'create_model',
    lambda case: create_model(case).clone(num_layers=NUM_LAYERS),
  )
  case = programs.Case(
    'train', 'ViT-Ti_16', 8, 'float32', (32, 32), mesh=mesh, remat=True
  )
  unrolled, one = exchanged(case)
  scanned, other = exchanged(dataclasses.replace(case, scan=True))
  assert unrolled.keys() == scanned.keys()
  for (kind, axes), size in unrolled.items():
    allowed = 1 if kind == 'all-gather' else 0.02
    assert scanned[kind, axes] == pytest.approx(size, rel=allowed)
  assert traffic.total(other) == pytest.approx(traffic.total(one), rel=0.4)
