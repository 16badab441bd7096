"""Compares logits and gradients of this machine's device with the CPU's.

  python examples/precision_on_card.py [--models=ViT-B_16,...] [--json=OUT]

The CPU computes in float32 with products of the highest precision. The device
computes in float32, with JAX's default precision and with the highest, and in
bfloat16. An error is the largest difference over the largest logit, or the
norm of the gradients' difference over the norm of the gradients.
"""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from random_weights import random_params

from vit_jax_repro import models

MODELS = 'ViT-B_16,R50+ViT-B_16,BiT-M-R50x1,Mixer-B_16'
KINDS = (  # dtype, precision of products
  ('float32', 'default'),
  ('float32', 'highest'),
  ('bfloat16', 'default'),
)


def outputs(name, dtype, precision, device, images, labels):
  """Returns float32 logits and the gradient of each parameter, as numpy."""
  model = models.create(name, dtype=jnp.dtype(dtype), num_classes=1000)
  params = random_params(model, images.shape[1])

  def loss(params, images):
    logits = model.apply({'params': params}, images, train=False)
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), logits

  with jax.default_device(device), jax.default_matmul_precision(precision):
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, logits), gradients = step(
      jax.device_put(params, device), jax.device_put(images, device)
    )
  return jax.device_get((logits, gradients))


def distance(ours, wanted):
  """Returns the norm of the difference over the norm, over all leaves."""
  norm = optax.tree.norm
  return float(norm(jax.tree.map(np.subtract, ours, wanted)) / norm(wanted))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--models', default=MODELS)
  parser.add_argument('--batch_size', type=int, default=4)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--json')
  options = parser.parse_args()
  generator = np.random.default_rng(1)
  shape = (options.batch_size, options.image_size, options.image_size, 3)
  images = generator.uniform(-1, 1, shape).astype(np.float32)
  labels = generator.integers(1000, size=options.batch_size)
  [cpu, *_], [device, *_] = jax.devices('cpu'), jax.devices()
  rows = []
  for name in options.models.split(','):
    logits, gradients = outputs(name, 'float32', 'highest', cpu, images, labels)
    for dtype, precision in KINDS:
      found, found_gradients = outputs(
        name, dtype, precision, device, images, labels
      )
      largest = float(np.abs(found - logits).max() / np.abs(logits).max())
      row = {
        'model': name,
        'dtype': dtype,
        'precision': precision,
        'logits': largest,
        'gradients': distance(found_gradients, gradients),
      }
      rows.append(row)
      print(
        f'{name}, {dtype}, {precision}: logits {largest:.1e}, '
        f'gradients {row["gradients"]:.1e}',
        flush=True,
      )
  if options.json:
    result = {
      'device': device.device_kind,
      'jax': jax.__version__,
      'batch_size': options.batch_size,
      'rows': rows,
    }
    with open(options.json, 'w') as file:
      json.dump(result, file, indent=2)


if __name__ == '__main__':
  main()
