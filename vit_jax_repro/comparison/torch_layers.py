"""The modules of a port that compute the reference's named activations.

They are found by the names of known libraries, and in other models by their
form: type, shapes, and the order of their calls. What is not sure is left out.

Shapes: B batch, N tokens, D hidden, F mlp, K classes.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from vit_jax_repro.comparison import torch_calls, torch_paths
from vit_jax_repro.comparison.activations import LAYER_SCALES, NORMS
from vit_jax_repro.comparison.torch_calls import Call, Place
from vit_jax_repro.comparison.torch_paths import BLOCK, POSITIONS
from vit_jax_repro.weights import layouts

_ATTENTION, _MLP = '/MultiHeadDotProductAttention_0', '/MlpBlock_0'


class Form(NamedTuple):
  """Sizes of the reference by which parts of a port are recognised."""

  num_layers: int = 0
  hidden_size: int = 0
  mlp_dim: int = 0
  patch_size: tuple[int, int] | None = None
  num_classes: int = 0
  num_tokens: int = 0  # 0 if the reference adds no positions to its tokens

  @classmethod
  def of(cls, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> 'Form':
    """Returns the form of a model.

    Args:
      model: the reference, a linen module.
      shapes: {name: shape} of its activations.
    """
    fields = ('num_layers', 'hidden_size', 'mlp_dim', 'patch_size')
    values = {f: getattr(model, f, None) for f in fields}
    blocks = shapes.get(BLOCK.format(0), (0, 0))
    return cls(
      **{name: value for name, value in values.items() if value},
      num_classes=model.num_classes or 0,
      num_tokens=blocks[1] if POSITIONS in shapes else 0,
    )


def find(
  torch: Any,
  names: Collection[str],
  calls: Sequence[Call],
  modules: Collection[str],
  form: Form,
) -> dict[str, Place]:
  """Returns {name of the reference: place} for the names found.

  Args:
    torch: the library.
    names: names of activations of the reference.
    calls: calls of the port's modules in a forward pass.
    modules: paths of all modules of the port.
    form: sizes of the reference.
  """
  called = {call.path for call in calls}
  named = {
    name: Place(path)
    for name, path in torch_paths.module_paths(names, modules).items()
    if path in called
  }
  blocks = _blocks(torch, calls, named, form)
  found = _around_blocks(torch, calls, blocks, form)
  for i, block in enumerate(blocks):
    if _first(calls, block) is None:
      continue
    output = _block_output(calls, block, blocks[i + 1 : i + 2], found)
    found[BLOCK.format(i)] = output
    parts = _parts(torch, torch_calls.block_calls(calls, block), form)
    found |= {BLOCK.format(i) + part: place for part, place in parts.items()}
  wanted = set(names)
  if 'pre_logits_tanh' in wanted and 'pre_logits' in found:
    found['pre_logits_tanh'] = found.pop('pre_logits')
  found = {n: p for n, p in found.items() if n in wanted and p is not None}
  return named | found


def block_paths(places: Mapping[str, Place]) -> list[str]:
  """Returns paths of the blocks whose outputs are among the places."""
  pattern = re.compile(re.escape(BLOCK).replace(r'\{\}', r'\d+'))
  return [
    place.path
    for name, place in places.items()
    if pattern.fullmatch(name) and not place.is_input
  ]


def _blocks(torch, calls, named, form):
  """Returns the paths of the blocks, or [] if they are not sure.

  Some may not be called.
  """
  if not form.num_layers:
    return []
  paths = [named.get(BLOCK.format(i)) for i in range(form.num_layers)]
  if None not in paths:
    return [place.path for place in paths]
  roots = {c.path: c.module for c in calls}
  root = roots.get('')
  lists = torch.nn.ModuleList, torch.nn.Sequential
  for path, module in root.named_modules() if root is not None else ():
    if not isinstance(module, lists) or len(module) != form.num_layers:
      continue
    children = [
      f'{path}.{name}' if path else name for name, _ in module.named_children()
    ]
    starts = [_first(calls, child) for child in children]
    starts = [call for call in starts if call is not None]
    if (
      2 * len(starts) >= len(children)
      and all(c.input and c.input[-1] == form.hidden_size for c in starts)
      and starts == sorted(starts, key=lambda call: call.start)
      and not _has_calls_between(calls, children, starts)
    ):
      return children
  return []


def _has_calls_between(calls, children, starts):
  """Returns whether other modules with weights run between a list's modules.

  Then the list has but a part of each block, such as its first norm.
  """
  inside = tuple(f'{path}.' for path in children)
  return any(
    starts[0].start < c.start < starts[-1].start
    and not f'{c.path}.'.startswith(inside)
    and any(True for _ in c.module.parameters(recurse=False))
    for c in calls
  )


def _first(calls, path):
  """Returns the first call of a module, or else of one inside it."""
  own = next((call for call in calls if call.path == path), None)
  return own or next(iter(torch_calls.block_calls(calls, path)), None)


def _block_output(calls, path, following, found):
  """Returns the place of a block's output, or None.

  A block that is a mere list of modules is not called; its output is the first
  input of the next block.
  """
  if any(call.path == path for call in calls):
    return Place(path)
  if following:
    after = _first(calls, following[0])
    return after and Place(after.path, is_input=True)
  last = found.get(layouts.LAST_NORM)
  return last and Place(last.path, is_input=True)


def _around_blocks(torch, calls, blocks, form):
  """Returns the places before and after the blocks."""
  found = {}
  inside = tuple(f'{path}.' for path in blocks)
  outside = [c for c in calls if not f'{c.path}.'.startswith(inside or ('/',))]
  embedding = _patches(torch, outside, form)
  if embedding is not None:
    found['embedding'] = Place(embedding)
  if not blocks:
    return found
  ends = [c for c in (_first(calls, path) for path in blocks) if c is not None]
  first, last = ends[0], max(c.end for c in ends)
  tokens = form.num_tokens
  is_whole = first.path.startswith(blocks[0])
  if (
    is_whole
    and first.input
    and tokens in first.input[:2]
    and len(first.input) == 3
  ):
    found[POSITIONS] = Place(first.path, is_input=True)
  after = [c for c in outside if c.start > last]
  norms = {c.path for c in after if is_norm(torch, c.module, form.hidden_size)}
  if len(norms) == 1:
    found[layouts.LAST_NORM] = found[layouts.POOLED_NORM] = Place(norms.pop())
  heads = {
    c.path
    for c in after
    if isinstance(c.module, torch.nn.Linear)
    and c.module.out_features == form.num_classes
  }
  if len(heads) == 1:
    found['pre_logits'] = Place(heads.pop(), is_input=True)
  return found


def _patches(torch, calls, form):
  """Returns the path of the patch embedding, or None if it is not sure."""
  if not form.patch_size:
    return None
  pixels = 3 * form.patch_size[0] * form.patch_size[1]
  found = {
    c.path
    for c in calls
    if (
      isinstance(c.module, torch.nn.Conv2d)
      and c.module.kernel_size == c.module.stride == tuple(form.patch_size)
      and c.module.out_channels == form.hidden_size
    )
    or (
      isinstance(c.module, torch.nn.Linear)
      and c.module.in_features == pixels != form.hidden_size
      and c.module.out_features == form.hidden_size
    )
  }
  return found.pop() if len(found) == 1 else None


def is_norm(torch: Any, module: Any, width: int) -> bool:
  """Returns whether a module is a LayerNorm over a width."""
  if isinstance(module, torch.nn.LayerNorm):
    return tuple(module.normalized_shape) == (width,)
  weight = getattr(module, 'weight', None)
  return 'layernorm' in type(module).__name__.lower() and (
    isinstance(weight, torch.Tensor) and tuple(weight.shape) == (width,)
  )


def is_layer_scale(torch: Any, module: Any, width: int) -> bool:
  """Returns whether a module has one factor for each channel and no more."""
  own = list(module.parameters())
  return (
    len(own) == 1
    and own[0].numel() == width
    and not isinstance(module, torch.nn.Linear)
    and not is_norm(torch, module, width)
  )


def linears(torch: Any, calls: Sequence[Call]) -> list[Call]:
  """Returns the calls of linear layers, in order."""
  return [c for c in calls if isinstance(c.module, torch.nn.Linear)]


def _parts(torch, calls, form):
  """Returns {part: place} of a block, by the order of its linear layers.

  Before the MLP's two, a block has query, key and value (fused or not) and the
  output of the attention, or a `MultiheadAttention`.
  """
  wide, narrow = form.hidden_size, form.mlp_dim
  dense = linears(torch, calls)
  sizes = [(c.module.in_features, c.module.out_features) for c in dense]
  mlp = [(wide, narrow), (narrow, wide)]
  fused = [
    [(wide, 3 * wide)],
    3 * [(wide, wide)],
    [(wide, wide), (wide, 2 * wide)],
  ]
  attentions = [
    c for c in calls if isinstance(c.module, torch.nn.MultiheadAttention)
  ]
  if not attentions and sizes in [[*qkv, (wide, wide), *mlp] for qkv in fused]:
    attention = dense[-3]
  elif len(attentions) == 1 and sizes == mlp:
    attention = attentions[0]
  else:
    return {}
  found = {_ATTENTION: attention, _MLP: dense[-1]}
  norms = [c for c in calls if is_norm(torch, c.module, wide)]
  if len(norms) == 2 == len({c.path for c in norms}):
    # Pre-norm: the second norm is between attention and MLP. Post-norm: the
    # first one is.
    between = [attention.start < c.start < dense[-2].start for c in norms]
    if between in ([False, True], [True, False]):
      found |= dict(zip(NORMS, norms, strict=True))
  scales = [c for c in calls if is_layer_scale(torch, c.module, wide)]
  after = [attention.start < c.start < dense[-2].start for c in scales]
  if after == [True, False] and scales[1].start > dense[-1].start:
    found |= dict(zip(LAYER_SCALES, scales, strict=True))
  return {part: Place(call.path) for part, call in found.items()}
