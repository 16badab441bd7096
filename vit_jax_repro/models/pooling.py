"""Tokens before the patches, and the vector that a ViT's head gets.

The tokens of a ViT are the class token, the distillation token, the registers
and the patches, in this order. Only the patches have places in the image, so a
mean or an attention pool is over the patches alone.

Shapes: B batch, N tokens, D hidden.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.layers import pick

# {classifier: whether a class token is prepended, unless the field
# `class_token` decides}. 'token_and_gap' is the class token and the mean over
# the patches, concatenated (DINOv2, arXiv:2304.07193, linear evaluation).
CLASSIFIERS = {
  'token': True,
  'token_unpooled': True,
  'token_and_gap': True,
  'gap': False,
  'map': False,
  'unpooled': False,
}
# The classifiers whose head takes every token instead of a pooled vector.
UNPOOLED = {
  'token': 'token_unpooled',
  'token_and_gap': 'token_unpooled',
  'gap': 'unpooled',
}


def has_class_token(model: nn.Module) -> bool:
  """Returns whether a ViT has a class token."""
  if model.class_token is None:
    return CLASSIFIERS[model.classifier]
  return model.class_token


def num_prefix(model: nn.Module) -> int:
  """Returns the number of a ViT's tokens before its patches."""
  return has_class_token(model) + model.distilled + model.num_registers


def pool(model: nn.Module, x: jax.Array) -> jax.Array:  # [B, N, D]
  """Returns what the classifier takes from the tokens of the last block.

  Returns:
    [B, D]; [B, 2D] for 'token_and_gap'; all tokens for an unpooled model and
    the patches for 'map', whose attention pools them.
  """
  patches = x[:, num_prefix(model) :]
  if model.classifier == 'token':
    return x[:, 0]
  if model.classifier == 'gap':
    return patches.mean(axis=1)
  if model.classifier == 'token_and_gap':
    return jnp.concatenate([x[:, 0], patches.mean(axis=1)], axis=-1)
  return patches if model.classifier == 'map' else x


def check(model: nn.Module) -> None:
  """Checks the fields of a ViT on tokens, pooling and heads.

  Raises:
    InputError: a value is unknown, or two fields exclude each other.
  """
  classifier = model.classifier
  needs_token = pick('classifier', classifier, CLASSIFIERS)
  if needs_token and model.class_token is False:
    raise InputError(
      f'classifier={classifier!r} needs a class token, which class_token=False '
      "leaves out; use classifier='gap', or class_token=None"
    )
  if model.distilled and classifier != 'token':
    raise InputError(
      f"classifier={classifier!r} must be 'token' in a distilled model"
    )
  if not model.distilled and not model.distillation_head:
    raise InputError(
      'distillation_head=False is for a model with a distillation token; set '
      'distilled=True, or leave distillation_head out'
    )
  two_heads = model.distilled and model.distillation_head
  if model.fc_norm and (two_heads or classifier not in ('token', 'gap', 'map')):
    what = 'a model with two heads' if two_heads else f'{classifier=}'
    raise InputError(
      f'fc_norm=True normalises one pooled vector, which {what} does not have; '
      'use fc_norm=False'
    )
