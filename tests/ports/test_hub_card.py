"""The model card of a port's folder, as huggingface_hub reads it back."""

import json
import os

import huggingface_hub
import pytest
import tiny_models

from vit_jax_repro.ports import converting, hub_card
from vit_jax_repro.weights import model_card

pytestmark = pytest.mark.quick

RESULT = {'accuracy': 1 / 3, 'top5_accuracy': 3e-05, 'best_accuracy': 0.5}
ODD = 'cats: "the\n---\n# \'best\'"'


def save_run(folder, dataset='cifar10', **card):
  """Writes the files of a finished run that the card is made of."""
  folder.mkdir()
  for name, value in {
    'manifest.json': {},
    'config.json': {'dataset': dataset, 'pp': {'test': 'test[:10%]'}},
    'result.json': RESULT,
  }.items():
    (folder / name).write_text(json.dumps(value))
  card = {'preprocessing': 'vit_jax', **card}
  return tiny_models.save_run(folder / 'model.npz', **card)


def converted(source, out, **options):
  converting.convert(source, out, **{'to': 'transformers', **options})
  return huggingface_hub.ModelCard.load(out / 'README.md')


@pytest.mark.parametrize(
  'to, code',
  [
    ('transformers', 'ViTForImageClassification.from_pretrained('),
    ('transformers_v4', 'ViTForImageClassification.from_pretrained('),
    ('timm', "timm.create_model('local-dir:FOLDER', pretrained=True)"),
  ],
)
def test_write_copies_the_numbers_of_a_run(to, code, tmp_path):
  """Finds metadata that differs from the run, to the last digit."""
  card = converted(save_run(tmp_path / 'run'), tmp_path / 'out', to=to)
  data = card.data
  assert data.library_name == to.partition('_')[0]
  assert data.pipeline_tag == 'image-classification'
  assert data.license == 'unknown' and data.base_model is None
  assert data.datasets == ['cifar10'] and data.metrics == ['accuracy']
  assert [(r.metric_name, r.metric_value) for r in data.eval_results] == [
    ('top-1 accuracy', 1 / 3),
    ('top-5 accuracy', 3e-05),
  ]
  assert {
    (r.dataset_type, r.dataset_name, r.dataset_split) for r in data.eval_results
  } == {('cifar10', 'cifar10', 'test[:10%]')}
  assert data.model_name == 'out'
  assert code in card.text and 'Images are resized to 8x12 pixels' in card.text
  assert (
    f'| cifar10 | test\\[:10%\\] | top-1 accuracy | {1 / 3!r} |' in card.text
  )
  source = save_run(tmp_path / 'cut', preprocessing='deit')
  card = converted(source, tmp_path / 'second', to=to)
  assert 'proportions, and cut at the centre to 8x12 pixels' in card.text
  assert 'the mean [0.485, 0.456, 0.406] is subtracted' in card.text


def test_write_takes_what_the_caller_knows(tmp_path):
  """Finds an origin that is lost, and a number of another model."""
  origin = hub_card.Origin('google/vit', ('imagenet-21k',), 'apache-2.0')
  source = save_run(tmp_path / 'run')
  card = converted(source, tmp_path / 'out', origin=origin, drop=('head',))
  assert card.data.base_model == 'google/vit'
  assert card.data.license == 'apache-2.0'
  assert card.data.datasets == ['imagenet-21k']
  assert card.data.pipeline_tag == 'image-feature-extraction'
  assert card.data.eval_results is None and card.data.metrics is None
  card = converted(source, tmp_path / 'drop', drop=('head',))
  assert card.data.datasets == ['cifar10'] and card.data.eval_results is None
  best = tmp_path / 'run' / 'best.npz'
  os.link(source, best)
  os.link(tmp_path / 'run' / 'model.json', tmp_path / 'run' / 'best.json')
  card = converted(best, tmp_path / 'best')
  assert [r.metric_value for r in card.data.eval_results] == [0.5]


def test_write_takes_the_test_of_the_model_that_was_chosen(tmp_path):
  """Finds the accuracy of best.npz in the card of model.npz."""
  source = save_run(tmp_path / 'run')
  chosen = {'validation_accuracy': 0.4, 'best_model': 'best.npz'}
  result = tmp_path / 'run' / 'result.json'
  result.write_text(json.dumps(RESULT | chosen))
  card = converted(source, tmp_path / 'last')
  assert card.data.eval_results is None
  os.link(source, tmp_path / 'run' / 'best.npz')
  os.link(tmp_path / 'run' / 'model.json', tmp_path / 'run' / 'best.json')
  card = converted(tmp_path / 'run' / 'best.npz', tmp_path / 'best')
  values = [r.metric_value for r in card.data.eval_results]
  assert values == [RESULT['accuracy'], RESULT['top5_accuracy']]


def test_write_bears_any_name(tmp_path):
  """Finds a name that ends the YAML, or becomes a heading of the text."""
  folder = tmp_path / ODD
  folder.mkdir()
  source = tmp_path / 'run' / 'model.npz'
  save_run(tmp_path / 'run', dataset=str(folder))
  tiny_models.save_run(source, class_names=(ODD, 'b: c', '- "d'))
  card = converted(source, tmp_path / f'out{ODD}')
  name = 'cats: "the --- # \'best\'"'
  assert card.data.model_name == f'out{name}'
  assert card.data.datasets == [name] and str(tmp_path) not in card.content
  (first, _) = card.data.eval_results
  assert (first.dataset_type, first.dataset_name) == ('imagefolder', name)
  assert card.content.count('\n---\n') == 1
  assert [x for x in card.text.splitlines() if x.startswith('# ')] == [
    '# outcats: "the --- \\# \'best\'"'
  ]
  assert 'b: c' in card.text


def test_write_keeps_a_readme_without_overwrite(tmp_path):
  """Finds a user's text that is lost, or a card of other weights."""
  source = save_run(tmp_path / 'run')
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'README.md').write_text('mine')
  with pytest.raises(FileExistsError, match='exists already'):
    converted(source, out)
  assert (out / 'README.md').read_text() == 'mine'
  assert converted(source, out, overwrite=True).data.license == 'unknown'
  converting.convert(source, tmp_path / 'a.safetensors', to='timm')
  assert sorted(os.listdir(tmp_path)) == ['a.safetensors', 'out', 'run']


def test_read_origin_leaves_a_broken_result_out(tmp_path, capsys):
  """Finds a conversion that a broken file of a run would end."""
  source = save_run(tmp_path / 'run')
  (tmp_path / 'run' / 'result.json').write_text('{')
  assert hub_card.read_origin(str(source)) == hub_card.Origin()
  (note,) = capsys.readouterr().err.splitlines()
  assert 'result.json is no file of a run' in note
  assert hub_card.read_origin(str(tmp_path / 'ViT.npz')) == hub_card.Origin()


def test_card_of_a_regression_names_no_classes(tmp_path):
  path, out = tmp_path / 'm.npz', tmp_path / 'out'
  architecture = tiny_models.spec(2, num_layers=1)
  model_card.save_model(
    path,
    tiny_models.params_of(architecture),
    architecture=architecture,
    image_size=(8, 8),
    loss='regression',
  )
  converting.convert(path, out, to='transformers')
  config = json.loads((out / 'config.json').read_text())
  assert config['problem_type'] == 'regression'
  text = (out / 'README.md').read_text()
  assert 'returns 2 numbers' in text and 'numbers of the regression' in text
  assert 'classes' not in text
