"""Initial parameters: fresh, published, shrunk and perturbed."""

import jax
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.runs import pretrained, settings

SPEC = tiny_models.spec(3, num_layers=1)
MODEL = models.create(SPEC)


def parameters(model=MODEL, **keys):
  """Returns the initial parameters of a run with these keys."""
  pp = dict(train='train', test='test', crop=8)
  config = dict(dataset='x', model={}, base_lr=1.0, total_steps=1, pp=pp)
  read = settings.from_config(config | keys)
  source = pretrained.load(read)
  return pretrained.parameters(read, model, (8, 8), None, source)


@pytest.fixture(scope='module')
def published(tmp_path_factory):
  """(keys of the settings, parameters in the file)."""
  folder = tmp_path_factory.mktemp('published')
  params = tiny_models.params_of(SPEC)
  weights.save(folder / 'tiny.npz', params)
  keys = dict(pretrained_dir=str(folder), model_or_filename='tiny')
  return keys, params


def assert_same(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_parameters_follow_the_seed():
  fresh = parameters(seed=3)
  assert_same(parameters(seed=3), fresh)
  kernels = [tree['embedding']['kernel'] for tree in (fresh, parameters())]
  assert (kernels[0] != kernels[1]).any()


def test_parameters_zero_or_keep_the_head_of_a_file(published):
  keys, params = published
  found = parameters(**keys)
  assert not found['head']['kernel'].any() and params['head']['kernel'].all()
  assert_same(parameters(**keys, head='keep'), params)
  with pytest.raises(ValueError, match=r'tiny\.npz: weights do not fit .*head'):
    parameters(MODEL.clone(num_classes=4), **keys, head='keep')


def test_parameters_shrink_and_perturb_a_file(published):
  keys, params = published
  found = parameters(**keys, head='keep', shrink=0.4, perturb=0.1, seed=5)
  fresh = parameters(seed=5)
  wanted = jax.tree.map(lambda x, y: 0.4 * x + 0.1 * y, params, fresh)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype('f4')}
  halved = parameters(**keys, head='keep', shrink=0.5)
  assert_same(halved, jax.tree.map(lambda x: x / 2, params))
