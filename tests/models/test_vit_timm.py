"""LayerScale, registers and pooling of timm's ViT, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm_stub
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.models.layers import INTERMEDIATES
from vit_jax_repro.weights import trees

torch = pytest.importorskip('torch')

SIZE, WIDTH, LAYERS = 12, 16, 2
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, SIZE, SIZE, 3))
TINY = dict(gelu='erf', num_layers=LAYERS)
# {model: (our fields, timm's arguments)}.
MODELS = {
  'DINOv2': (dict(layer_scale_init=1e-5), dict(init_values=1e-5)),
  'DINOv2, registers': (
    dict(
      layer_scale_init=1e-5,
      num_registers=4,
      class_token_after_positions=True,
    ),
    dict(init_values=1e-5, reg_tokens=4, no_embed_class=True),
  ),
  'DeiT III': (
    dict(layer_scale_init=1e-5, class_token_after_positions=True),
    dict(init_values=1e-5, no_embed_class=True),
  ),
  'mean, class token': (
    dict(classifier='gap', class_token=True, fc_norm=True, num_registers=2,
         class_token_after_positions=True),
    dict(global_pool='avg', reg_tokens=2, no_embed_class=True),
  ),
  'mean, no class token': (
    dict(classifier='gap', fc_norm=True),
    dict(global_pool='avg', class_token=False),
  ),
}  # fmt: skip


def params_of(spec):
  """Returns random parameters with a LayerScale far from 1."""
  flat = trees.flatten(tiny_models.params_of(spec, (SIZE, SIZE)))
  draw = np.random.default_rng(2)
  for name, array in flat.items():
    if '/LayerScale_' in name:
      flat[name] = draw.uniform(0.1, 2, array.shape).astype('f4')
  return flat


def dense(name, flat):
  """Returns a kernel's weight and its bias in PyTorch's form."""
  kernel, bias = flat[f'{name}/kernel'], flat[f'{name}/bias']
  inputs = kernel.size // bias.size
  return kernel.reshape(inputs, -1).T, bias.reshape(-1)


def state_of(flat):
  """Returns timm's names for the arrays of a tree, written out here."""
  own = {}
  for ours, theirs in (
    ('Transformer/encoder_norm', 'norm'),
    ('fc_norm', 'fc_norm'),
  ):
    if f'{ours}/scale' in flat:
      own[f'{theirs}.weight'] = flat[f'{ours}/scale']
      own[f'{theirs}.bias'] = flat[f'{ours}/bias']
  for ours, theirs in (
    ('cls', 'cls_token'),
    ('registers', 'reg_token'),
    ('pos_embedding', 'pos_embed'),
    ('Transformer/posembed_input/pos_embedding', 'pos_embed'),
  ):
    if ours in flat:
      own[theirs] = flat[ours]
  kernel = flat['embedding/kernel']
  own['patch_embed.proj.weight'] = kernel.transpose(3, 2, 0, 1)
  own['patch_embed.proj.bias'] = flat['embedding/bias']
  own['head.weight'], own['head.bias'] = dense('head', flat)
  for i in range(LAYERS):
    ours, theirs = f'Transformer/encoderblock_{i}', f'blocks.{i}'
    attention = f'{ours}/MultiHeadDotProductAttention_0'
    parts = [dense(f'{attention}/{part}', flat) for part in QKV]
    layers = {
      'attn.qkv': tuple(map(np.concatenate, zip(*parts, strict=True))),
      'attn.proj': dense(f'{attention}/out', flat),
      'mlp.fc1': dense(f'{ours}/MlpBlock_0/Dense_0', flat),
      'mlp.fc2': dense(f'{ours}/MlpBlock_0/Dense_1', flat),
    }
    for number in (0, 1):
      norm = f'{ours}/LayerNorm_{number}'
      layers[f'norm{number + 1}'] = flat[f'{norm}/scale'], flat[f'{norm}/bias']
      if f'{ours}/LayerScale_{number}/scale' in flat:
        scale = flat[f'{ours}/LayerScale_{number}/scale']
        own[f'{theirs}.ls{number + 1}.gamma'] = scale
    for layer, (weight, bias) in layers.items():
      own[f'{theirs}.{layer}.weight'] = weight
      own[f'{theirs}.{layer}.bias'] = bias
  return {n: torch.from_numpy(np.array(a)) for n, a in own.items()}


QKV = ('query', 'key', 'value')


def timm_values(flat, arguments, dtype):
  """Returns the outputs of timm's blocks and its logits."""
  model = timm_stub.import_timm().models.VisionTransformer(
    img_size=SIZE, patch_size=4, embed_dim=WIDTH, depth=LAYERS, num_heads=2,
    mlp_ratio=2, num_classes=3, **arguments,
  )  # fmt: skip
  model.load_state_dict(state_of(flat))
  model = model.eval().to(dtype)
  found = {}
  for i, block in enumerate(model.blocks):
    block.register_forward_hook(
      lambda *args, i=i: found.update({f'encoderblock_{i}': args[2]})
    )
  with torch.no_grad():
    images = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)).to(dtype)
    found['logits'] = model(images)
  return {name: value.double().numpy() for name, value in found.items()}


def our_values(spec, flat):
  logits, variables = models.create(spec).apply(
    {'params': trees.nest(flat)},
    jnp.asarray(IMAGES, jnp.float32),
    mutable=[INTERMEDIATES],
  )
  named = variables[INTERMEDIATES]
  blocks = [f'encoderblock_{i}' for i in range(LAYERS)]
  found = {block: named[f'Transformer/{block}'][0] for block in blocks}
  return jax.device_get(found | {'logits': logits})


@pytest.mark.parametrize('name', MODELS)
def test_every_block_equals_timm_within_ten_times_its_noise(name):
  fields, arguments = MODELS[name]
  spec = tiny_models.spec(3, **TINY, **fields)
  flat = params_of(spec)
  exact = timm_values(flat, arguments, torch.float64)
  noisy = timm_values(flat, arguments, torch.float32)
  for part, value in our_values(spec, flat).items():
    noise = np.abs(noisy[part] - exact[part]).max()
    assert value.shape == exact[part].shape
    assert np.abs(value - exact[part]).max() < 10 * noise, (part, noise)
