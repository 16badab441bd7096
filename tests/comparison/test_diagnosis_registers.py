"""Small DINOv2 and DeiT III of timm and transformers against the reference."""

import pytest

from vit_jax_repro.models.positions import RESIZINGS

VIT = dict(
  model='vit',
  patch_size=(4, 4),
  hidden_size=16,
  num_layers=2,
  num_heads=2,
  mlp_dim=64,
  gelu='erf',
  layer_scale_init=1.0,
)
TIMM = dict(position_resizing='bicubic_antialias')
DINO = dict(position_resizing='bicubic')
REGISTERS = dict(num_registers=2, position_resizing='bicubic_antialias')
SQUARE, WIDE = (20, 20), (12, 28)


def compare(library, size, change=None, **fields):
  import register_ports

  return register_ports.compare(VIT, library, SQUARE, size, change, **fields)


@pytest.mark.parametrize('size', [SQUARE, WIDE])
@pytest.mark.parametrize(
  ('library', 'fields'),
  [
    ('timm', TIMM),
    ('timm', TIMM | dict(class_token_after_positions=True)),
    ('timm', REGISTERS),
    ('transformers', DINO),
    ('transformers', REGISTERS),
  ],
)
def test_every_layer_agrees(library, fields, size):
  """A difference is at most ten times the noise of float32 in every layer."""
  found = compare(library, size, **fields)
  assert found.agrees and not found.not_compared and not found.named
  names = [layer.name for layer in found.layers]
  for i in (0, 1):
    for part in ('', '/LayerScale_0', '/LayerScale_1', '/MlpBlock_0'):
      assert f'Transformer/encoderblock_{i}{part}' in names
  assert {'Transformer/posembed_input', 'pre_logits', 'logits'} <= {*names}


def without_scales(module):
  """Leaves out LayerScale in the forward pass of either library."""
  for name, part in module.named_modules():
    if name.endswith(('.ls1', '.ls2', '.layer_scale1', '.layer_scale2')):
      part.forward = lambda x: x


def counting_registers(module):
  """Takes registers for patches, as the class of Dinov2 did that it is from."""
  module.config.num_register_tokens = 0


@pytest.mark.parametrize(
  ('library', 'change', 'fields', 'cause'),
  [
    ('timm', without_scales, TIMM, 'LayerScale: left out, not'),
    ('transformers', without_scales, DINO, 'LayerScale: left out, not'),
    (
      'transformers',
      counting_registers,
      REGISTERS,
      'input of the head: registers counted as patches in the mean',
    ),
    *(
      (
        library,
        None,
        fields | dict(position_resizing=wrong),
        f'position embeddings resized: {RESIZINGS[right]}, not',
      )
      for library, fields, right, wrong in (
        ('timm', {}, 'bicubic_antialias', 'linear'),
        ('transformers', {}, 'bicubic', 'bicubic_offset'),
        ('transformers', REGISTERS, 'bicubic_antialias', 'bicubic'),
      )
    ),
  ],
)
def test_diagnose_names_a_fault_in_a_library(library, change, fields, cause):
  found = compare(library, WIDE, change, **fields)
  assert not found.agrees and found.explained and not found.alternatives
  assert len(found.named) == 1 and str(found.named[0]).startswith(cause)
