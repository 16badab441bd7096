"""Whole runs on images with several labels, and what other verbs make of them.

Each image is black, and has a bright row, a bright column, both or none.
"""

import json

import numpy as np
import pytest
import tiny_models
from PIL import Image
from scipy import special
from student_runs import metrics_of, settings

from vit_jax_repro import jobs
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import restoring
from vit_jax_repro.weights import model_card

NAMES = ('column', 'never', 'row')


def write_images(folder, number, shift=0):
  folder.mkdir(parents=True)
  rows = ['file,label,label']
  for i in range(number):
    pixels, names = np.zeros((8, 8, 3), np.uint8), []
    if i % 2:
      pixels[(i + shift) % 8] = 255
      names.append('row')
    if i // 2 % 2:
      pixels[:, (i + shift) % 8] = 255
      names.append('column')
    Image.fromarray(pixels).save(folder / f'{i}.png')
    rows.append(','.join([f'{i}.png', *names, *[''] * (2 - len(names))]))
  (folder / 'labels.csv').write_text('\n'.join(rows))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('lines')
  write_images(root / 'train', 32)
  write_images(root / 'test', 16, shift=3)
  write_images(root / 'other', 1)
  with open(root / 'other' / 'labels.csv', 'a') as file:
    file.write('\n1.png,never,')
  (root / 'other' / '1.png').write_bytes(b'no image')
  (root / 'test' / '3.png').write_bytes(b'no image')
  return root


def configuration(folder, **keys):
  model = tiny_models.VIT | dict(num_layers=1)
  pp = dict(train='train', test='test', crop=8)
  return settings(
    folder, model=model, loss='sigmoid', mixup_alpha=0.2, pp=pp, **keys
  )


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
  """The workdir of a finished run that kept its best checkpoint."""
  workdir = tmp_path_factory.mktemp('run') / 'run'
  config = configuration(folder, keep_best=True, eval_every=2)
  jobs.train(config, workdir, show=False)
  return workdir


def test_train_writes_the_scores_of_several_labels(folder, run):
  result = json.loads((run / 'result.json').read_text())
  scores = result['multi_label']
  assert scores['empty_classes'] == ['never']
  assert [x['name'] for x in scores['classes']] == list(NAMES)
  assert [x['images'] for x in scores['classes']] == [8, 0, 8]
  evaluated = [
    line['mean_average_precision_test']
    for line in metrics_of(run)
    if 'mean_average_precision_test' in line
  ]
  assert len(evaluated) == 2
  assert evaluated[-1] == scores['mean_average_precision']
  assert result['best_mean_average_precision'] == max(evaluated)
  assert result['best_accuracy'] is None
  assert metrics_of(run)[-1]['f1_micro_test'] == scores['micro']['f1']
  card = model_card.read_card(run / 'model.npz')
  assert card.loss == 'sigmoid' and card.class_names == NAMES


def test_evaluate_measures_what_the_run_measured(folder, run, capsys):
  result = json.loads((run / 'result.json').read_text())
  found = jobs.evaluate(run / 'model.npz', str(folder), batch_size=5)
  scores = result['multi_label']
  assert found.multi_label.mean_average_precision == pytest.approx(
    scores['mean_average_precision'], rel=1e-5
  )
  assert found.multi_label.micro.f1 == scores['micro']['f1']
  assert found.multi_label.num_examples == 16
  assert found.accuracy == result['accuracy'] and found.skipped == 4
  assert len(found.unreadable) == 1


def test_evaluate_leaves_damaged_images_without_a_class(folder, run):
  """The damaged test image has both classes, so no recall is complete."""
  found = jobs.evaluate(run / 'model.npz', str(folder))
  restored = restoring.restore(run / 'model.npz')
  numbers = [i for i in range(16) if i != 3]
  images = [
    restored.read_image(folder / 'test' / f'{i}.png', set()) for i in numbers
  ]
  logits = restored.model.apply(
    {'params': restored.params}, np.stack(images), train=False
  )
  found_rows = (np.asarray(logits)[:, 2] >= 0) & (np.array(numbers) % 2 == 1)
  assert found.multi_label.classes[2].recall == found_rows.sum() / 8


def test_predict_gives_the_sigmoid_of_each_class(folder, run, capsys):
  image = folder / 'train' / '3.png'
  (classes,) = jobs.predict(run / 'model.npz', [image])
  restored = restoring.restore(run / 'model.npz')
  logits = restored.model.apply(
    {'params': restored.params},
    restored.read_image(image, set())[None],
    train=False,
  )
  wanted = special.expit(np.float64(logits[0]))
  assert {label: p for label, _, p in classes} == pytest.approx(
    dict(enumerate(wanted)), rel=1e-5
  )
  assert abs(sum(p for *_, p in classes) - 1) > 0.01
  assert 'do not add up to 100 %' in capsys.readouterr().err


def test_convert_keeps_the_loss_both_ways(folder, run, tmp_path, capsys):
  jobs.convert(run / 'model.npz', tmp_path / 'port', to='transformers')
  config = json.loads((tmp_path / 'port' / 'config.json').read_text())
  assert config['problem_type'] == 'multi_label_classification'
  readme = (tmp_path / 'port' / 'README.md').read_text()
  result = json.loads((run / 'result.json').read_text())['multi_label']
  assert f'mean average precision | {result["mean_average_precision"]!r}' in (
    readme
  )
  assert 'sigmoid' in readme
  jobs.convert(tmp_path / 'port', tmp_path / 'back.npz')
  assert model_card.read_card(tmp_path / 'back.npz').loss == 'sigmoid'
  image = folder / 'train' / '3.png'
  direct, back, port = (
    jobs.predict(path, [image])
    for path in (run / 'model.npz', tmp_path / 'back.npz', tmp_path / 'port')
  )
  assert direct == back == port
  jobs.convert(run / 'model.npz', tmp_path / 'timm', to='timm')
  assert jobs.predict(tmp_path / 'timm', [image]) == direct
  capsys.readouterr()
  jobs.convert(run / 'model.npz', tmp_path / 'bare.safetensors', to='timm')
  assert 'take the sigmoid of its logits' in capsys.readouterr().err


@pytest.mark.parametrize(
  'keys, message',
  [
    ({'loss': 'softmax'}, "config.loss='softmax' learns one; set --config.lo"),
    ({'label_smoothing': 0.1}, 'config.label_smoothing=0.1 spreads'),
    (
      {'objective': 'distillation', 'loss': 'softmax', 'teacher': 'x.npz'},
      "objective='distillation' learns one",
    ),
    ({'pp': dict(train='other', test='test', crop=8)}, "'test' of"),
  ],
)
def test_train_refuses_what_does_not_suit_several_labels(
  folder, tmp_path, keys, message
):
  config = configuration(folder) | keys
  with pytest.raises(InputError) as error:
    jobs.train(config, tmp_path / 'run', show=False)
  assert message in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_evaluate_notes_a_model_that_gives_one_class(
  folder, run, tmp_path, capsys
):
  jobs.convert(run / 'model.npz', tmp_path / 'one.npz')
  card = json.loads((tmp_path / 'one.json').read_text())
  (tmp_path / 'one.json').write_text(json.dumps(card | {'loss': 'softmax'}))
  found = jobs.evaluate(tmp_path / 'one.npz', str(folder))
  assert found.multi_label is None
  assert 'no mean average precision' in capsys.readouterr().err
  assert any('trained to give one' in line for line in found.notes)


def test_predict_refuses_one_output_without_sigmoid(tmp_path):
  path = tmp_path / 'one.npz'
  architecture = tiny_models.spec(1)
  card = dict(architecture=architecture, image_size=(8, 8))
  params = tiny_models.params_of(architecture)
  image = tmp_path / 'x.png'
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
  model_card.save_model(path, params, **card)
  with pytest.raises(InputError, match='one output, of which softmax always'):
    jobs.predict(path, [image])
  model_card.save_model(path, params, loss='sigmoid', **card)
  ((entry,),) = jobs.predict(path, [image])
  assert 0 < entry[2] < 1
