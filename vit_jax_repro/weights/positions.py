"""Position embeddings: token slots, resizing, and moving between models.

The arithmetic of slots is big_vision's (models/vit.py, fix_old_checkpoints).
`position_rules` has the arithmetic of resizing (ViT paper, section 3.2).

Shapes: N position embeddings, D hidden, (h, w) grid of patches, P prefix
tokens (class and distillation token), S slots (the embeddings among the N that
belong to prefix tokens).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.weights import layouts, position_rules, trees


def name_in(flat: Mapping[str, Any]) -> str | None:
  """Returns the position embedding's name in a flat tree, None without one."""
  known = (layouts.POSITIONS_BEFORE_CLS, layouts.POSITIONS)
  return next((name for name in known if name in flat), None)


def prefix(flat: Mapping[str, Any], name: str) -> int:
  """Returns P, the number of prefix tokens that positions `name` apply to."""
  if name == layouts.POSITIONS_BEFORE_CLS:
    return 0
  return ('cls' in flat) + ('dist' in flat)


def note_on_slot(params: Mapping[str, Any], fitted: Any) -> str | None:
  """Returns a note if the class token gets a position embedding of zeros.

  Only the number of positions in a file without a card shows that it has none.

  Args:
    params: the tree of the file.
    fitted: the tree of the model.
  """
  if not is_token_without_slot(params) or is_token_without_slot(fitted):
    return None
  if 'cls' not in fitted:
    return None
  return (
    f'{count_in(params)} position embeddings form a square, so they are taken '
    'to be those of the patches only; the class token gets one of zeros'
  )


def slots(num_embeddings: int, prefix: int) -> int | None:
  """Returns S, the number of token slots among N embeddings of a square image.

  If N - P is a square, each of the P tokens has a slot. Otherwise, if N is a
  square, no token has a slot and all positions belong to patches. Otherwise
  the image is not square and the result is None.
  """
  for count in (prefix, 0):
    cells = num_embeddings - count
    if cells > 0 and math.isqrt(cells) ** 2 == cells:
      return count
  return None


def count_in(params: Mapping[str, Any]) -> int:
  """Returns N of a tree, 0 without position embeddings."""
  flat = trees.flatten(params)
  name = name_in(flat)
  return flat[name].shape[1] if name else 0


def is_token_without_slot(params: Mapping[str, Any]) -> bool:
  """Returns whether a tree has a class token without a slot, by `slots`."""
  flat = trees.flatten(params)
  name = name_in(flat)
  if name is None:
    return False
  num_tokens = prefix(flat, name)
  return num_tokens > 0 and slots(flat[name].shape[1], num_tokens) == 0


def adapt(
  flat: Mapping[str, Any],
  wanted: Mapping[str, Any],
  grid: tuple[int, int] | None,
  *,
  source_grid: tuple[int, int] | None = None,
  drop_tokens: bool = False,
  rule: str = 'linear',
) -> dict[str, Any]:
  """Converts position embeddings to the name, slots and grid of a model.

  Args:
    flat: parameters by flat name; arrays are not changed.
    wanted: arrays or shapes of the model by flat name.
    grid: (h, w) of the model; None for a model without patches.
    source_grid: (h, w) of the file's patches. By default the model's own if the
      numbers agree (also for rectangles), else the square that `slots` implies.
    drop_tokens: drop class and distillation tokens that the model lacks.
    rule: a key of `position_rules.RULES`.

  Raises:
    InputError: N does not match the grid; one line with the reason.
  """
  have, want = name_in(flat), name_in(wanted)
  if have is None or want is None or not _alike(flat[have], wanted[want]):
    return dict(flat)  # the later check of all names reports the difference
  assert grid is not None, 'models with position embeddings have patches'
  flat = dict(flat)
  embeddings = flat.pop(have)
  count, source_grid = _read(
    embeddings.shape[1], prefix(flat, have), grid, source_grid
  )
  flat[want] = position_rules.resize(
    embeddings, grid, source_grid=source_grid, num_tokens=count, rule=rule
  )
  wanted_count = prefix(wanted, want)
  if count != wanted_count:
    flat |= _move_slots(flat, wanted, want, count, wanted_count)
  if drop_tokens:
    for token in _TOKENS:
      if token not in wanted:
        flat.pop(token, None)
  return flat


def resize_position_embedding(
  posemb: np.ndarray,
  grid: tuple[int, int],
  *,
  has_class_token: bool = True,
  source_grid: tuple[int, int] | None = None,
  rule: str = 'linear',
) -> np.ndarray:
  """Resizes position embeddings, by default as the original does.

  Args:
    posemb: [1, P + N, D] floats, P = 1 with a class token, else 0.
    grid: (h, w) to resize to.
    has_class_token: whether the first embedding is the class token's, which is
      kept unchanged.
    source_grid: (h, w) of the N embeddings; a square by default.
    rule: a key of `position_rules.RULES`; 'linear' is `scipy.ndimage.zoom` with
      aligned corners, as in the original (`interpolate_posembed`).

  Returns:
    [1, P + h * w, D] in the dtype of `posemb`; the same array if the grid does
    not change.

  Raises:
    InputError: the N embeddings do not match the source grid.
  """
  count = int(has_class_token)
  cells = posemb.shape[1] - count
  side = math.isqrt(cells)
  source_grid = source_grid or (side, side)
  if math.prod(source_grid) != cells:
    raise InputError(
      f'{cells} position embeddings (after {count} of class tokens) do '
      f'not form a grid of {tuple(source_grid)}; give the image size that they '
      'were made for (convert --image_size)'
    )
  return position_rules.resize(
    posemb, grid, source_grid=source_grid, num_tokens=count, rule=rule
  )


_TOKENS = ('cls', 'dist')  # in the order of their slots


def _alike(embeddings, wanted):
  """Returns whether both are [1, any, D]."""
  return embeddings.ndim == 3 and (embeddings.shape[::2] == wanted.shape[::2])


def _read(num_embeddings, num_tokens, grid, source_grid):
  """Returns (S, source grid) of N embeddings, by the rules of `adapt`."""
  if source_grid:
    count = num_embeddings - math.prod(source_grid)
    if count in (num_tokens, 0):
      return count, source_grid
  elif num_embeddings == num_tokens + math.prod(grid):
    return num_tokens, grid
  elif (count := slots(num_embeddings, num_tokens)) is not None:
    return count, (math.isqrt(num_embeddings - count),) * 2
  elif num_embeddings == math.prod(grid):
    return 0, grid
  tokens = f' (with or without {num_tokens} for tokens)' if num_tokens else ''
  shape = f'a grid of {tuple(source_grid)}' if source_grid else 'a square grid'
  raise InputError(
    f'{num_embeddings} position embeddings{tokens} do not form {shape}; give '
    'the image size that they were made for (convert --image_size)'
  )


def _move_slots(flat, wanted, name, count, wanted_count):
  """Adds missing slots as zeros, or adds superfluous slots to their tokens.

  Returns:
    The changed parameters by name.
  """
  embeddings = np.asarray(flat[name])
  own, cells = embeddings[:, :count], embeddings[:, count:]
  moved = {}
  if not wanted_count:
    for i, token in enumerate(t for t in _TOKENS if t in flat):
      slot = own[:, i : i + 1]
      if token in wanted and flat[token].shape == slot.shape:
        moved[token] = flat[token] + slot
  zeros = np.zeros_like(
    own, shape=(1, max(wanted_count - count, 0), cells.shape[-1])
  )
  moved[name] = np.concatenate([own[:, :wanted_count], zeros, cells], axis=1)
  return moved
