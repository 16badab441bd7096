"""Causes that concern a ViT's tokens, their positions, and what the head gets.

The tokens are the class token, the distillation token, R registers and N
patches, in this order.

Shapes: B batch, T tokens, D hidden, P tokens before the patches, S slots.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vit_jax_repro.comparison.substitution import (
  POOLED,
  POSITIONS,
  Row,
  around,
  is_at,
  with_param,
)
from vit_jax_repro.models.pooling import has_class_token, num_prefix
from vit_jax_repro.models.transformer import Encoder
from vit_jax_repro.weights import layouts, positions, trees

_HEAD_INPUT = 'input of the head'


def rows(model: nn.Module, flat: Mapping[str, Any]) -> Iterator[Row]:
  """Yields the causes that apply to a model's tokens.

  Args:
    model: the reference, a ViT.
    flat: its parameters, flat and unrolled.
  """
  yield from _position_rows(model, flat)
  if model.num_registers:
    yield from _register_rows(model)
  if model.classifier == 'token' and not model.distilled:
    yield from _token_rows(model)
  elif model.classifier in ('gap', 'token_and_gap'):
    yield from _mean_rows(model)
  if model.classifier == 'gap':
    yield from _norm_rows(model)


def _position_rows(model, flat):
  """Yields positions that are left out, or given to other tokens."""
  topic, slot = 'position embeddings', 'a position for the class token too'
  name = positions.name_in(flat)
  if name is None:
    return
  if name == layouts.POSITIONS and model.classifier == 'token':
    changes = {'none for the class token': _without_first}
    if not model.num_registers:
      shown = 'the first ones for the patches, none for the class token'
      changes[shown] = _shifted
    for shown, change in changes.items():
      changed = functools.partial(with_param, name, change)
      yield topic, shown, slot, changed, POSITIONS
  if model.num_registers:
    given = functools.partial(_given_in_order, name)
    shown = 'given to the registers too, in the order of the tokens'
    yield topic, shown, 'none for the registers', given, POSITIONS
    if name == layouts.POSITIONS and 'cls' in flat:
      given = functools.partial(_given_to_registers, name)
      shown = "the class token's for the registers too"
      yield topic, shown, 'none for the registers', given, POSITIONS


def _without_first(embeddings):  # [1, S + N, D]
  return np.concatenate(
    [np.zeros_like(embeddings[:, :1]), embeddings[:, 1:]], axis=1
  )


def _shifted(embeddings):  # [1, S + N, D]
  return np.concatenate(
    [np.zeros_like(embeddings[:, :1]), embeddings[:, :-1]], axis=1
  )


def _given_in_order(name, variant):
  """Adds the first P positions to the tokens, the others to the patches.

  The last patches get none.
  """
  flat = dict(trees.flatten(variant.params))
  table = np.asarray(flat[name])
  slots = positions.prefix(flat, name)
  tokens = [token for token in ('cls', 'dist', 'registers') if token in flat]
  start = slots
  for token in tokens[slots:]:
    number = flat[token].shape[1]
    flat[token] = flat[token] + table[:, start : start + number]
    start += number
  missing = np.zeros_like(table[:, : start - slots])
  parts = [table[:, :slots], table[:, start:], missing]
  flat[name] = np.concatenate(parts, axis=1)
  return variant._replace(params=trees.nest(flat))


def _given_to_registers(name, variant):
  flat = trees.flatten(variant.params)
  first = np.asarray(flat[name])[:, :1]
  return with_param('registers', lambda a: a + first, variant)


def _register_rows(model):
  """Yields registers that are left out, or at another place."""
  topic = 'registers'
  ours = f'{model.num_registers} before the patches'
  where = f'{POSITIONS}|{POOLED}'
  yield topic, 'left out', ours, _without_registers, where
  places = ['after the patches']
  if has_class_token(model):
    places.append('before the class token')
  for shown in places:
    move = functools.partial(around, _moved(model, shown))
    yield topic, shown, ours, move, where


def _without_registers(variant):
  params = {k: v for k, v in variant.params.items() if k != 'registers'}
  model = variant.model.clone(num_registers=0)
  return variant._replace(model=model, params=params)


def _moved(model, place):
  """Returns an interceptor that puts the registers elsewhere.

  The head reads the same places as before.
  """
  patches = num_prefix(model)
  first = patches - model.num_registers

  def moved(a):  # [B, T, D]
    registers = a[:, first:patches]
    others = [a[:, :first], a[:, patches:]]
    parts = [*others, registers]
    if place == 'before the class token':
      parts = [registers, *others]
    return jnp.concatenate(parts, axis=1)

  def interceptor(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if not is_at(context, 'Transformer'):
      return out
    x, named = out
    return moved(x), {
      name: moved(a) if a.shape == x.shape else a for name, a in named.items()
    }

  return interceptor


def _token_rows(model):
  """Yields what a head may get that should get the class token."""
  first = num_prefix(model)
  read = {'the mean over all tokens': slice(None)}
  if model.num_registers:
    read['the mean over registers and patches'] = slice(1, None)
    read['the first register'] = slice(1, 2)
  read |= {
    'the mean over the patches': slice(first, None),
    'the first patch': slice(first, first + 1),
    'the last patch': slice(-1, None),
  }
  for theirs, tokens in read.items():
    change = functools.partial(around, _token_from(tokens))
    yield _HEAD_INPUT, theirs, 'the class token', change, POOLED
  if model.num_registers:
    return
  before = model.class_token_after_positions
  for own in (False,) if before else (False, True):
    for pooled in (-1, 0):
      shown = 'last' + (', with its own position' if own else '')
      shown += '' if pooled else '; the head reads the first patch'
      change = functools.partial(_token_last, own, pooled)
      where = f'{POSITIONS}|{POOLED}'
      yield 'class token', shown, 'first', change, where


def _mean_rows(model):
  """Yields other means, and other parts of the class token and a mean."""
  first, registers = num_prefix(model), model.num_registers
  means = {}
  if registers:
    means['registers counted as patches in the mean'] = first - registers
  if has_class_token(model):
    means['all tokens in the mean, the class token too'] = 0
  both = model.classifier == 'token_and_gap'
  ours = 'the mean over the patches'
  ours = f'the class token and {ours}' if both else ours
  for shown, start in means.items():
    mean = _patches_from(model, slice(start, None))
    yield _HEAD_INPUT, shown, ours, functools.partial(around, mean), POOLED
  if not both:
    if has_class_token(model):
      token = _patches_from(model, slice(0, 1))
      change = functools.partial(around, token)
      yield _HEAD_INPUT, 'the class token', ours, change, POOLED
    return
  shown = 'the mean first, then the class token'
  yield _HEAD_INPUT, shown, ours, _halves_exchanged, POOLED
  for shown, tokens in {
    'the class token alone': slice(first, None),
    'the mean over the patches alone': slice(0, 1),
  }.items():
    change = functools.partial(around, _without_tokens(tokens))
    yield _HEAD_INPUT, shown, ours, change, f'{POOLED}|logits$'


def _norm_rows(model):
  """Yields the last LayerNorm on the other side of the mean."""
  before, after = 'before the mean', 'after the mean'
  theirs, ours = (before, after) if model.fc_norm else (after, before)
  where = f'({layouts.LAST_NORM}|{layouts.POOLED_NORM})$'
  yield 'last LayerNorm', theirs, ours, _norm_moved, where


def _norm_moved(variant):
  is_pooled = variant.model.fc_norm
  old, new = (
    (layouts.POOLED_NORM, layouts.LAST_NORM)
    if is_pooled
    else (layouts.LAST_NORM, layouts.POOLED_NORM)
  )
  flat = trees.flatten(variant.params)
  moved = {
    f'{new}{name.removeprefix(old)}' if name.startswith(f'{old}/') else name: a
    for name, a in flat.items()
  }
  last = f'Transformer/encoderblock_{variant.model.num_layers - 1}'
  without = 'pre_logits' if is_pooled else last  # a port's empty module there

  def named_as_before(named):
    return named | {old: named[without]}

  return variant._replace(
    model=variant.model.clone(fc_norm=not is_pooled),
    params=trees.nest(moved),
    seen=(*variant.seen, named_as_before),
  )


def _halves_exchanged(variant):
  """Exchanges the two inputs of the head, and names them as the port does."""
  half = variant.model.hidden_size
  variant = with_param(
    'head/kernel', lambda a: np.roll(a, half, axis=0), variant
  )

  def exchanged(named):
    rolled = jnp.roll(named['pre_logits'], half, axis=-1)
    return named | {'pre_logits': rolled}

  return variant._replace(seen=(*variant.seen, exchanged))


def _token_last(own, pooled, variant):
  """Puts the class token after the patches.

  Args:
    own: it keeps its own position embedding, and the patches theirs.
    pooled: index of the token that the head reads, 0 or -1.
    variant: the reference.
  """

  def interceptor(call, args, kwargs, context):
    module = context.module
    if context.method_name == '__call__' and isinstance(module, Encoder):
      x, *rest = args
      x, named = call(jnp.roll(x, -1, axis=1), *rest, **kwargs)
      return (jnp.roll(x, 1, axis=1) if pooled else x), named
    x = call(*args, **kwargs)
    if own and is_at(context, 'Transformer', 'posembed_input'):
      x = jnp.roll(x, -1, axis=1)
    return x

  return around(interceptor, variant)


def _after_encoder(change):
  """Returns an interceptor that changes the tokens that the head gets."""

  def interceptor(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if is_at(context, 'Transformer'):
      x, named = out
      return change(x), named
    return out

  return interceptor


def _token_from(tokens):
  """Returns an interceptor that gives the head the mean of some tokens."""

  def change(x):  # [B, T, D]
    mean = x[:, tokens].mean(axis=1, keepdims=True)
    return jnp.concatenate([mean, x[:, 1:]], axis=1)

  return _after_encoder(change)


def _patches_from(model, tokens):
  """Returns an interceptor that gives all patches the mean of some tokens."""
  first = num_prefix(model)

  def change(x):  # [B, T, D]
    mean = x[:, tokens].mean(axis=1, keepdims=True)
    patches = jnp.broadcast_to(mean, x[:, first:].shape)
    return jnp.concatenate([x[:, :first], patches], axis=1)

  return _after_encoder(change)


def _without_tokens(tokens):
  return _after_encoder(lambda x: x.at[:, tokens].set(0))
