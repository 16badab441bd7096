"""Reads reference cases of the original code: weights, images, outputs.

`data/README.md` gives their origin. Weights and images are drawn again from
their seeds. The seed of an array contains its name in linen's numbering.
"""

import csv
import functools
import gzip
import json
import pathlib
import re
import zlib

import numpy as np

from vit_jax_repro import models
from vit_jax_repro.weights import trees
from vit_jax_repro.weights.adapt import parameter_shapes

DATA = pathlib.Path(__file__).parents[1] / 'data'

_LINEN = {
  'LayerNorm_2': 'LayerNorm_1',
  'MultiHeadDotProductAttention_1': 'MultiHeadDotProductAttention_0',
  'MlpBlock_3': 'MlpBlock_0',
}


def read_json(name):
  with gzip.open(DATA / name, 'rt') as file:
    return json.load(file)


@functools.cache
def forward_cases():
  """Returns {case: hyper-parameters, `arrays`, `noise`, ...}."""
  return read_json('forward.json.gz')


@functools.cache
def layouts():
  """Returns {bucket.name: `layout` {name: [shape, dtype]}, ...}."""
  return read_json('npz_layouts.json.gz')


@functools.cache
def lit():
  """Returns `cases` {case: mapping for `models.create`} and `layouts`."""
  return read_json('lit.json.gz')


def lit_arrays(case, kind):
  """Returns `params`, the arrays of a file, or `io` of an image-text model."""
  start = f'{case}|{kind}|'
  return {
    name.removeprefix(start): array
    for name, array in arrays('lit.npz').items()
    if name.startswith(start)
  }


@functools.cache
def loader_cases():
  return read_json('load_pretrained.json.gz')


@functools.cache
def arrays(name):
  with np.load(DATA / name) as archive:
    return dict(archive)


def parameter_counts():
  """Returns rows {model, params_M_1k_head_224, ...} in millions, as text."""
  with open(DATA / 'model_variants.csv') as file:
    return list(csv.DictReader(file))


def config(case):
  """Returns the hyper-parameters of a case, for `models.create`."""
  extra = ('arrays', 'noise', 'intermediate_noise', 'images')
  return {k: v for k, v in forward_cases()[case].items() if k not in extra}


def checkpoint(case):
  """Returns the checkpoint of a case: {name in the file: array}."""
  fields = forward_cases()[case]
  return {
    name: parameter(
      fields['seed'],
      to_linen(name.removeprefix('params/')),
      shape,
      coarse=case in ('hybrid_1_1_1', 'hybrid_2_2', 'bit_tiny_1_1_1_1'),
      small='small_variance' in case,
    )
    for name, shape in fields['arrays'].items()
  }


def canonical(case):
  """Returns the parameters of a case, except BiT, as a canonical tree."""
  flat = {
    to_linen(name.removeprefix('params/')): array
    for name, array in checkpoint(case).items()
  }
  return trees.nest(flat)


def images(case, which=''):
  """Returns three images: normal, low amplitude, low contrast."""
  stored = arrays('forward.npz').get(f'{case}|{which}_images')
  if stored is not None:
    return stored
  fields = forward_cases()[case]
  x = np.random.default_rng([fields['seed'], 99]).uniform(
    -1, 1, fields['images'][which]
  )
  x = x.astype(np.float32)
  x[1] *= np.float32(2e-3)
  x[2] = np.float32(0.25) + np.float32(2e-3) * x[2]
  return x


def output(case, name, which=''):
  """Returns `logits`, `logits_f64` or `inter:...` of a case."""
  prefix = f'{which}_' if which else ''
  return arrays('forward.npz')[f'{case}|{prefix}{name}']


def intermediates(case, which=''):
  """Returns {name: values of image 0}, thinned by `thin`."""
  start = f'{case}|' + (f'{which}_' if which else '') + 'inter:'
  return {
    key.removeprefix(start): value
    for key, value in arrays('forward.npz').items()
    if key.startswith(start)
  }


def thin(x):
  """Returns at most 512 values of image 0 of an array [B, ...]."""
  x = np.asarray(x[0]).ravel()
  return x[:: -(-x.size // 512)]


def to_linen(name):
  """Renumbers the parts of a name from before linen."""
  if not re.search(
    'MlpBlock_3|MultiHeadDotProductAttention_1|LayerNorm_2', name
  ):
    return name
  return '/'.join(_LINEN.get(part, part) for part in name.split('/'))


def parameter(seed, name, shape, *, coarse=False, small=False):
  """Draws one array; coarse values are multiples of 1/128 times powers of 2."""
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  values = rng.standard_normal([n for n in shape if n > 1 or 'gn' not in name])
  leaf = re.split('[/.]', name)[-1]
  if coarse:
    values = np.round(values * 128) / 128
  if len(shape) == 1 or 'gn' in name or leaf == 'bias':
    offset = leaf in ('scale', 'gamma') or ('norm' in name and leaf == 'weight')
    values = offset + 0.25 * values
  elif leaf in _HALF:
    values = 0.5 * values
  elif re.search(r'conv_root|conv\d/|conv_proj|standardized', name):
    values = values * 2.0 ** rng.integers(-13, -4, shape[-1])
  else:
    values = values * _kernel_scale(name, shape, coarse)
  if small and re.match('cls|embedding/kernel|.*pos_embedding', name):
    values = values * 0.01
  if coarse:
    values[values == 0] = 2.0**-12
  return values.astype(np.float32).reshape(shape)


_HALF = (
  'cls',
  'pos_embedding',
  'probe',
  'cls_token',
  'dist_token',
  'pos_embed',
)


def _kernel_scale(name, shape, coarse):
  fan_in = np.prod(shape[:-1])
  if re.search('query|key/|value', name):
    fan_in = shape[0]
  if name.endswith('.weight'):  # PyTorch: output first
    fan_in = np.prod(shape[1:])
  if coarse:
    return 2.0 ** np.round(-np.log2(fan_in) / 2)
  return 1 / np.sqrt(fan_in)


@functools.cache
def training_cases():
  """Returns {case: settings of ten official updates}."""
  with open(DATA / 'training.json') as file:
    return json.load(file)


def training_start(case):
  """Returns the flat initial parameters of a training case."""
  fields = training_cases()[case]
  seed = fields['init_seed']
  model = models.create(fields['model'])
  shapes = parameter_shapes(model, tuple(fields['image_size']))
  flat = {k: parameter(seed, k, v.shape) for k, v in shapes.items()}
  if seed == 1068:  # small inputs of the head give a small gradient
    factors = {'Transformer/encoder_norm/': 0.2, 'head/': 0.05}
    for start, factor in factors.items():
      flat |= {
        name: value * np.float32(factor)
        for name, value in flat.items()
        if name.startswith(start)
      }
  return flat


def training_batches(case):
  """Returns ten batches of eight images."""
  seed = training_cases()[case]['batches_seed']
  labels = arrays('training.npz')[f'labels_{seed}']
  images = np.random.default_rng([seed, 5]).uniform(-1, 1, (10, 8, 16, 16, 3))
  return [
    {'image': image, 'label': label}
    for image, label in zip(images.astype(np.float32), labels, strict=True)
  ]


def training_output(case, name):
  """Returns `loss`, `grad_norm` or `lr_used` [10], or thinned `final:...`."""
  return arrays('training.npz')[f'{case}|{name}']


def thin_leaf(x):
  x = np.asarray(x).ravel()
  return x[:: -(-x.size // 16)]


@functools.cache
def hyperrule():
  """Returns values of the original bit_hyperrule.py."""
  with open(DATA / 'bit_hyperrule.json') as file:
    return json.load(file)
