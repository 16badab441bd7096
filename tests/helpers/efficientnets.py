"""Random EfficientNets, and those of timm and Keras with the same arrays."""

import functools
import math
import string

import numpy as np
import timm_stub

from vit_jax_repro import models, ports
from vit_jax_repro.models import efficientnet, variants
from vit_jax_repro.weights import trees
from vit_jax_repro.weights.adapt import parameter_shapes

CUT = ('L2', 2)  # the first two blocks of L2, with its widths and depths


def cut(size, blocks):
  """Returns the fields of an EfficientNet with its first blocks only."""
  fields = models.variant(f'EfficientNet-{size}')
  for name in ('block_units', 'block_channels', 'kernel_sizes'):
    fields[name] = fields[name][:blocks]
  return fields | dict(
    block_strides=efficientnet.STRIDES[:blocks],
    expansions=efficientnet.EXPANSIONS[:blocks],
    num_classes=10,
  )


def tiny(**fields):
  """Returns the fields of a small EfficientNet of two blocks."""
  small = dict(block_units=(1, 2), block_channels=(8, 16), stem_channels=16)
  return cut('B0', 2) | small | dict(top_channels=24) | fields


def params_of(fields, seed=0):
  """Returns random parameters, with which activations stay about as large."""
  draw = np.random.default_rng(seed)
  flat = {}
  for name, leaf in sorted(parameter_shapes(_model(fields), (32, 32)).items()):
    kind = name.rpartition('/')[2]
    if kind == 'kernel':
      width = math.prod(leaf.shape[:-1])
      value = draw.normal(0, math.sqrt(2 / width), leaf.shape)
    elif kind in ('scale', 'var'):
      value = draw.uniform(0.5, 1.5, leaf.shape)
    else:
      value = draw.normal(0, 0.2, leaf.shape)
    flat[name] = value.astype(np.float32)
  return trees.nest(flat)


def _model(fields):
  return models.create(fields)


def in_timm(fields, params, name=None, **changes):
  """Returns timm's model with these arrays, in float32.

  Args:
    fields: of the EfficientNet.
    params: its parameters.
    name: of timm's model; by default one is built from the fields.
    **changes: arguments of the built model.
  """
  import torch

  timm = timm_stub.import_timm()
  if name is not None:
    model = timm.create_model(name, num_classes=fields['num_classes'])
  else:
    model = built(fields, **changes)
  state = ports.to_state_dict(params, 'timm')
  tensors = {key: torch.from_numpy(array) for key, array in state.items()}
  model.load_state_dict(tensors)
  return model.eval()


def built(fields, **changes):
  """Returns timm's model of the fields, in training mode."""
  import torch
  from timm.models import _efficientnet_builder as builder
  from timm.models import efficientnet as timm_efficientnet

  stages = []
  for i, units in enumerate(fields['block_units']):
    kind, expansion = ('ds', 1) if i == 0 else ('ir', fields['expansions'][i])
    stages.append(
      [
        f'{kind}_r{units}_k{fields["kernel_sizes"][i]}'
        f'_s{fields["block_strides"][i]}_e{expansion}'
        f'_c{fields["block_channels"][i]}_se{fields.get("squeeze_ratio", 0.25)}'
      ]
    )
  arguments = dict(
    num_classes=fields['num_classes'],
    num_features=fields['top_channels'],
    stem_size=fields['stem_channels'],
    round_chs_fn=lambda channels: channels,
    pad_type='same',
    act_layer=torch.nn.SiLU,
    norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-3),
  )
  return timm_efficientnet.EfficientNet(
    builder.decode_arch_def(stages), **(arguments | changes)
  )


def in_keras(size, blocks, params, image_size):
  """Returns Keras' function of normalised images with these arrays.

  Args:
    size: a key of `variants.EFFICIENTNETS`.
    blocks: number of blocks.
    params: the canonical tree.
    image_size: pixels of a side.

  Returns:
    A function from [B, H, W, 3] to logits [B, K], and the model.
  """
  import keras
  from keras.src.applications import efficientnet as keras_efficientnet

  width, depth, *_ = variants.EFFICIENTNETS[size]
  flat = trees.flatten(params)
  model = keras_efficientnet.EfficientNet(
    width,
    depth,
    image_size,
    blocks_args=keras_efficientnet.DEFAULT_BLOCKS_ARGS[:blocks],
    weights=None,
    classes=len(flat['head/bias']),
    classifier_activation=None,
    input_shape=(image_size, image_size, 3),
  )
  given = {'normalization', 'rescaling'}
  for layer in model.layers:
    if layer.weights and layer.name.rstrip('_0123456789') not in given:
      layer.set_weights(_of_keras(layer.name, flat))
  # Behind its own scaling of pixels, which has no values without a data set.
  start = next(x for x in model.layers if x.name == 'stem_conv_pad')
  return keras.Model(start.input, model.output), model


def _of_keras(name, flat):
  """Returns a layer's arrays in the order of Keras."""
  where = {'stem': 'stem', 'top': 'top'}
  if name == 'predictions':
    return [flat['head/kernel'], flat['head/bias']]
  block, _, layer = name.rpartition('_')
  prefix, conv = '', ''
  if block in where:
    prefix = where[block]
  else:
    unit, part = name.split('_', 1)
    number = string.ascii_lowercase.index(unit[-1]) + 1
    base = f'{unit[:-1]}/unit{number:02d}'
    if part in ('se_reduce', 'se_expand'):
      prefix = f'{base}/squeeze/{part[3:]}'
      return [flat[f'{prefix}/kernel'], flat[f'{prefix}/bias']]
    conv = {
      'expand_conv': 'expand', 'expand_bn': 'expand', 'dwconv': 'depthwise',
      'bn': 'depthwise', 'project_conv': 'project', 'project_bn': 'project',
    }[part]  # fmt: skip
    prefix, layer = f'{base}/{conv}', part.rpartition('_')[2]
  if layer == 'bn':
    order = ('scale', 'bias', 'mean', 'var')
    return [flat[f'{prefix}/norm/{leaf}'] for leaf in order]
  kernel = flat[f'{prefix}/conv/kernel']
  if conv == 'depthwise':  # [kh, kw, C, 1]
    kernel = kernel.swapaxes(2, 3)
  return [kernel]
