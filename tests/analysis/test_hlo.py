"""Reading XLA's text: by hand, and of programs compiled on eight CPUs."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import pytest

from vit_jax_repro.analysis import hlo
from vit_jax_repro.benchmarks import programs

MESH = {'data': 2, 'fsdp': 4, 'model': 1}

# A loop of 6 steps of 2 around a gather, whose length its condition says, as a
# TPU's text has it; a kernel in a loop whose length XLA says.
TEXT = """
HloModule jit_step, is_scheduled=true

%condition (c: (u32[], f32[8,4])) -> pred[] {
  %c = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%c), index=0
  %end = u32[]{:T(128)} constant(12)
  ROOT %less = pred[]{:T(512)} compare(%count, %end), direction=LT
}

%body (b: (u32[], f32[8,4])) -> (u32[], f32[8,4]) {
  %b = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%b), index=0
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%i, %two)
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%b), index=1
  %part = f32[2,4]{1,0:T(8,128)S(1)} slice(%x), slice={[0:2], [0:4]}
  %whole = f32[8,4]{1,0:T(8,128)} all-gather(%part), channel_id=1, GROUPS
  ROOT %out = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) tuple(%next, %whole)
}

%kernel_body (k: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %k = (s32[], bf16[8]{0}) parameter(0)
  %n = s32[] get-tuple-element(%k), index=0
  %y = bf16[8]{0} get-tuple-element(%k), index=1
  %call = bf16[8]{0} custom-call(%y), custom_call_target="__cudnn$fmhaSoftmax"
  ROOT %t = (s32[], bf16[8]{0}) tuple(%n, /*index=1*/%call)
}

%kernel_condition (m: (s32[], bf16[8])) -> pred[] {
  %m = (s32[], bf16[8]{0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (p0: f32[8,4], p1: bf16[8]) -> f32[8,4] {
  %p0 = f32[8,4]{1,0:T(8,128)} parameter(0)
  %p1 = bf16[8]{0} parameter(1)
  %zero = u32[]{:T(128)} constant(0)
  %start = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) tuple(%zero, %p0)
  %loop = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) while(%start), LOOP
  %none = s32[] constant(0)
  %begin = (s32[], bf16[8]{0}) tuple(%none, %p1)
  %calls = (s32[], bf16[8]{0}) while(%begin), CALLS
  ROOT %result = f32[8,4]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def read(groups='replica_groups={{0,1,2,3},{4,5,6,7}}'):
  text = TEXT.replace('GROUPS', groups)
  text = text.replace('LOOP', 'condition=%condition, body=%body')
  return hlo.Program(
    text.replace(
      'CALLS',
      'condition=%kernel_condition, body=%kernel_body, '
      'backend_config={"known_trip_count":{"n":"5"},"other":1}',
    )
  )


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
def test_collectives_have_the_axes_of_their_groups(groups, axes, group):
  (found,) = read(groups).collectives(MESH)
  assert (found.kind, found.axes, found.group) == ('all-gather', axes, group)


@pytest.mark.quick
def test_collectives_in_a_loop_count_as_often_as_it_runs():
  (found,) = read().collectives(MESH)
  assert found.times == 6  # from 0 to 12 in steps of 2
  assert found.payload == 6 * 8 * 4 * 4


@pytest.mark.quick
def test_custom_calls_count_by_the_trip_count_that_xla_knows():
  assert read().custom_calls() == {'__cudnn$fmhaSoftmax': 5}


@pytest.mark.quick
def test_traffic_leaves_out_what_stays_on_the_chip():
  """The slice stays there; the gather writes, and kernels read and write."""
  gather, kernel, part = 8 * 4 * 4, 8 * 2, 2 * 4 * 4
  counting = (4 + 4 + 4) + (4 + 4 + 1)  # the loop adds and compares
  step = part + gather + counting
  assert read().traffic() == 6 * step + 5 * 2 * kernel


@pytest.mark.quick
def test_traffic_of_a_fusion_is_the_part_that_it_takes_and_replaces():
  """A block's parameters and gradients in a stack, also in a fusion of one."""
  found = hlo.Program("""
%inner (stack: f32[24,100], i: s32[]) -> f32[1,100] {
  %stack = f32[24,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %same = f32[24,100]{1,0} bitcast(%stack)
  ROOT %one = f32[1,100]{1,0} dynamic-slice(%same, %i)
}

%outer (all: f32[24,100], n: s32[], sums: f32[24,100]) -> f32[24,100] {
  %all = f32[24,100]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %sums = f32[24,100]{1,0} parameter(2)
  %block = f32[1,100]{1,0} fusion(%all, %n), kind=kLoop, calls=%inner
  ROOT %new = f32[24,100]{1,0} dynamic-update-slice(%sums, %block, %n)
}

ENTRY %main (a: f32[24,100], k: s32[], b: f32[24,100]) -> f32[24,100] {
  %a = f32[24,100]{1,0} parameter(0)
  %k = s32[] parameter(1)
  %b = f32[24,100]{1,0} parameter(2)
  ROOT %result = f32[24,100]{1,0} fusion(%a, %k, %b), kind=kLoop, calls=%outer
}
""")
  assert found.traffic() == 400 + 4 + 400


@pytest.mark.quick
def test_sums_have_the_dtype_of_their_result_and_a_kernel_may_scatter_them():
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
  found = hlo.Program(text).collectives({'data': 8})
  assert sorted((c.kind, c.payload, c.arrays[0].dtype) for c in found) == [
    ('all-reduce', 32, 'f32'),
    ('all-reduce', 64, 'f32'),
    ('reduce-scatter', 32, 'f32'),
  ]


def compiled(function, *arguments, **options):
  text = jax.jit(function, **options).lower(*arguments).compile().as_text()
  return hlo.Program(text)


@pytest.mark.quick
def test_traffic_of_a_product_is_its_operands_and_result():
  x = jnp.zeros((64, 32))
  found = compiled(lambda x: jnp.cos(x @ x.T), x).traffic()
  once = 64 * 32 * 4 + 64 * 64 * 4
  assert once <= found <= once + 4 * 64 * 64 * 4  # cos, and perhaps x twice


def exchanged(case):
  """Bytes by kind and axes, and the program, of an update."""
  program = programs.create(case)
  read = hlo.Program(programs.compile(program).as_text())
  total = collections.Counter()
  for each in read.collectives(dict(program.mesh.shape)):
    total[each.kind, each.axes] += each.payload
  return total, read


@pytest.mark.parametrize('mesh', [dict(data=8), dict(data=1, fsdp=8)], ids=str)
def test_a_scanned_update_exchanges_and_moves_as_an_unrolled_one(mesh):
  """Gathers aside: XLA keeps what an unrolled one has gathered before."""
  case = programs.Case(
    'train', 'ViT-Ti_16', 8, 'float32', (32, 32), mesh=mesh, remat=True
  )
  unrolled, one = exchanged(case)
  scanned, other = exchanged(dataclasses.replace(case, scan=True))
  assert unrolled.keys() == scanned.keys()
  for (kind, axes), size in unrolled.items():
    allowed = 1 if kind == 'all-gather' else 0.02
    assert scanned[kind, axes] == pytest.approx(size, rel=allowed)
  assert other.traffic() == pytest.approx(one.traffic(), rel=0.4)
