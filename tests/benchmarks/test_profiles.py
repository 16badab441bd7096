"""Profiles: names of parts, and shares of the time."""

import time

import pytest

from vit_jax_repro.benchmarks import profiles, programs


@pytest.mark.quick
@pytest.mark.parametrize(
  'op_name, part',
  [
    (
      'jit(train_step)/jvp(ViT)/Transformer/encoderblock_11/MlpBlock_0/Dense_0/'
      'dot_general',
      'Transformer/encoderblock/MlpBlock/Dense: dot_general',
    ),
    (
      'jit(train_step)/transpose(jvp(ViT))/head/dot_general',
      'backward head: dot_general',
    ),
    (
      'jit(f)/transpose(jvp(ViT))/Transformer/encoderblock_0/LayerNorm_1/'
      'Transformer/encoderblock_0/LayerNorm_1/reduce_sum',
      'backward Transformer/encoderblock/LayerNorm: reduce_sum',
    ),
    (
      'jit(train_step)/jvp(ViT)/Transformer/encoderblock/MlpBlock_0/Dense_1/'
      'shard_map/Dense_1/dot_general',
      'Transformer/encoderblock/MlpBlock/Dense: dot_general',
    ),
    (
      'jit(train_step)/transpose(jvp(ViT))/head/shard_map/transpose(jvp(head))/'
      'dot_general',
      'backward head: dot_general',
    ),
    ('jit(train_step)/add', 'add'),
    (
      'jit(train_step)/jvp(ViT)/Transformer/while/body/encoderblock/add',
      'Transformer/encoderblock: add',
    ),
  ],
)
def test_part_of_names_modules_and_operation(op_name, part):
  assert profiles.part_of(op_name) == part


@pytest.mark.quick
@pytest.mark.parametrize(
  'plane, line, counts',
  [
    ('/device:TPU:0', 'XLA Ops', True),
    ('/device:TPU:0', 'XLA Modules', False),
    ('/device:GPU:0', 'Stream #13(Compute)', True),
    ('/device:GPU:0', 'XLA Ops', False),
    ('/host:CPU', 'tf_XLAEigen/1', True),
    ('/host:CPU', 'python', False),
  ],
)
def test_is_work_counts_each_operation_once(plane, line, counts):
  assert profiles._is_work(plane, line) is counts


def test_profile_divides_all_time_of_a_forward_pass(tmp_path, monkeypatch):
  create = programs.create_model
  monkeypatch.setattr(
    programs, 'create_model', lambda case: create(case).clone(num_layers=2)
  )
  case = programs.Case('infer', 'ViT-Ti_16', 8, 'float32', (64, 64))
  rows = profiles.profile(case, 'plain', number=2, trace=str(tmp_path))
  assert sum(row.share for row in rows) == pytest.approx(1)
  assert rows == sorted(rows, key=lambda row: -row.seconds)
  names = [row.name for row in rows]
  assert any('Transformer/encoderblock/MlpBlock' in name for name in names)
  assert all(row.seconds > 0 for row in rows)
  time.sleep(1)  # JAX names the folder of a trace by the second
  again = profiles.profile(case, 'plain', number=1, trace=str(tmp_path))
  assert {row.name for row in again} == set(names)
  assert len(list(tmp_path.rglob('*.xplane.pb'))) == 2
