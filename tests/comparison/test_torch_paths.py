"""Paths of PyTorch modules under the names of the reference."""

import pytest

from vit_jax_repro.comparison import torch_paths

pytestmark = pytest.mark.quick

VIT = (
  'embedding',
  'Transformer/posembed_input',
  'Transformer/encoderblock_1',
  'Transformer/encoder_norm',
)


@pytest.mark.parametrize(
  ('modules', 'expected'),
  [
    (  # timm
      ('patch_embed', 'pos_drop', 'norm_pre', 'blocks.1', 'norm'),
      ('patch_embed', 'norm_pre', 'blocks.1', 'norm'),
    ),
    (  # transformers 5
      (
        'vit.embeddings.patch_embeddings',
        'vit.embeddings',
        'vit.layers.1',
        'vit.layernorm',
      ),
      (
        'vit.embeddings.patch_embeddings',
        'vit.embeddings',
        'vit.layers.1',
        'vit.layernorm',
      ),
    ),
    (  # transformers 4, without head
      ('embeddings', 'encoder.layer.1', 'encoder.layer.11', 'layernorm'),
      (None, 'embeddings', 'encoder.layer.1', 'layernorm'),
    ),
    (  # transformers, DINOv2
      (
        'dinov2_with_registers.embeddings',
        'dinov2_with_registers.encoder.layer.1',
        'dinov2.embeddings.patch_embeddings',
        'dinov2.layernorm',
      ),
      (
        'dinov2.embeddings.patch_embeddings',
        'dinov2_with_registers.embeddings',
        'dinov2_with_registers.encoder.layer.1',
        'dinov2.layernorm',
      ),
    ),
    (('nothing', 'of.the.kind'), (None,) * 4),
  ],
)
def test_module_paths_in_a_vit(modules, expected):
  found = torch_paths.module_paths(VIT, modules)
  assert tuple(map(found.get, VIT)) == expected


def test_module_paths_count_stages_from_0():
  found = torch_paths.module_paths(
    ('root_block', 'block1', 'block4'),
    ('bit.embedder', 'bit.encoder.stages.0', 'bit.encoder.stages.3'),
  )
  assert found == {
    'root_block': 'bit.embedder',
    'block1': 'bit.encoder.stages.0',
    'block4': 'bit.encoder.stages.3',
  }
