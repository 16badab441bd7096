"""Weights of two towers, given to all that reads weights."""

import numpy as np
import pytest
import reference
from flax import serialization
from port_cases import assert_same

from vit_jax_repro import models, ports, recipes, weights
from vit_jax_repro.benchmarks import programs
from vit_jax_repro.inference import restoring
from vit_jax_repro.ports import converting, weight_sources
from vit_jax_repro.runs import configuration
from vit_jax_repro.weights import layouts, model_card, npz, trees

pytestmark = pytest.mark.quick
CASES = ('lit_bert', 'lit_text_transformer')


def arrays_of(case):
  return reference.lit_arrays(case, 'params')


def save(case, folder):
  """Writes a file of two towers; returns its path and tree."""
  path = folder / 'lit.npz'
  npz.write(path, arrays_of(case).items())
  return path, weights.load(path)


def save_checkpoint(case, folder):
  """Writes a checkpoint of Flax of two towers, with a card; returns its path.

  The card is that of a run, whose model is the image-text model.
  """
  path, tree = save(case, folder)
  model_card.save_model(
    path, tree, architecture=reference.lit()['cases'][case], image_size=(32, 32)
  )
  path.unlink()
  path = folder / 'lit.msgpack'
  path.write_bytes(serialization.msgpack_serialize({'params': tree}))
  return path, tree


@pytest.mark.parametrize('case', CASES)
def test_describe_and_adapt_take_flat_trees(case):
  tree = trees.nest(arrays_of(case))
  flat = trees.flatten(tree)
  assert weights.describe(flat) == weights.describe(tree)
  model = models.create(reference.lit()['cases'][case])
  for each in (model, model.img):
    assert_same(
      weights.adapt(flat, each, image_size=(32, 32), head='keep'),
      weights.adapt(tree, each, image_size=(32, 32), head='keep'),
    )


def test_adapt_names_a_missing_text_tower():
  tree = trees.nest(arrays_of('lit_bert'))
  model = models.create(reference.lit()['cases']['lit_bert'])
  with pytest.raises(ValueError, match='the weights have no text tower'):
    weights.adapt(tree['img'], model)


@pytest.mark.parametrize('layout', layouts.LAYOUTS)
@pytest.mark.parametrize('case', CASES)
def test_convert_writes_both_towers_of_npz(case, layout, tmp_path, capsys):
  path, tree = save(case, tmp_path)
  found = converting.convert(path, tmp_path / 'b.npz', to=layout)
  assert found.model == 'two_towers'
  slot = tree['img']['cls'].size if layout.startswith('big_vision') else 0
  assert found.num_parameters == trees.num_parameters(tree) - slot
  back = converting.convert(tmp_path / 'b.npz', tmp_path / 'c.npz')
  assert back.num_parameters <= found.num_parameters
  again = weights.load(tmp_path / 'c.npz')
  if layout.startswith('big_vision'):  # the slot is in the class token
    assert "'s files have no position for the class" in capsys.readouterr().err
    again['img'] = tree['img'] = {}
  assert_same(again, tree)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('drop', [('txt',), ('head',)])
def test_convert_drops_the_text_tower(case, drop, tmp_path):
  path, tree = save(case, tmp_path)
  converting.convert(path, tmp_path / 'b.npz', drop=drop)
  image = dict(tree['img'])
  if drop == ('head',):
    image.pop('head', None)
  assert_same(weights.load(tmp_path / 'b.npz'), image)


@pytest.mark.parametrize('case', CASES)
def test_checkpoints_have_both_towers(case, tmp_path, capsys):
  path, tree = save_checkpoint(case, tmp_path)
  converting.convert(path, tmp_path / 'b.npz')
  assert_same(weights.load(tmp_path / 'b.npz'), tree)
  card = model_card.read_card(tmp_path / 'b.npz')
  assert card.architecture['text_model']
  assert not capsys.readouterr().err
  restored = restoring.restore(path)
  assert 'only the image tower is used' in capsys.readouterr().err
  io = reference.lit_arrays(case, 'io')
  x = restored.model.apply({'params': restored.params}, io['images'])
  x = x / np.linalg.norm(x, axis=-1, keepdims=True)
  np.testing.assert_allclose(x, io['zimg'], atol=1e-6)


def test_ports_get_the_image_tower(tmp_path):
  path, tree = save('lit_bert', tmp_path)
  state = ports.to_state_dict(tree, 'timm')
  assert_same(ports.from_state_dict(state, num_heads=4), tree['img'])
  converting.convert(path, tmp_path / 'a.safetensors', to='timm')
  again = weight_sources.read(str(tmp_path / 'a.safetensors'), num_heads=4)
  assert_same(again.params, tree['img'])


def test_a_model_name_must_fit_the_towers_that_are_read(tmp_path):
  path, _ = save('lit_bert', tmp_path)
  with pytest.raises(ValueError, match='--model=ViT-B_16 has no text tower'):
    weight_sources.read(str(path), model='ViT-B_16', both_towers=True)
  for both in (True, False):
    with pytest.raises(ValueError, match='do not fit the model: missing'):
      weight_sources.read(str(path), model='LiT-B16B_2', both_towers=both)
  with pytest.raises(ValueError, match='do not fit the model: missing'):
    restoring.restore(path, 'LiT-B16B_2')


def test_names_of_image_text_models_give_classifiers_their_image_tower():
  case = programs.Case('infer', 'LiT-L16S', 2, 'float32', (32, 32))
  assert models.name_of(programs.create_model(case)) == 'ViT-L_16'
  config = configuration.create(
    recipes.vit_finetune('cifar10', 'ViT-L_16'), 'LiT-L16S'
  )
  model = config.model.to_dict()
  assert model['model_name'] == 'LiT-L16S'
  assert models.name_of(models.create(model, num_classes=10)) == 'ViT-L_16'
