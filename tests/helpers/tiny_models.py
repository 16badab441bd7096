"""Makes small models with random weights, also in the head."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro import models
from vit_jax_repro.weights import model_card

VIT = {
  'model': 'vit',
  'patch_size': [4, 4],
  'hidden_size': 16,
  'num_layers': 2,
  'mlp_dim': 32,
  'num_heads': 2,
  'classifier': 'token',
}
MIXER = {
  'model': 'mixer',
  'patch_size': [4, 4],
  'num_blocks': 1,
  'hidden_dim': 8,
  'tokens_mlp_dim': 8,
  'channels_mlp_dim': 8,
}
BIT = {
  'model': 'bit_resnetv2',
  'block_units': [1],
  'width_factor': 0.5,
  'root_channels': 32,
  'groups': 32,
}


def spec(num_classes, base=VIT, **fields):
  """Returns hyper-parameters for `models.create`."""
  return {**base, 'num_classes': num_classes, **fields}


def params_of(architecture, image_size=(8, 8), seed=0):
  """Returns random parameters without zeros, as numpy arrays."""
  return params_of_model(models.create(architecture), image_size, seed)


def params_of_model(model, image_size=(8, 8), seed=0):
  """Returns what `params_of` returns, of a module."""
  images = jnp.zeros((1, *image_size, 3))
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), images, train=False)['params']
  )
  generator = np.random.default_rng(seed)

  def fill(leaf):
    scale = 1 / np.sqrt(max(1, leaf.size // leaf.shape[-1]))
    return (scale * generator.standard_normal(leaf.shape)).astype(np.float32)

  return jax.tree.map(fill, shapes)


def with_head(params, kernel=1e-3, bias=0.0):
  """Returns the parameters with a head whose bias decides the class."""
  head = params['head']
  return {
    **params,
    'head': {
      'kernel': np.zeros_like(head['kernel']) + np.float32(kernel),
      'bias': np.zeros_like(head['bias']) + np.asarray(bias, np.float32),
    },
  }


def save_run(path, class_names=('x', 'flower', 'china'), **card):
  """Writes the model of a run that always predicts `china`."""
  architecture = spec(3)
  params = with_head(params_of(architecture, (8, 12)), bias=[0, 1, 2])
  card = {'image_size': (8, 12), 'preprocessing': 'bit', **card}
  model_card.save_model(
    path, params, architecture=architecture, class_names=class_names, **card
  )
  return path
