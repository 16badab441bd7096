import json
import math

import pytest
from run_verb import assert_one_line, run_verb

from vit_jax_repro import benchmark
from vit_jax_repro.benchmarks import input as input_benchmark


def test_data_measures_every_pipeline(tmp_path):
  path = tmp_path / 'result.json'
  code, out, _ = run_verb(
    'benchmark', 'data', '--image_size=32', '--batch_sizes=4', '--images=6',
    '--rounds=1', '--batches=2', '--photograph_size=90x700', f'--json={path}',
  )  # fmt: skip
  assert code == 0
  result = json.loads(path.read_text())
  rows = result['pipelines']
  assert [row['name'] for row in rows] == list(input_benchmark.CONTENDERS)
  for row in rows:
    assert 0 < row['slowest'] <= row['images_per_sec'] <= row['fastest']
    assert row['cpu_ms'] > 0
    assert row['name'] in out
  assert rows[0]['over_decoded'] == 1
  assert result['files']['number'] == 6 and result['versions']['jax']
  assert '6 JPEG files of 700x90 pixels, quality 90' in ' '.join(out.split())


def test_data_of_a_target_names_the_cores(tmp_path):
  """ViT-Ti_16 at 32 pixels has 5 tokens; its peak follows from the table."""
  path = tmp_path / 'result.json'
  code, out, _ = run_verb(
    'benchmark', 'data', '--target=v5e:2x4,h100', '--models=ViT-Ti_16',
    '--image_size=32', f'--json={path}',
  )  # fmt: skip
  assert code == 0
  eight, one = json.loads(path.read_text())['cores']
  assert eight['target'] == 'v5e:2x4' and one['target'] == 'h100'
  ratio = eight['images_per_sec'] / one['images_per_sec']
  assert ratio == pytest.approx(8 * 197 / 989.4, rel=1e-3)
  first, second = out.splitlines()
  cores = math.ceil(eight['images_per_sec'] / eight['core_images_per_sec'])
  assert first.startswith('ViT-Ti_16 at the peak of v5e:2x4 in bfloat16 needs ')
  assert first.endswith(f': {cores:,} cores') and ' of h100 in ' in second


TINY = ('--models=ViT-Ti_16', '--image_size=32', '--dtypes=float32')


def result_of(tmp_path, *arguments):
  """Returns the rows in the JSON of a command, and its standard output."""
  path = tmp_path / 'result.json'
  code, out, err = run_verb('benchmark', *arguments, *TINY, f'--json={path}')
  assert code == 0, err
  result = json.loads(path.read_text())
  assert result['versions']['jax'] and result['date'][:2] == '20'
  return result['rows'], out


def test_infer_measures_jax_and_pytorch(tmp_path):
  rows, out = result_of(
    tmp_path, 'infer', '--batch_sizes=8', '--rounds=1', '--seconds=0.01',
    '--against=torch', '--nocompiled', '--peak_tflops=1', '--mesh=data=8',
  )  # fmt: skip
  ours, torch = rows
  assert ours['contender'] == 'plain' and ours['devices'] == 8
  assert torch['contender'] == 'transformers eager' and torch['devices'] == 1
  for row in rows:
    assert row['error'] is None and row['utilisation'] > 0
    assert f'│ {row["contender"]} ' in out
  assert 'infer ViT-Ti_16, batch 8, float32, 32x32' in ' '.join(out.split())


def test_compile_and_memory_have_a_row_per_batch_size(tmp_path):
  rows, out = result_of(
    tmp_path, 'compile', '--batch_sizes=8,16', '--rounds=1', '--inference',
    '--variants=scan',
  )  # fmt: skip
  assert [row['case']['batch_size'] for row in rows] == [8, 16]
  assert 'infer ViT-Ti_16, batch 16' in out
  rows, out = result_of(
    tmp_path, 'memory', '--batch_sizes=8', '--variants=scan', '--inference',
    '--memory_limit_gb=0.03', '--largest_batch',
  )  # fmt: skip
  assert rows[0]['limit'] == int(0.03 * 2**30) and rows[0]['largest_batch'] >= 8
  assert f' {rows[0]["largest_batch"]} ' in out


def test_profile_writes_a_trace_and_shares_of_time(tmp_path):
  rows, out = result_of(
    tmp_path, 'profile', '--batch_sizes=8', '--inference', '--rounds=1',
    f'--trace={tmp_path / "trace"}',
  )  # fmt: skip
  assert sum(row['share'] for row in rows) == pytest.approx(1)
  assert 'encoderblock/MlpBlock' in out
  assert list((tmp_path / 'trace').rglob('*.xplane.pb'))


def test_infer_fails_if_no_row_is_measured(tmp_path):
  """The table gives the reason; the exit code is 1."""
  code, out, err = run_verb(
    'benchmark', 'infer', *TINY, '--batch_sizes=8', '--mesh=data=3',
  )  # fmt: skip
  assert code == 1 and 'does not cover 8 devices' in out
  assert err.splitlines()[-1].startswith('benchmark: nothing could be measured')


@pytest.mark.quick
@pytest.mark.parametrize(
  'arguments, says',
  [
    ([], 'no command given; choose from train,'),
    (['date'], "unknown command 'date'; did you mean 'data'? choose"),
    (['data', 'data'], "data does not take 'data'; usage: data"),
    (['data', '--image_size=x'], '--image_size=x must be pixels'),
    (['data', '--photograph_size=x'], '--photograph_size=x must be pixels'),
    (['data', '--rounds=0'], '--rounds'),
    (['data', '--batch_sizes=1,2'], '--batch_sizes=1,2: data takes one'),
    (['data', '--models=b16'], '--models needs --target; give one'),
    (['data', '--target=x9'], 'unknown --target=x9'),
    (['data', '--mesh=data=8'], 'data does not take --mesh'),
    (['train', '--models=b17'], "unknown model 'b17'"),
    (['train', '--batch_sizes=8,0'], '=8,0 must be comma-separated'),
    (['train', '--dtypes=int8'], "--dtypes=int8: unknown 'int8'; choose from"),
    (['train', '--variants=fast'], "unknown 'fast'; choose from plain, scan"),
    (['train', '--models=BiT-M-R50x1', '--variants=scan'], 'no equal blocks'),
    (['train', '--peak_tflops=0'], '--peak_tflops=0.0 must be above 0'),
    (['train', '--against=jax'], 'unknown --against=jax; choose torch'),
    (['memory', '--mesh=8'], '--mesh=8 must be sizes of data, fsdp, model'),
    (['profile', '--batch_sizes=1,2'], 'profile takes one model'),
    (['data', '--json=no/such/folder.json'], 'no/such'),
  ],
)
def test_benchmark_refuses_wrong_values_in_one_line(arguments, says):
  assert_one_line(run_verb('benchmark', *arguments), says)


@pytest.mark.quick
def test_command_flags_have_help():
  flags = benchmark.command_flags()
  assert all(flags[name].help for name in flags)
