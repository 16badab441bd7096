import json

import pytest
from run_verb import assert_one_line, run_verb

from vit_jax_repro import benchmark
from vit_jax_repro.benchmarks import input as input_benchmark


def test_data(tmp_path):
  path = tmp_path / 'result.json'
  code, out, _ = run_verb(
    'benchmark', 'data', '--image_size=32', '--batch_sizes=4', '--images=6',
    '--rounds=1', '--batches=2', f'--json={path}',
  )  # fmt: skip
  assert code == 0
  result = json.loads(path.read_text())
  rows = result['pipelines']
  assert [row['name'] for row in rows] == list(input_benchmark.CONTENDERS)
  for row in rows:
    assert 0 < row['slowest'] <= row['images_per_sec'] <= row['fastest']
    assert f'│ {row["name"]} ' in out
  assert rows[0]['over_decoded'] == 1
  assert result['files']['number'] == 6 and result['versions']['jax']
  assert '6 JPEG files of 500x375 pixels, quality 90' in ' '.join(out.split())


@pytest.mark.quick
@pytest.mark.parametrize(
  'arguments, says',
  [
    ([], "what to do is ''; choose one of train,"),
    (['date'], "what to do is 'date'; choose one of"),
    (['data', 'data'], "data does not take 'data': data"),
    (['data', '--image_size=x'], '--image_size=x must be pixels'),
    (['data', '--rounds=0'], '--rounds'),
    (['data', '--json=no/such/folder.json'], 'no/such'),
  ],
)
def test_wrong_values_are_one_line(arguments, says):
  assert_one_line(run_verb('benchmark', *arguments), says)


@pytest.mark.quick
def test_flags_have_help():
  flags = benchmark.command_flags()
  assert all(flags[name].help for name in flags)
