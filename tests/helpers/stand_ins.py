"""Writes small files in place of published weights and data sets.

The weights are random. The data set has a few images of noise. A test chooses
their labels to give the weights any accuracy.
"""

import io

import jax
import numpy as np
import tfds_fixtures
import tiny_models
from PIL import Image

from vit_jax_repro import models, weights
from vit_jax_repro.data import preprocess
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.published import catalogue


def write_weights(
  folder, name, num_classes, image_size, *, seed=0, num_layers=None
):
  """Writes FOLDER/NAME.npz, random weights of a published architecture.

  With `num_layers` it has fewer layers than the published file.
  """
  entry = catalogue.find(name)
  spec = models.variant(entry.model) | dict(num_classes=num_classes)
  if num_layers is not None:
    spec['transformer'] = spec['transformer'] | dict(num_layers=num_layers)
  params = tiny_models.params_of(spec, (image_size, image_size), seed)
  # Makes the logits of random images differ.
  kernel = params['head']['kernel']
  params['head']['kernel'] = kernel * 1000
  path = folder / f'{entry.name}.npz'
  path.parent.mkdir(parents=True, exist_ok=True)
  weights.save(path, params)
  return path


def images(number, side=40):
  """Returns JPEGs of noise, of many contrasts and colours."""
  rng = np.random.default_rng(0)
  encoded = []
  for _ in range(number):
    colour = rng.uniform(0, 255, 3)
    pixels = colour + rng.uniform(5, 120) * rng.standard_normal((side, side, 3))
    file = io.BytesIO()
    pixels = pixels.clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, 'JPEG')
    encoded.append(file.getvalue())
  return encoded


def predicted(path, encoded, *, preprocessing, image_size):
  """Returns the class that a weights file predicts for each image."""
  restored = restore(path, None, image_size, preprocessing)
  reading = preprocess.pick_preprocessing(preprocessing)
  batch = np.stack([
    reading(data, (image_size, image_size)).numpy() for data in encoded
  ])  # fmt: skip
  apply = jax.jit(restored.model.apply, static_argnames='train')
  logits = apply({'params': restored.params}, batch, train=False)
  return np.asarray(logits).argmax(-1)


def write_imagenet(data_dir, encoded, labels):
  """Writes images and labels as the validation split of imagenet2012."""
  examples = [
    dict(image=data, label=int(label), file_name=f'{i}.JPEG')
    for i, (data, label) in enumerate(zip(encoded, labels, strict=True))
  ]
  tfds_fixtures.write(data_dir, 'imagenet2012', {'validation': examples})
