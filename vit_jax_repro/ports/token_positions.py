"""Positions of class tokens and registers, where libraries have others.

A library's positions may have slots for the tokens before the patches that the
canonical tree does not have, or have none.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import forms
from vit_jax_repro.weights import layouts, positions


def has_token_slots(flat: Mapping[str, Any]) -> bool:
  """Returns whether a flat tree's positions have a row for the class token.

  timm's no_embed_class is the opposite.
  """
  return layouts.POSITIONS in flat and 'cls' in flat


def for_library(flat: Mapping[str, Any], library: str) -> dict[str, Any]:
  """Returns a flat tree with the positions of a library's model.

  They have the name `layouts.POSITIONS`, and slots of zeros where the library
  has slots that the tree does not have.
  """
  if library == 'timm' and 'registers' in flat and has_token_slots(flat):
    zeros = np.zeros_like(flat['registers'])
    rows = np.split(
      np.asarray(flat[layouts.POSITIONS]), [_tokens(flat)], axis=1
    )
    rows.insert(1, zeros)
    return {**flat, layouts.POSITIONS: np.concatenate(rows, axis=1)}
  flat = dict(flat)
  if layouts.POSITIONS_BEFORE_CLS not in flat:
    return flat
  array = np.asarray(flat.pop(layouts.POSITIONS_BEFORE_CLS))
  # In facebookresearch/deit the models with LayerScale have no slots.
  if library != 'timm' and not (library == 'deit' and forms.is_scaled(flat)):
    slots = np.zeros_like(array[:, : _tokens(flat)])
    array = np.concatenate([slots, array], axis=1)
  return flat | {layouts.POSITIONS: array}


def from_timm(
  flat: Mapping[str, Any], token_slots: bool | None
) -> dict[str, Any]:
  """Returns a flat tree of timm's arrays with the canonical positions.

  Positions without slots are named `layouts.POSITIONS_BEFORE_CLS`. Positions of
  registers are added to the registers, with a note.

  Args:
    flat: with timm's positions under the name `layouts.POSITIONS`.
    token_slots: see `ports.from_state_dict`.
  """
  flat = dict(flat)
  tokens = _tokens(flat)
  if layouts.POSITIONS not in flat or not (tokens or 'registers' in flat):
    return flat
  embeddings = flat[layouts.POSITIONS]
  count = embeddings.shape[1]
  if 'registers' in flat and token_slots is not False:
    registers = flat['registers'].shape[1]
    if token_slots or positions.slots(count, tokens + registers):
      first, own, rest = np.split(embeddings, [tokens, tokens + registers], 1)
      note(
        'the positions of the registers were added to the registers: the same '
        'logits, but other numbers'
      )
      return flat | {
        'registers': flat['registers'] + own,
        layouts.POSITIONS: np.concatenate([first, rest], axis=1),
      }
  if token_slots is None:
    token_slots = positions.slots(count, tokens) != 0
  if tokens and not token_slots:
    flat[layouts.POSITIONS_BEFORE_CLS] = flat.pop(layouts.POSITIONS)
  return flat


def _tokens(flat):
  """Returns the number of class and distillation tokens."""
  return ('cls' in flat) + ('dist' in flat)
