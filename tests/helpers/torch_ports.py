"""Makes PyTorch ports with the weights of the reference cases.

By default a port agrees with the reference. Arguments of its function plant
known errors of ports.
"""

import functools

import numpy as np
import reference
import timm_stub
import torch
import transformers

from vit_jax_repro import models, ports, weights
from vit_jax_repro.weights import npz
from vit_jax_repro.weights.adapt import parameter_shapes


def save(path, case):
  """Writes the checkpoint of a case; returns its canonical tree."""
  npz.write(path, reference.checkpoint(case).items())
  return weights.load(path)


def fill(module, params, library='transformers', **options):
  """Loads all parameters into a module."""
  state = ports.to_state_dict(params, library, **options)
  module.load_state_dict(
    {name: torch.from_numpy(np.array(a)) for name, a in state.items()}
  )
  return module.eval()


def vit_config(case, *, act='gelu_pytorch_tanh', eps=1e-6, **fields):
  """Returns transformers' configuration of a reference case."""
  spec = reference.config(case)
  encoder = spec.get('transformer', spec)
  return transformers.ViTConfig(
    hidden_size=spec['hidden_size'],
    num_hidden_layers=encoder['num_layers'],
    num_attention_heads=encoder['num_heads'],
    intermediate_size=encoder['mlp_dim'],
    hidden_act=act,
    layer_norm_eps=eps,
    image_size=fields.pop('image_size', spec['image_size'][0]),
    patch_size=spec['patch_size'][0],
    num_labels=spec['num_classes'],
    **fields,
  )


def vit(params, case, *, order='qkv', **fields):
  """Returns transformers' ViT; `order` permutes query, key and value."""
  module = transformers.ViTForImageClassification(vit_config(case, **fields))
  fill(module, params)
  for layer in module.vit.layers:
    attention = layer.attention
    parts = [getattr(attention, f'{part}_proj') for part in order]
    attention.q_proj, attention.k_proj, attention.v_proj = parts
  return module


def split_by_heads(module):
  """Rewrites q, k, v as if a fused projection had been cut head by head."""
  for layer in module.vit.layers:
    attention = layer.attention
    parts = attention.q_proj, attention.k_proj, attention.v_proj
    for name in ('weight', 'bias'):
      values = [getattr(part, name).detach() for part in parts]
      heads = [
        v.reshape(module.config.num_attention_heads, -1, *v.shape[1:])
        for v in values
      ]
      fused = torch.stack(heads)  # [3, A, d, ...]
      cut = fused.reshape(fused.shape[1], 3, *fused.shape[2:])
      for i, part in enumerate(parts):
        value = cut[:, i].reshape(values[i].shape).clone()
        setattr(part, name, torch.nn.Parameter(value))
  return module


def small_bit():
  """Returns (model, params) of a BiT with channel scales of 2^-13 to 2^-5.

  At these scales the epsilon of the weight standardisation matters.
  """
  model = models.create(
    dict(
      model='bit_resnetv2',
      num_classes=10,
      block_units=(1, 1),
      width_factor=0.5,
      root_channels=32,
    )
  )
  shapes = parameter_shapes(model, (32, 32))
  flat = {
    name: reference.parameter(5, f'standardized/{name}', leaf.shape)
    if leaf.ndim == 4
    else reference.parameter(5, name, leaf.shape)
    for name, leaf in shapes.items()
  }
  return model, weights.trees.nest(flat)


def small_hybrid():
  """Returns (model, params, spec) of a ViT on a stem of one block."""
  spec = reference.config('hybrid_2_2')
  spec |= {'resnet': {'num_layers': [1], 'width_factor': 1}}
  spec |= {'transformer': spec['transformer'] | {'num_layers': 1}}
  spec |= {'image_size': [32, 32]}
  model = models.create(spec)
  shapes = parameter_shapes(model, (32, 32))
  flat = {
    name: reference.parameter(5, name, leaf.shape)
    for name, leaf in shapes.items()
  }
  return model, weights.trees.nest(flat), spec


def bit(params, *, conv_eps=1e-10, norm_eps=1e-5, pool='zeros'):
  """Returns transformers' form of `small_bit`."""
  config = transformers.BitConfig(
    embedding_size=32,
    hidden_sizes=[128, 256],
    depths=[1, 1],
    layer_type='preactivation',
    num_labels=10,
  )
  module = fill(transformers.BitForImageClassification(config), params)
  for part in module.modules():
    if type(part).__name__ == 'WeightStandardizedConv2d':
      part.eps = conv_eps
    if isinstance(part, torch.nn.GroupNorm):
      part.eps = norm_eps
  if pool != 'zeros':
    module.bit.embedder.pad = torch.nn.Identity()
    module.bit.embedder.pooler = torch.nn.MaxPool2d(3, 2, padding=1)
  return module


def deit_params(case):
  """Returns the canonical tree of a DeiT case, from its PyTorch names."""
  return ports.from_state_dict(
    reference.checkpoint(case),
    num_heads=reference.config(case)['num_heads'],
    library='deit',
  )


def timm_hybrid(params, spec, *, act='gelu_tanh', norm_eps=1e-6, conv=None):
  """Returns timm's hybrid; `conv=None` standardises weights as this package."""
  timm_stub.import_timm()
  from timm.layers import GroupNormAct, StdConv2dSame
  from timm.models.resnetv2 import ResNetV2
  from timm.models.vision_transformer import VisionTransformer
  from timm.models.vision_transformer_hybrid import HybridEmbed

  encoder = spec['transformer']
  module = VisionTransformer(
    img_size=spec['image_size'][0],
    patch_size=spec['patch_size'][0],
    embed_layer=functools.partial(
      HybridEmbed,
      backbone=ResNetV2(
        layers=spec['resnet']['num_layers'],
        num_classes=0,
        global_pool='',
        preact=False,
        stem_type='same',
        conv_layer=functools.partial(StdConv2dSame, eps=1e-8),
        norm_layer=functools.partial(GroupNormAct, num_groups=32),
      ),
    ),
    embed_dim=spec['hidden_size'],
    depth=encoder['num_layers'],
    num_heads=encoder['num_heads'],
    mlp_ratio=encoder['mlp_dim'] / spec['hidden_size'],
    num_classes=spec['num_classes'],
    act_layer=act,
  )
  fill(module, params, 'timm')
  for part in module.modules():
    if isinstance(part, torch.nn.GroupNorm):
      part.eps = norm_eps
    if conv is None and isinstance(part, StdConv2dSame):
      part.forward = functools.partial(_standardized_as_ours, part)
  return module


def _standardized_as_ours(conv, x):
  """Runs a timm convolution with the weights w / (std + 1e-5)."""
  from timm.layers import pad_same

  weight = conv.weight
  mean = weight.mean((1, 2, 3), keepdim=True)
  std = weight.std((1, 2, 3), correction=0, keepdim=True)
  x = pad_same(x, conv.kernel_size, conv.stride, conv.dilation)
  weight = (weight - mean) / (std + 1e-5)
  return torch.nn.functional.conv2d(x, weight, stride=conv.stride)
