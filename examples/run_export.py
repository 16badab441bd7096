"""Classifies images with an export, without vit_jax_repro.

  python examples/run_export.py model.onnx cat.jpg dog.jpg

Reads the preprocessing and the class names from model.onnx.json, which
`convert` writes next to model.onnx. Needs numpy, Pillow and onnxruntime, or JAX
in place of onnxruntime for a .stablehlo file. Copy it into a project of yours.
"""

import argparse
import json

import numpy as np
from PIL import Image, ImageOps


def read_image(path, how):
  """Returns an image as the model takes it, [H, W, 3] float32."""
  with Image.open(path) as file:
    turned = how['orientation'] == 'exif'
    image = ImageOps.exif_transpose(file) if turned else file
    image = image.convert('RGB')
  resize, crop = how['resize'], how['crop']
  size = new_size((image.height, image.width), resize)
  if resize['antialias']:  # Pillow's filters do so, and round
    kernel = Image.Resampling[resize['filter'].upper()]
    pixels = np.asarray(image.resize(size[::-1], kernel))
  else:
    weights = {'bilinear': bilinear, 'area': area}[resize['filter']]
    rows, columns = (
      weights(image.height, size[0]),
      weights(image.width, size[1]),
    )
    pixels = np.asarray(image, np.float32)
    pixels = np.einsum('yh,xw,hwc->yxc', rows, columns, pixels, optimize=True)
  if resize['values'] == 'truncated':
    pixels = np.floor(pixels + 1e-3)  # sums of weights are not quite 1
  if crop is not None:
    top = start(size[0] - crop['height'], crop)
    left = start(size[1] - crop['width'], crop)
    pixels = pixels[top : top + crop['height'], left : left + crop['width']]
  mean, std = np.float32(how['mean']), np.float32(how['std'])
  return (pixels.astype(np.float32) - mean) / std


def new_size(size, resize):
  """Returns the (height, width) that an image of this size is resized to."""
  wanted = resize['height'], resize['width']
  if resize['to'] == 'exactly':
    return wanted
  # Keeps the proportions; no side is below the wanted one.
  factor = max(new / old for new, old in zip(wanted, size, strict=True))
  if resize['rounding'] == 'nearest':
    return tuple(round(side * factor) for side in size)
  return tuple(wanted[0] * side // min(size) for side in size)


def start(margin, crop):
  """Returns the first row or column of a crop at the centre."""
  return margin // 2 if crop['rounding'] == 'down' else round(margin / 2)


def bilinear(old, new):
  """Returns weights [new, old] of the two pixels next to each new centre."""
  centres = (np.arange(new) + 0.5) * old / new - 0.5
  distances = np.abs(centres.clip(0, old - 1)[:, None] - np.arange(old))
  return (1 - distances).clip(0).astype(np.float32)


def area(old, new):
  """Returns weights [new, old]: the part of each old pixel in a new one."""
  edges = np.arange(new + 1) * old / new
  pixels = np.arange(old)
  inside = np.minimum(edges[1:, None], pixels + 1)
  inside -= np.maximum(edges[:-1, None], pixels)
  return (inside.clip(0) * new / old).astype(np.float32)


def load(path):
  """Returns an export as a function of images [B, H, W, 3]."""
  if path.endswith('.stablehlo'):
    from jax import export

    with open(path, 'rb') as file:
      return export.deserialize(bytearray(file.read())).call
  import onnxruntime

  session = onnxruntime.InferenceSession(path)
  (name,) = (each.name for each in session.get_inputs())
  return lambda images: session.run(None, {name: images})[0]


def probabilities(logits, how):
  """Returns [B, K] probabilities: of one class, or of each on its own."""
  if how == 'sigmoid':  # exact for large logits of both signs, too
    return np.exp(-np.logaddexp(0, -logits))
  odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return odds / odds.sum(axis=-1, keepdims=True)


def main():
  """Prints the most probable classes of each image."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('model', help='a .onnx or .stablehlo file of `convert`')
  parser.add_argument('images', nargs='+', help='image files')
  parser.add_argument('--top', type=int, default=5)
  args = parser.parse_args()
  try:
    with open(f'{args.model}.json', encoding='utf-8') as file:
      about = json.load(file)
    images = np.stack(
      [read_image(path, about['preprocessing']) for path in args.images]
    )
  except OSError as error:
    parser.error(str(error))
  if about['probabilities'] is None:
    parser.error(f'{args.model} gives numbers that are no classes')
  logits = np.asarray(load(args.model)(images))
  odds = probabilities(logits, about['probabilities'])
  names = about['class_names'] or range(logits.shape[-1])
  for path, row in zip(args.images, odds, strict=True):
    print(path)
    for label in np.argsort(-row, kind='stable')[: args.top]:
      print(f'  {label}  {names[label]}  {row[label]:.2%}')


if __name__ == '__main__':
  main()
