"""Adapts restored parameters to a model: positions, head, pre_logits, stacking.

The rules are those of the original fine-tuning loader (vit_jax/checkpoint.py,
load_pretrained) and of the ViT paper, section 3.2.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.patches import patch_grid
from vit_jax_repro.models.two_towers import TwoTowers
from vit_jax_repro.output import messages
from vit_jax_repro.weights import (
  ablation_positions,
  description,
  layouts,
  positions,
  trees,
)

HEADS = ('head/', 'head_dist/')
MASK = 'mask'  # the [mask] embedding of a `corruptible` ViT
# Traces models whose parameters do not depend on the image (BiT, sincos2d).
ANY_IMAGE_SIZE = (224, 224)


def adapt(
  params: Mapping[str, Any],
  model: nn.Module,
  *,
  image_size: int | tuple[int, int] | None = None,
  head: str = 'reset',
  source_image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
  """Returns parameters in the form of `model`; `params` is not changed.

  Position embeddings are resized to `image_size`, by the rule that the model's
  `position_resizing` names. Those of the ablations in
  ViT D.4 are rejected at another size. If only one of file and model has a
  position slot for the class token (see `positions.slots`), the slot is added
  to the token or created as zeros. Floats are cast to the model's
  `param_dtype`, and scanned models get stacked blocks.

  With a new head, parts that the model lacks are dropped: pre_logits, the class
  token with its slot if the model pools without one, and the [mask] embedding
  of masked patch prediction. If only the model has a [mask] embedding, it is
  zeros. The norm of the tokens becomes that of the pooled vector (`fc_norm`),
  or the other way round. A kept head needs the file's pre_logits and its norm.

  Of an image-text model, any other model gets the image tower. An image-text
  model keeps both heads.

  Args:
    params: a tree from `load`, or of another model of this family.
    model: a module of `models.create`.
    image_size: S or (height, width) of the model's input in pixels; by default
      the size that the position embeddings were made for.
    head: 'reset' gives a fresh head (zero kernel, bias at the model's
      `head_bias_init`), 'keep' takes the file's.
    source_image_size: (height, width) in pixels that the file's positions were
      made for. It is needed only to resize positions of a rectangular image,
      which might be mistaken for a square one's. If given, it decides.

  Raises:
    InputError: the parameters do not fit; one line with all missing, extra
      and mis-shaped names.
  """
  if head not in ('reset', 'keep'):
    raise InputError(f"unknown {head=}; choose from ['keep', 'reset']")
  if isinstance(image_size, int):
    image_size = image_size, image_size
  if layouts.has_two_towers(params):
    image = layouts.tower(params, layouts.IMAGE)
    if isinstance(model, TwoTowers):
      adapted = adapt(
        image,
        model.img,
        image_size=image_size,
        head='keep',
        source_image_size=source_image_size,
      )
      return {layouts.IMAGE[:-1]: adapted, **_text_tower(params, model)}
    params = image
  elif isinstance(model, TwoTowers):
    raise InputError(
      'the weights have no text tower, and the model is an image-text model; '
      'give weights of two towers, or the model of the image tower'
    )
  flat = trees.unstack(trees.flatten(params))
  if image_size is None:
    image_size = description.describe(params)['image_size'] or ANY_IMAGE_SIZE
  unrolled = model.clone(scan=False) if hasattr(model, 'scan') else model
  wanted = parameter_shapes(unrolled, image_size)
  if head == 'reset':
    flat = _with_fresh_head(flat, wanted, model)
  grid = patch_grid(unrolled, image_size)
  source = source_image_size and patch_grid(unrolled, source_image_size)
  reasons = _mixing_reasons(flat, wanted, model, image_size)
  try:
    flat = positions.adapt(
      flat,
      wanted,
      grid,
      source_grid=source,
      drop_tokens=head == 'reset' and 'cls' not in wanted,
      rule=getattr(model, 'position_resizing', 'linear'),
    )
  except InputError as error:
    names = positions.name_in(flat), positions.name_in(wanted)
    reasons |= dict.fromkeys(names, f'{names[0]}: {error}')
  reasons |= ablation_positions.size_reasons(flat, wanted)
  check_fit(flat, wanted, reasons)
  flat = {name: _cast(flat[name], leaf.dtype) for name, leaf in wanted.items()}
  return trees.nest(
    trees.stack(flat) if getattr(model, 'scan', False) else flat
  )


def _text_tower(params, model):
  """Returns all of an image-text model but the image tower."""
  flat = trees.unstack(trees.flatten(params))
  flat = _without(flat, (layouts.IMAGE,))
  positions = flat.get('txt/pos_embedding')  # only a BERT has none
  length = 1 if positions is None else positions.shape[1]
  tokens = jax.ShapeDtypeStruct((1, length), 'int32')
  shapes = jax.eval_shape(model.init, jax.random.key(0), None, tokens)
  wanted = trees.flatten(shapes['params'])
  check_fit(flat, wanted)
  return trees.nest({k: _cast(flat[k], x.dtype) for k, x in wanted.items()})


def check_whole(
  flat: Mapping[str, np.ndarray],
  model: nn.Module,
  image_size: tuple[int, int] | None = None,
) -> None:
  """Raises an InputError unless a flat tree has all arrays of a model.

  Position embeddings are not compared: their grid may be that of a rectangle of
  unknown size.

  Args:
    flat: the tree, unrolled.
    model: a module of `models.create`.
    image_size: (height, width) in pixels that the weights are made for.
  """
  unrolled = model.clone(scan=False) if hasattr(model, 'scan') else model
  wanted = parameter_shapes(unrolled, image_size or ANY_IMAGE_SIZE)
  check_fit(_without_positions(flat), _without_positions(wanted))


def _without_positions(flat):
  return {n: x for n, x in flat.items() if not n.endswith('pos_embedding')}


def parameter_shapes(
  model: nn.Module, image_size: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns flat names, shapes and dtypes of a model without computing it.

  Positions of a text tower are those of a text of one token.
  """
  shapes = _traced_shapes(
    model,  # ty: ignore[invalid-argument-type]
    tuple(image_size),
  )
  return dict(shapes)


@functools.lru_cache(maxsize=32)  # a trace of 24 blocks takes a second
def _traced_shapes(model, image_size):
  inputs = [jax.ShapeDtypeStruct((1, *image_size, 3), 'float32')]
  if isinstance(model, TwoTowers):
    inputs.append(jax.ShapeDtypeStruct((1, 1), 'int32'))
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  return trees.flatten(variables['params'])


def check_fit(
  params: Mapping[str, Any],
  wanted: Mapping[str, jax.ShapeDtypeStruct],
  reasons: Mapping[str, str] | None = None,
) -> None:
  """Raises one InputError with every difference between two flat trees.

  Args:
    params: arrays of the file.
    wanted: shapes of the model.
    reasons: messages by name, reported instead of the shapes of that name. A
      message that several names share is reported once.

  Raises:
    InputError: names are missing, extra or mis-shaped, or `reasons` is not
      empty.
  """
  reasons = reasons or {}
  missing = _shown(wanted.keys() - params.keys() - reasons.keys())
  extra = params.keys() - wanted.keys() - reasons.keys()
  extra = _shown(map(messages.short, extra))
  shapes = _shown(
    f'{name}: file {tuple(params[name].shape)}, model {wanted[name].shape}'
    for name in wanted.keys() & params.keys() - reasons.keys()
    if tuple(params[name].shape) != wanted[name].shape
  )
  shapes += sorted(set(reasons.values()))
  if missing or extra or shapes:
    raise InputError(
      f'weights do not fit the model: {missing=} {extra=} {shapes=}; check the '
      'model name, number of classes and image size'
    )


def _shown(texts):
  """Returns the first few texts, those of blocks last, and how many more."""
  texts = sorted(texts, key=lambda text: ('/encoderblock_' in text, text))
  more = len(texts) - messages.MOST_NAMES
  return texts[: messages.MOST_NAMES] + [f'{more} more'] * (more > 0)


def _mixing_reasons(flat, wanted, model, image_size):
  """Returns a message for a Mixer's token-mixing weights of another size.

  By name; {} if they fit or the model is no Mixer.
  """
  name = 'MixerBlock_0/token_mixing/Dense_0/kernel'
  have, want = (np.shape(tree.get(name)) for tree in (flat, wanted))
  if (
    not len(have) == len(want) == 2 or have[0] == want[0] or have[1] != want[1]
  ):
    return {}
  size = description.pixels(have[0], model.patch_size)
  fixed = f'{size[0]}x{size[1]}' if size else f'{have[0]} patches'
  reason = (
    f'token_mixing: its weights fix the image size at {fixed}, not '
    f'{image_size[0]}x{image_size[1]}'
  )
  return {
    name: reason
    for name in flat.keys() & wanted.keys()
    if '/token_mixing/' in name and flat[name].shape != wanted[name].shape
  }


def _with_fresh_head(flat, wanted, model):
  flat = _without(flat, HEADS)
  flat = _with_norm_renamed(flat, wanted)
  if 'pre_logits/kernel' not in wanted:
    flat = _without(flat, ('pre_logits/',))
  if MASK not in wanted:
    flat.pop(MASK, None)
  elif MASK not in flat:
    flat[MASK] = np.zeros(wanted[MASK].shape, wanted[MASK].dtype)
  for name, leaf in wanted.items():
    if name.startswith(HEADS):
      start = model.head_bias_init if name.endswith('bias') else 0
      flat[name] = np.full(leaf.shape, start, leaf.dtype)
  return flat


def _with_norm_renamed(flat, wanted):
  """Returns the parameters with the last norm where the model has it."""
  for ours, theirs in (layouts.LAST_NORMS, layouts.LAST_NORMS[::-1]):
    if f'{ours}/scale' in wanted and f'{ours}/scale' not in flat:
      flat = {
        f'{ours}/{name.removeprefix(theirs)[1:]}'
        if name.startswith(f'{theirs}/')
        else name: array
        for name, array in flat.items()
      }
  return flat


def _without(flat, starts):
  return {n: array for n, array in flat.items() if not n.startswith(starts)}


def _cast(array, dtype):
  return array if array.dtype == dtype else np.asarray(array).astype(dtype)
