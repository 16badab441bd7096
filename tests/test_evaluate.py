import json

import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS
from run_verb import assert_one_line, run_verb

from vit_jax_repro import evaluate, weights

quick = pytest.mark.quick


def test_evaluate_prints_and_writes_the_accuracy_on_digits(tiny_vit, tmp_path):
  path = tmp_path / 'result.json'
  code, out, err = run_verb(
    'evaluate', f'--weights={tiny_vit}', '--dataset=digits', '--batch_size=7',
    f'--json={path}',
  )  # fmt: skip
  assert (code, err) == (0, '')
  result = json.loads(path.read_text())
  assert result['num_examples'] == 360
  assert result['accuracy'] == result['correct'] / 360
  assert result['image_size'] == [8, 8] and result['split'] == 'test'
  assert f'{result["accuracy"]:.2%}' in out
  assert f'{result["top5_accuracy"]:.2%}' in out
  assert '360, as 8x8 pixels (vit_jax)' in out and 'digits' in out


def test_evaluate_reads_a_folder_of_photographs(tmp_path):
  path = tmp_path / 'm.npz'
  params = tiny_models.params_of(tiny_models.spec(1000))
  bias = np.zeros(1000)
  bias[985] = 9  # daisy
  weights.save(path, tiny_models.with_head(params, bias=bias))
  for name, class_name in [('china', 'n02980441'), ('flower', 'n11939491')]:
    target = tmp_path / 'photos' / 'val' / class_name / f'{name}.JPEG'
    target.parent.mkdir(parents=True)
    target.write_bytes(PHOTOGRAPHS[name].read_bytes())
  code, out, err = run_verb(
    'evaluate', f'--weights={path}', f'--dataset={tmp_path / "photos"}',
    '--split=val', '--image_size=16x24', '--preprocessing=bit',
  )  # fmt: skip
  assert code == 0 and '50.00%  (1 correct)' in out
  assert '2, as 16x24 pixels (bit)' in out
  assert err.startswith('note: the model has 1000 classes')
  assert err.count('\n') == 1


def test_evaluate_prints_and_writes_few_shot_accuracies(tiny_vit, tmp_path):
  path = tmp_path / 'few.json'
  code, out, err = run_verb(
    'evaluate', f'--weights={tiny_vit}', '--dataset=digits', '--shots=1,3',
    '--seeds=2', '--l2=4', '--train_split=train[:200]', '--split=test[:50]',
    '--preprocessing=vit_jax', f'--json={path}',
  )  # fmt: skip
  assert (code, err) == (0, '')
  result = json.loads(path.read_text())
  assert (result['seeds'], result['l2'], result['num_examples']) == (2, 4, 50)
  assert (result['train_split'], result['split']) == (
    'train[:200]',
    'test[:50]',
  )
  for row, shots in zip(result['results'], (1, 3), strict=True):
    assert row['shots'] == shots and len(row['accuracies']) == 2
    line = f'{row["mean"]:.2%} +- {row["spread"]:.2%}'
    assert f'{shots}-shot accuracy' in out and line in out
  assert 'l2 4, 2 seeds' in out and '16 features' in out


@quick
def test_evaluate_refuses_wrong_values_in_one_line(tiny_vit, tmp_path):
  given = {'weights': tiny_vit, 'dataset': 'digits'}
  for change, wanted in [
    ({'weights': None}, ['--weights must be given']),
    ({'dataset': None}, ['--dataset must be given']),
    ({'weights': 'no.npz'}, ['no.npz']),
    ({'weights': tmp_path}, [str(tmp_path)]),
    ({'weights': PHOTOGRAPHS['china']}, ['china.jpg']),
    ({'dataset': 'digitz'}, ["'digitz'", "'digits'", 'ROOT/SPLIT/CLASS']),
    ({'split': 'val'}, ["'val'", "['test', 'train']"]),
    ({'model': 'ViT-X_16'}, ['ViT-X_16', 'ViT-B_16']),
    ({'preprocessing': 'caffe'}, ["'caffe'", "['big_vision', 'bit',"]),
    ({'image_size': '12y'}, ['--image_size=12y']),
    ({'batch_size': 0}, ['--batch_size=0']),
    ({'json': tmp_path / 'no' / 'x.json'}, ['x.json', 'no folder']),
    ({'shots': '1,0', 'split': 'test[:9]'}, ['shots=[1, 0]', 'at least 1']),
    ({'shots': '1', 'l2': '-2'}, ['l2=-2.0 must be a positive number']),
  ]:
    values = {**given, **change}
    arguments = [f'--{k}={v}' for k, v in values.items() if v is not None]
    assert_one_line(run_in_process(arguments), *wanted)


@quick
def test_evaluate_exits_with_2_on_wrong_usage(tiny_vit):
  for arguments in [
    [],
    ['--dataset=digits'],
    [f'--weights={tiny_vit}'],
    ['--weights=', '--dataset=digits'],
    [f'--weights={tiny_vit}', '--dataset=digits', '--json='],
    [f'--weights={tiny_vit}', '--dataset=digits', '--image_size=big'],
    [f'--weights={tiny_vit}', '--dataset=digits', '--batch_size=0'],
    [f'--weights={tiny_vit}', '--dataset=digits', '--no_such_flag=1'],
    [f'--weights={tiny_vit}', '--dataset=digits', '--shots=one'],
    [f'--weights={tiny_vit}', '--dataset=digits', '--shots='],
    [f'--weights={tiny_vit}', '--dataset=digits', '--shots=1', '--seeds=0'],
    [f'--weights={tiny_vit}', '--dataset=digits', '--seeds=2'],
    [f'--weights={tiny_vit}', '--dataset=digits', '--l2=2'],
  ]:
    assert run_in_process(arguments)[0] == 2


@quick
def test_evaluate_replaces_no_input_by_its_result(tmp_path):
  path = tiny_models.save_run(tmp_path / 'model.npz')
  before = {p: p.read_bytes() for p in tmp_path.iterdir()}
  for target in before:
    arguments = [f'--weights={path}', '--dataset=digits', f'--json={target}']
    assert_one_line(run_in_process(arguments), 'it would replace', target.name)
  assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@quick
def test_evaluate_names_shots_if_only_its_other_flags_are_given(tiny_vit):
  given = [f'--weights={tiny_vit}', '--dataset=digits', '--l2=2', '--seeds=3']
  answer = run_in_process(given)
  assert_one_line(answer, '--seeds and --l2', 'needs --shots; give it')


def run_in_process(arguments):
  """Returns the answer of `run_verb`, without starting a process."""
  import contextlib
  import io

  out, err = io.StringIO(), io.StringIO()
  with (
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
    pytest.raises(SystemExit) as caught,
  ):
    evaluate.main(['evaluate', *arguments])
  return caught.value.code, out.getvalue(), err.getvalue()


def test_evaluate_fails_in_one_line_as_a_process(tiny_vit):
  answer = run_verb('evaluate', f'--weights={tiny_vit}', '--dataset=digitz')
  assert_one_line(answer, "evaluate: unknown data set 'digitz'")
