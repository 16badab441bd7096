"""What a program that runs an export has to know: images, outputs, classes.

docs/convert.md describes the keys.
"""

import json
from typing import Any

from vit_jax_repro.data import preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.exporting import programs


def describe(
  program: programs.Program, license_name: str | None
) -> dict[str, Any]:
  """Returns the description of an export as values of JSON.

  Args:
    program: the exported program.
    license_name: the Hub's name of the licence of the weights, if it is known.
  """
  restored = program.restored
  is_pooled = len(program.output_shape) == 1  # one row of logits an image
  return {
    'model': restored.name,
    'license': license_name,
    'input': {
      'name': programs.INPUT,
      'shape': [programs.BATCH, *program.image_shape],
      'dtype': 'float32',
    },
    'output': {
      'name': program.output,
      'shape': [programs.BATCH, *program.output_shape],
      'dtype': 'float32',
    },
    'preprocessing': preprocessing(
      restored.preprocessing,
      restored.image_size,
      restored.orientation or 'exif',
    ),
    'probabilities': restored.probabilities if is_pooled else None,
    'class_names': restored.class_names and list(restored.class_names),
  }


def metadata(description: dict[str, Any]) -> dict[str, str]:
  """Returns the texts for a file's metadata, JSON where it is not a text."""
  return {
    key: value if isinstance(value, str) else json.dumps(value)
    for key, value in description.items()
    if value is not None and key not in ('input', 'output')
  }


def preprocessing(
  name: str, image_size: tuple[int, int], orientation: str
) -> dict[str, Any]:
  """Returns how an image file becomes an input, as values of JSON.

  Args:
    name: a name for `preprocess.pick_preprocessing`.
    image_size: (H, W) pixels.
    orientation: 'exif' or 'none'.
  """
  entry = preprocess.pick_preprocessing(name)
  resize, crop = _STEPS[entry.base](entry, image_size)
  return {
    'name': name,
    'orientation': orientation,
    'channels': 'RGB',
    'resize': resize,
    'crop': crop,
    'size': list(image_size),
    'mean': list(entry.mean),
    'std': list(entry.std),
    'layout': 'NHWC',
  }


def _squash(entry, image_size):
  del entry
  return _resize('exactly', image_size, 'bilinear'), None


def _squash_down(entry, image_size):
  del entry
  return _resize('exactly', image_size, 'bilinear', values='truncated'), None


def _area_and_crop(entry, image_size):
  del entry
  sides = preprocess.short_sides(image_size)
  resize = _resize(
    'cover', sides, 'area', rounding='nearest', values='truncated'
  )
  return resize, _crop(image_size, 'down')


def _crop_first(entry, image_size):
  del entry
  side = min(image_size)
  raise InputError(
    "exports do not describe preprocessing 'efficientnet', which crops before "
    f'it resizes; give --preprocessing=deit:crop_pct={side / (side + 32):.3g}, '
    'which is close to it'
  )


def _by_pillow(entry, image_size):
  height, width = entry.options(image_size, 'none')['scaled']
  resize = _resize(
    'cover',
    (height, width),
    entry.interpolation,
    antialias=True,
    rounding='down' if height == width else 'nearest',  # pillow.covering_size
    values='rounded',
  )
  return resize, _crop(image_size, 'half to even')


def _resize(
  to, sides, filter_name, *, antialias=False, rounding=None, values='float'
):
  return {
    'to': to,
    'height': sides[0],
    'width': sides[1],
    'rounding': rounding,
    'filter': filter_name,
    'antialias': antialias,
    'values': values,
  }


def _crop(image_size, rounding):
  height, width = image_size
  return {'height': height, 'width': width, 'rounding': rounding}


_STEPS = {  # preprocess.PREPROCESSINGS
  'vit_jax': _squash,
  'bit': _squash,
  'lit': _squash_down,
  'big_vision': _area_and_crop,
  'timm': _by_pillow,
  'deit': _by_pillow,
  'efficientnet': _crop_first,
}
