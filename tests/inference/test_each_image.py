"""What a model predicted for each image of a data set."""

import csv
import json
import os

import look
import numpy as np
import pytest
import tiny_models
from run_verb import assert_one_line, run_verb
from training_sets import write_folder

from vit_jax_repro import jobs, models, weights
from vit_jax_repro.analysis import confusion
from vit_jax_repro.data import preprocess
from vit_jax_repro.data.batches import NO_CLASS
from vit_jax_repro.inference import each_image

DAMAGED = 4  # every fourth image of the folder below


def collected(**columns):
  """Returns an EachImage of three classes, for a model of four."""
  collector = each_image.Collector()
  rows = {name: np.array(column) for name, column in columns.items()}
  size = len(rows['place'])
  rows |= {'counted': np.arange(size) < size - 1, 'probability': np.ones(size)}
  collector.add(rows)
  # The classes a and c of the data set are one class of the model.
  labels = np.array([1, NO_CLASS, 1, 2])
  return collector.result('abcd', ('w', 'x', 'y', 'z'), labels)


@pytest.fixture
def found():
  return collected(
    place=[5, 0, 3, 1, 4, 2, 9],  # the last one is padding
    own_label=[0, 0, 1, 2, 2, 0, 0],
    predicted=[3, 1, 1, 1, 0, 2, 0],
    right=[False, True, False, True, False, False, True],
    readable=[True, True, True, True, False, True, True],
  )


@pytest.mark.quick
def test_confusion_counts_each_image_once(found):
  matrix, columns = found.confusion()
  assert columns == ('a', 'b', 'c', 'd', 'another class', 'unreadable')
  assert matrix.tolist() == [
    [1, 0, 0, 1, 1, 0],
    [1, 0, 0, 0, 0, 0],  # class 1 of the model is a, the first of a and c
    [0, 0, 1, 0, 0, 1],
    [0, 0, 0, 0, 0, 0],
  ]


@pytest.mark.quick
def test_per_class_counts_wrong_classes(found):
  rows = [
    (c.name, c.num_examples, c.correct, c.accuracy, c.taken_for)
    for c in found.per_class()
  ]
  assert rows == [
    ('a', 3, 1, 1 / 3, 'y'),
    ('b', 1, 0, 0.0, 'x'),
    ('c', 2, 1, 0.5, None),  # an unreadable image is taken for nothing
    ('d', 0, 0, None, None),
  ]
  mean = each_image.mean_accuracy(found.per_class())
  assert mean == pytest.approx((1 / 3 + 0 + 1 / 2) / 3)


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  """A folder of digits, some of them damaged, and a class of its own."""
  root = tmp_path_factory.mktemp('digits')
  write_folder(root, 40)
  (root / 'train' / 'digit 9').rename(root / 'train' / 'other')
  for path in sorted(root.rglob('*.png'))[::DAMAGED]:
    path.write_bytes(b'no image')
  return root


@pytest.fixture(scope='module')
def model(tmp_path_factory, digits):
  """A model of the digits and of two classes that the folder lacks.

  Each class has a mean logit of 0 over the images, so that most are predicted.
  """
  names = [f'digit {i}' for i in range(9)] + ['eleven', 'twelve']
  path = tmp_path_factory.mktemp('model') / 'model.npz'
  architecture = tiny_models.spec(11)
  params = tiny_models.params_of(architecture)
  images = [
    preprocess.read_image(image, preprocessing='vit_jax', image_size=8)
    for place, image in enumerate(sorted(digits.rglob('*.png')))
    if place % DAMAGED
  ]
  logits = models.create(architecture).apply(
    {'params': params}, np.stack(images), train=False
  )
  params['head']['bias'] -= np.mean(logits, axis=0)
  tiny_models.model_card.save_model(
    path,
    params,
    architecture=architecture,
    class_names=tuple(names),
    image_size=(8, 8),
    preprocessing='vit_jax',
  )
  return path


def by_hand(model, digits, competing=None):
  """Returns {image: (class, predicted class or None)} by `predict`."""
  answers = {}
  for found in jobs.predict_each(model, sorted(digits.rglob('*.png')), top=11):
    best = [n for _, n, _ in found.classes if not competing or n in competing]
    truth = os.path.basename(os.path.dirname(found.image))
    answers[found.image] = truth, best[0] if best else None
  return answers


@pytest.mark.parametrize('among', ['model', 'dataset'])
def test_evaluate_writes_what_predict_predicts(among, model, digits, tmp_path):
  """By class, as a matrix, and the wrong images, in files and in JSON."""
  code, out, err = run_verb(
    'evaluate', f'--weights={model}', f'--dataset={digits}', '--split=train',
    '--batch_size=16', f'--among={among}', '--per_class',
    f'--confusion={tmp_path}/c.csv', f'--wrong={tmp_path}/w.csv',
    f'--json={tmp_path}/r.json',
  )  # fmt: skip
  assert code == 0, err
  assert ('all of them compete (--among=dataset: ' in err) == (among == 'model')
  names = [f'digit {i}' for i in range(9)]
  answers = by_hand(model, digits, names if among == 'dataset' else None)
  wrong = {p: x for p, x in answers.items() if x[0] != x[1]}
  found = {best for _, best in answers.values()}
  assert len(found) > 5
  assert bool(found & {'eleven', 'twelve'}) == (among == 'model')
  with open(tmp_path / 'w.csv', encoding='utf-8', newline='') as file:
    found = {row['image']: row for row in csv.DictReader(file)}
  assert [*found] == [*wrong]
  for path, (truth, best) in wrong.items():
    assert found[path]['class'] == truth
    assert found[path]['predicted'] == (best or 'unreadable')
  result = json.loads((tmp_path / 'r.json').read_text())
  assert result['correct'] == len(answers) - len(wrong) > 0
  assert result['num_competing'] == (11 if among == 'model' else 9)
  assert ('of which 9 compete' in out) == (among == 'dataset')
  for row in result['per_class']:
    mine = [best for truth, best in answers.values() if truth == row['name']]
    assert row['num_examples'] == len(mine)
    assert row['correct'] == mine.count(row['name'])
    assert f'{row["accuracy"]:.2%}' in out
  with open(tmp_path / 'c.csv', encoding='utf-8', newline='') as file:
    for row in csv.DictReader(file):
      mine = [best for truth, best in answers.values() if truth == row['class']]
      assert int(row['unreadable']) == mine.count(None)
      for name in names:
        assert int(row[name]) == mine.count(name)
      others = [best for best in mine if best and best not in names]
      assert int(row['another class']) == len(others)


@pytest.mark.quick
def test_evaluate_leaves_out_top_5_of_few_classes(tmp_path, capsys):
  """It would be 100 %, whatever the model predicts."""
  from vit_jax_repro import evaluate

  write_folder(tmp_path, 12)
  for number, size in ((5, None), (6, float)):
    architecture = tiny_models.spec(number)
    path = tmp_path / f'{number}.npz'
    weights.save(path, tiny_models.params_of(architecture))
    for name in ('digit 6', 'digit 7', 'digit 8', 'digit 9', 'digit 5'):
      folder = tmp_path / 'train' / name
      if folder.exists():
        folder.rename(tmp_path / name)
    result = jobs.evaluate(
      path, str(tmp_path), split='train', labels='as_is', image_size=8
    )
    assert size is None or isinstance(result.top5_accuracy, size)
    assert (result.top5_accuracy is None) == (number == 5)
    evaluate.show(result)
    assert ('top-5' in capsys.readouterr().out) == (number == 6)


@pytest.mark.quick
def test_write_draws_the_matrix(found, tmp_path):
  confusion.write(tmp_path / 'c.png', *found.confusion())
  look.assert_drawn(tmp_path / 'c.png')


@pytest.mark.quick
@pytest.mark.parametrize(
  'flags, wanted',
  [
    (['--confusion=c.txt'], "--confusion='c.txt' must end in .csv or .png"),
    (
      ['--shots=1', '--per_class', '--among=dataset'],
      '--among, --per_class is',
    ),
    (['--wrong=x', '--json=x'], 'it would replace'),
  ],
)
def test_evaluate_refuses_wrong_flags_in_one_line(
  flags, wanted, model, tmp_path, monkeypatch, capsys
):
  from vit_jax_repro import evaluate

  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as caught:
    evaluate.main(['', f'--weights={model}', '--dataset=digits', *flags])
  assert_one_line((caught.value.code, *capsys.readouterr()), wanted)
  assert not [*tmp_path.iterdir()]


def test_evaluate_replaces_no_image_and_no_label(model, tmp_path, capsys):
  from vit_jax_repro import evaluate

  data = tmp_path / 'data'
  data.mkdir()
  (tmp_path / 'link.csv').symlink_to(data / '1.png')
  for name in ('1.png', 'labels.csv'):
    (data / name).write_text('not to lose')
  for name in ('data/1.png', 'data/labels.csv', 'link.csv'):
    with pytest.raises(SystemExit) as caught:
      evaluate.main([
        '', f'--weights={model}', f'--dataset={data}',
        f'--wrong={tmp_path / name}',
      ])  # fmt: skip
    answer = caught.value.code, *capsys.readouterr()
    assert_one_line(answer, 'it would replace', name)
  assert {path.read_text() for path in data.iterdir()} == {'not to lose'}


def test_show_classes_escapes_what_cannot_be_printed(capsys):
  from vit_jax_repro import evaluate

  row = each_image.ClassAccuracy(0, 'a\nb', 2, 1, 0.5, '\x1b[31m', 1)
  evaluate.show_classes([row])
  out = capsys.readouterr().out
  assert r'a\nb' in out and r'\x1b[31m (1)' in out
