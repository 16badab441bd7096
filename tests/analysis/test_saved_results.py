"""Reading of files written by runs, studies and benchmarks."""

import dataclasses
import json

import numpy as np
import pytest

from vit_jax_repro.analysis import saved_results
from vit_jax_repro.analysis.memory import Memory
from vit_jax_repro.benchmarks import compiling, programs, speed
from vit_jax_repro.studies import outcome, report

pytestmark = pytest.mark.quick


def test_curves_ignore_an_incomplete_last_line(tmp_path):
  lines = [
    {'step': 1, 'train_loss': 2.5, 'lr': 0.1},
    {'step': 2, 'train_loss': 2.0, 'accuracy_test': 0.5},
    {'step': 3, 'train_loss': 1.5},
    {'step': 4, 'train_loss': 1.0, 'accuracy_test': 0.75, 'accuracy_real': 1},
  ]
  text = '\n'.join(map(json.dumps, lines)) + '\n{"step": 5, "train_l'
  (tmp_path / 'metrics.jsonl').write_text(text)
  found = saved_results.curves(tmp_path)
  assert found.name == tmp_path.name
  assert found.steps.tolist() == [1, 2, 3, 4]
  assert found.losses.tolist() == [2.5, 2, 1.5, 1]
  arrays = found.arrays()
  assert arrays['test_steps'].tolist() == [2, 4]
  assert arrays['test_accuracies'].tolist() == [0.5, 0.75]
  assert arrays['real_steps'].tolist() == [4] and len(arrays) == 6
  assert found.dataset == ''


def test_curves_name_the_data_set_of_the_config(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "train_loss": 2}')
  for content, wanted in (
    ('{"dataset": "cifar10"}', 'cifar10'),
    ('{"dataset": "/data/photos/"}', 'photos'),
    ('{"data', ''),
    ('{"dataset": null}', ''),
  ):
    (tmp_path / 'config.json').write_text(content)
    assert saved_results.curves(tmp_path).dataset == wanted


def test_study_reads_sides_accuracies_and_claims(tmp_path):
  vit, bit = [0.5, 0.6, 0.55], [0.9, 1, 0.95]
  sides = outcome.side('ViT', 0.1, vit), outcome.side('BiT', 1, bit)
  claim = outcome.Claim('BiT is better', 'ViT 4.3', {'BiT': 1, 'ViT': -1})
  result = report.StudyResult(
    'data',
    'A title',
    'short',
    3,
    sides,
    (outcome.judge(claim, sides),),
    {},
    'digits',
    'test',
    '',
  )
  path = tmp_path / 'study.json'
  path.write_text(json.dumps(dataclasses.asdict(result)))
  found = saved_results.study(path)
  assert (found.title, found.size) == ('A title', 'short')
  assert found.sides == ('ViT', 'BiT')
  assert found.accuracies.tolist() == [vit, bit]
  assert found.claims == ('BiT is better: holds',)
  assert saved_results.study(tmp_path).title == 'A title'


def test_study_refuses_verdicts_of_the_earlier_rule(tmp_path):
  """Kind of fault: a verdict of another rule in a new figure."""
  old = {
    'title': 'A title',
    'size': 'digits',
    'sides': [{'name': 'ViT', 'accuracies': [0.5, 0.6, 0.7]}],
    'judgements': [
      {'claim': 'c', 'source': 's', 'difference': 0.1, 'spread': 0.0,
       'verdict': 'holds'}
    ],
  }  # fmt: skip
  path = tmp_path / 'study.json'
  path.write_text(json.dumps(old))
  with pytest.raises(ValueError, match='earlier version; repeat the command'):
    saved_results.study(path)
  path.write_text(json.dumps(old | {'judgements': []}))
  assert saved_results.study(path).claims == ()


def write(path, *rows):
  """Writes a benchmark's result; returns the path."""
  rows = [dataclasses.asdict(row) for row in rows]
  path.write_text(json.dumps({'rows': rows, 'date': '2026-11-21'}))
  return path


def case(kind, model='ViT-S_16', size=224):
  return programs.Case(kind, model, 8, 'float32', (size, size))


def test_measured_joins_speeds_of_several_files(tmp_path):
  def row(size, contender, **more):
    return speed.Speed(case('infer', size=size), contender, **more)

  paths = [
    write(
      tmp_path / f'{size}.json',
      row(size, 'plain', seconds=2, spread=(1, 4), images_per_sec=size),
      row(size, 'scan', error='no memory'),
    )
    for size in (224, 384)
  ]
  found = saved_results.measured(paths)
  assert found.quantity == 'images per second of a device'
  assert found.shared == 'forward passes, ViT-S_16, plain, batch 8, float32'
  assert found.labels == ('224x224 pixels', '384x384 pixels')
  assert found.series == ('', '') and found.sides.tolist() == [224, 384]
  assert found.values.tolist() == [224, 384]
  # Half the seconds of a step are twice the images per second.
  assert found.low.tolist() == [112, 192] and found.high.tolist() == [448, 768]


def test_measured_prefers_the_largest_batch_to_the_memory(tmp_path):
  """The files have both; a largest batch of 0 means that no batch fits."""
  rows = [
    compiling.Fit(case('infer', size=side), 'plain', Memory(1, 2, 3, 4), 9, n)
    for side, n in ((224, 64), (384, 0))
  ]
  found = saved_results.measured([write(tmp_path / 'a.json', *rows)])
  assert found.quantity == 'largest batch of a device (images)'
  assert found.values.tolist() == [64, 0] and found.sides.tolist() == [224, 384]
  assert 'batch' not in found.shared and 'ViT-S_16' in found.shared


def test_measured_reads_memory_and_rejects_mixed_quantities(tmp_path):
  gib = 2**30
  rows = [
    compiling.Fit(case('train', model), 'plain', Memory(*parts), None, None)
    for model, parts in (('S', (gib, 0, gib, 0)), ('B', (gib, gib, gib, gib)))
  ]
  found = saved_results.measured([write(tmp_path / 'a.json', *rows)])
  assert found.quantity == 'memory of a device (GiB)'
  assert found.labels == ('S', 'B') and found.values.tolist() == [2, 4]
  np.testing.assert_array_equal(found.low, found.high)
  speeds = speed.Speed(case('train'), 'plain', 1, (1, 1), 5)
  with pytest.raises(ValueError, match='images per second of a device and mem'):
    saved_results.measured(
      [tmp_path / 'a.json', write(tmp_path / 'b.json', speeds)]
    )


def test_readers_reject_other_files_in_one_line(tmp_path):
  broken, other = tmp_path / 'broken.json', tmp_path / 'other.json'
  broken.write_text('{"rows": [')
  other.write_text('{"rows": [{"case": 1}], "sides": [{"name": "a"}]}')
  failed = write(
    tmp_path / 'failed.json', speed.Speed(case('infer'), 'plain', error='full')
  )
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n[]\n')
  for call, wanted in (
    (
      lambda: saved_results.curves(tmp_path / 'no'),
      'metrics.jsonl; give the workdir',
    ),
    (
      lambda: saved_results.curves(tmp_path),
      'has no line with a step and a train_l',
    ),
    (lambda: saved_results.study(broken), 'it is not valid JSON'),
    (lambda: saved_results.study(other), 'other.json is no result of a study'),
    (
      lambda: saved_results.measured([other]),
      'other.json is no result of `benchmark',
    ),
    (
      lambda: saved_results.measured([failed]),
      'failed.json: nothing was measured',
    ),
    (lambda: saved_results.study(tmp_path / 'no.json'), 'no.json'),
  ):
    with pytest.raises((ValueError, OSError)) as error:
      call()
    assert wanted in str(error.value) and '\n' not in str(error.value)


def forecast(target, chips, seconds, **changes):
  """Returns a row of a forecast of ViT-B/16, with changes."""
  bound = None if seconds is None else dict(
    seconds=seconds, limited_by='compute'
  )  # fmt: skip
  return dict(
    case=dict(
      model='ViT-B_16', dtype='bfloat16', image_size=[224, 224],
      batch_size=16 * chips, target=target,
    ),
    num_chips=chips,
    fits=True,
    analysis=dict(bound=bound),
  ) | changes  # fmt: skip


def test_scaling_leaves_out_programs_above_the_memory(tmp_path):
  path = tmp_path / 'a.json'
  rows = [
    forecast('v4:2x2x1', 4, 0.1),
    forecast('v4:2x2x2', 8, 0.2),
    forecast('v4:2x2x4', 16, 0.2, fits=False),
    forecast('v4:2x4x4', 32, None),
  ]
  path.write_text(json.dumps({'rows': rows}))
  found = saved_results.scaling([path])
  assert found.chips.tolist() == [4, 8]
  assert found.rates.tolist() == [160, 80]
  assert found.series == ('ViT-B_16, v4',) * 2
  assert found.shared == 'bfloat16, 224x224 pixels, 16 images of a chip'
  path.write_text(json.dumps({'rows': rows[2:]}))
  with pytest.raises(ValueError, match='no program has a bound'):
    saved_results.scaling([path])
  path.write_text(json.dumps({'rows': [{}]}))
  with pytest.raises(ValueError, match='is no result of'):
    saved_results.scaling([path])


def test_measured_adds_the_parts_of_memory_in_old_files(tmp_path):
  old = dict(arguments=2**30, outputs=0, temporaries=2**30, program=0)
  new = old | dict(is_refused=False, total=2**31)
  for memory in (old, new):
    row = dict(
      case=dict(
        kind='train', model='S', batch_size=1, dtype='float32',
        image_size=[8, 8],
      ),
      variant='plain', memory=memory, limit=None, largest_batch=None,
    )  # fmt: skip
    path = tmp_path / 'a.json'
    path.write_text(json.dumps({'rows': [row]}))
    assert saved_results.measured([path]).values.tolist() == [2.0]
