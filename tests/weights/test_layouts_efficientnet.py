"""Files of EfficientNet: our own .npz, described and adapted."""

import efficientnets
import numpy as np
import pytest

from vit_jax_repro import models, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.weights import trees
from vit_jax_repro.weights.adapt import parameter_shapes


def same(tree, other):
  tree, other = trees.flatten(tree), trees.flatten(other)
  return tree.keys() == other.keys() and all(
    np.array_equal(tree[name], other[name]) for name in tree
  )


@pytest.mark.parametrize('layout', ['official', 'linen'])
def test_save_and_load_are_exact(tmp_path, layout):
  params = efficientnets.params_of(efficientnets.tiny())
  weights.save(tmp_path / 'model.npz', params, layout=layout)
  assert same(weights.load(tmp_path / 'model.npz'), params)


def test_save_refuses_big_vision(tmp_path):
  params = efficientnets.params_of(efficientnets.tiny())
  with pytest.raises(InputError, match='no file for BiT, EfficientNet'):
    weights.save(tmp_path / 'model.npz', params, layout='big_vision')


@pytest.mark.parametrize('size', ['B0', 'B3', 'B7'])
def test_describe_finds_the_fields_of_a_name(size):
  name = f'EfficientNet-{size}'
  model = models.create(name)
  shapes = parameter_shapes(model, (32, 32))
  spec = weights.describe(shapes)
  assert spec['image_size'] is None
  assert models.name_of(models.create(spec)) == name
  assert spec['squeeze_ratio'] == 0.25


def test_describe_names_a_missing_kernel():
  flat = trees.flatten(efficientnets.params_of(efficientnets.tiny()))
  del flat['block2/unit01/project/conv/kernel']
  with pytest.raises(InputError, match='block2/unit01/project/conv/kernel'):
    weights.describe(trees.nest(flat))


def test_adapt_resets_the_head_and_keeps_statistics():
  params = efficientnets.params_of(efficientnets.tiny())
  model = models.create(efficientnets.tiny(num_classes=3))
  adapted = weights.adapt(params, model, head='reset', image_size=(40, 40))
  assert adapted['head']['kernel'].shape == (24, 3)
  assert not adapted['head']['kernel'].any()
  for tree in (params, adapted):
    tree.pop('head')
  assert same(params, adapted)
