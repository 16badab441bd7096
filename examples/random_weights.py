"""Writes random weights of a published model, in the published layout.

  python examples/random_weights.py ViT-Ti_16 ViT-Ti_16.npz

Use the file where a published one is not available. Shapes, names and speed are
the real ones; predictions are random.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro import models, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, waiting


def random_params(model, image_size, seed=0):
  """Returns initial parameters, with zero kernels replaced by random ones."""
  images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)

  @jax.jit
  def init(key):
    return model.init(key, jnp.zeros(images.shape, images.dtype), train=False)

  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    # Every published model initialises its head to zeros, so all logits are 0.
    if path[-1].key != 'kernel' or jnp.any(leaf):
      return leaf
    fan_in = np.prod(leaf.shape[:-1])
    return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(leaf.dtype)

  params = init(jax.random.key(seed))['params']
  return jax.tree.map_with_path(fill, params)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('name', help='model name, such as ViT-Ti_16')
  parser.add_argument('out', help='the .npz file to write')
  parser.add_argument('--num_classes', type=int, default=1000)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  try:
    files.check_writable(args.out)
    model = models.create(args.name, num_classes=args.num_classes)
  except (InputError, OSError) as error:
    parser.error(str(error))
  with waiting.watch('random_weights'):
    with waiting.doing(f'drawing the weights of {args.name}'):
      params = random_params(model, args.image_size, args.seed)
    with waiting.doing(f'writing {args.out}'):
      weights.save(args.out, params, layout='official')
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  print(f'{args.out}: {args.name}, {count:,} random parameters')


if __name__ == '__main__':
  main()
