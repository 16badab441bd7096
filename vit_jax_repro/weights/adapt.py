"""Fits restored parameters to a model: positions, head, pre_logits, stacking.

The rules are those of the original fine-tuning loader (vit_jax/checkpoint.py,
load_pretrained and interpolate_posembed); ViT paper, section 3.2.

Shapes: N tokens, D hidden, (h, w) grid of patches, P prefix tokens (class and
distillation token).
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import scipy.ndimage

from vit_jax_repro.weights import description, names, stacking

HEADS = ('head/', 'head_dist/')
# A model whose parameters do not depend on the image (BiT, sincos2d) is
# traced at this size.
ANY_IMAGE_SIZE = (224, 224)


def adapt(
  params: Mapping[str, Any],
  model: nn.Module,
  *,
  image_size: tuple[int, int] | None = None,
  head: str = 'reset',
  source_image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
  """Returns new parameters in the form that `model` wants; `params` stays.

  Position embeddings are resized to `image_size`. With a new head, a file's
  pre_logits are dropped if the model has none; a kept head needs them. A
  class token's position slot is folded in or made (as zeros) where file and
  model differ in whether positions are added before or after the token; with
  a new head, class token and slot are dropped if the model pools without one.
  Floats take the model's `param_dtype`; scanned models get stacked blocks.

  Args:
    params: a tree as `load` returns it, or of another model of this family.
    model: a module of `models.create`.
    image_size: (height, width) in pixels that the model will see; by default
      the size that the position embeddings were made for.
    head: 'reset' gives a fresh head (zero kernel, bias at the model's
      `head_bias_init`), 'keep' takes the file's.
    source_image_size: (height, width) behind the file's positions; needed
      only to resize those of an image that is not square.

  Raises:
    ValueError: the parameters do not fit; one line with all missing, extra
      and mis-shaped names.
  """
  if head not in ('reset', 'keep'):
    raise ValueError(f"unknown {head=}; choose from ['keep', 'reset']")
  flat = stacking.unstack(stacking.flatten(params))
  if image_size is None:
    image_size = description.describe(params)['image_size'] or ANY_IMAGE_SIZE
  unrolled = model.clone(scan=False) if hasattr(model, 'scan') else model
  wanted = parameter_shapes(unrolled, image_size)
  if head == 'reset':
    flat = _with_fresh_head(flat, wanted, model)
  grid = _grid(unrolled, image_size)
  source = source_image_size and _grid(unrolled, source_image_size)
  flat = _adapt_positions(flat, wanted, grid, source, head)
  check_fit(flat, wanted)
  flat = {name: _cast(flat[name], leaf.dtype) for name, leaf in wanted.items()}
  return stacking.nest(
    stacking.stack(flat) if getattr(model, 'scan', False) else flat
  )


def parameter_shapes(
  model: nn.Module, image_size: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Flat names, shapes and dtypes of a fresh model, without computing it."""
  image = jax.ShapeDtypeStruct((1, *image_size, 3), 'float32')
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  return stacking.flatten(variables['params'])


def check_fit(
  params: Mapping[str, Any], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> None:
  """Raises one ValueError with every difference between two flat trees."""
  missing = sorted(wanted.keys() - params.keys())
  extra = sorted(params.keys() - wanted.keys())
  shapes = [
    f'{name}: file {tuple(params[name].shape)}, model {wanted[name].shape}'
    for name in sorted(wanted.keys() & params.keys())
    if tuple(params[name].shape) != wanted[name].shape
  ]
  if missing or extra or shapes:
    raise ValueError(
      f'weights do not fit the model: {missing=} {extra=} {shapes=}; check the '
      'model name, number of classes and image size'
    )


def resize_position_embedding(
  posemb: np.ndarray,
  grid: tuple[int, int],
  *,
  has_class_token: bool = True,
  source_grid: tuple[int, int] | None = None,
) -> np.ndarray:
  """Resizes position embeddings bilinearly with aligned corners.

  `scipy.ndimage.zoom(order=1)`, as the original (`interpolate_posembed`).

  Args:
    posemb: [1, P + N, D] floats, P = 1 with a class token, else 0.
    grid: (h, w) to resize to.
    has_class_token: whether the first embedding is a token's and stays.
    source_grid: (h, w) of the N embeddings; a square by default.

  Returns:
    [1, P + h * w, D] in the dtype of `posemb`; the same array if nothing
    changes.

  Raises:
    ValueError: the N embeddings are no such grid.
  """
  return _resize(posemb, grid, int(has_class_token), source_grid)


def _resize(posemb, grid, prefix, source_grid):
  tokens, cells = posemb[:, :prefix], posemb[0, prefix:]
  source_grid = source_grid or (math.isqrt(len(cells)),) * 2
  if math.prod(source_grid) != len(cells):
    raise ValueError(
      f'{len(cells)} position embeddings (after {prefix} of class tokens) are '
      f'no grid of {tuple(source_grid)}; give the image size they were made for'
    )
  if tuple(source_grid) == tuple(grid):
    return posemb
  cells = np.asarray(cells).reshape(*source_grid, -1)
  factors = (grid[0] / source_grid[0], grid[1] / source_grid[1], 1)
  wide = cells.astype(np.promote_types(cells.dtype, np.float32))
  cells = scipy.ndimage.zoom(wide, factors, order=1).astype(posemb.dtype)
  cells = cells.reshape(1, -1, posemb.shape[-1])
  return np.concatenate([np.asarray(tokens), cells], axis=1)


def _grid(model, image_size):
  """(h, w) of the patch grid of an image, None for models without one."""
  patch_size = getattr(model, 'patch_size', None)
  if patch_size is None:
    return None
  height, width = image_size
  stages = getattr(model, 'stem_num_layers', None)
  if stages is not None:  # every 'SAME' stride of 2 rounds up
    for _ in range(2 + max(len(stages) - 1, 0)):
      height, width = -(-height // 2), -(-width // 2)
  return height // patch_size[0], width // patch_size[1]


def _adapt_positions(flat, wanted, grid, source_grid, head):
  """Brings the position embedding to the name, slots and grid wanted."""
  have = next((n for n in _POSITIONS if n in flat), None)
  want = next((n for n in _POSITIONS if n in wanted), None)
  if have is None or want is None or _prefix(wanted) > _prefix(flat):
    return flat  # the check of all names will tell
  if have == want and flat[have].shape == wanted[want].shape:
    return flat
  flat = dict(flat)
  posemb = flat.pop(have)
  prefix = 0 if have == names.POSITIONS_BEFORE_CLS else _prefix(flat)
  want_prefix = 0 if want == names.POSITIONS_BEFORE_CLS else _prefix(wanted)
  if prefix and posemb.shape[1] == math.prod(grid) and 'cls' in wanted:
    prefix = 0  # just the grid: a file whose class token has no slot
  posemb = _resize(posemb, grid, prefix, source_grid)
  if prefix and 'cls' not in wanted and head == 'reset':
    flat = _without(flat, ('cls', 'dist'))
    posemb = posemb[:, prefix:]
  elif prefix == 1 and want_prefix == 0 and 'cls' in wanted:
    flat['cls'] = flat['cls'] + posemb[:, :1]
    posemb = posemb[:, 1:]
  elif prefix == 0 and want_prefix == 1 and 'cls' in flat:
    posemb = np.concatenate([np.zeros_like(posemb[:, :1]), posemb], axis=1)
  flat[want] = posemb
  return flat


_POSITIONS = (names.POSITIONS, names.POSITIONS_BEFORE_CLS)


def _prefix(flat):
  return ('cls' in flat) + ('dist' in flat)


def _without(flat, starts):
  return {n: array for n, array in flat.items() if not n.startswith(starts)}


def _with_fresh_head(flat, wanted, model):
  flat = _without(flat, HEADS)
  if 'pre_logits/kernel' not in wanted:
    flat = _without(flat, ('pre_logits/',))
  for name, leaf in wanted.items():
    if name.startswith(HEADS):
      start = model.head_bias_init if name.endswith('bias') else 0
      flat[name] = np.full(leaf.shape, start, leaf.dtype)
  return flat


def _cast(array, dtype):
  return array if array.dtype == dtype else np.asarray(array).astype(dtype)
