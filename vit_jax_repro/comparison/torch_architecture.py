"""Differences of architecture, read off a port before anything runs."""

from collections.abc import Mapping
from typing import Any

from vit_jax_repro import weights
from vit_jax_repro.comparison import torch_layers
from vit_jax_repro.errors import InputError

# Fields of `weights.describe`, and what they count.
_FIELDS = {
  'num_layers': 'blocks',
  'num_blocks': 'blocks',
  'block_units': 'units',
  'stem_num_layers': 'units of the stem',
  'block_channels': 'channels of the blocks',
  'kernel_sizes': 'pixels of the depthwise kernels',
  'expansions': 'times expanded',
  'squeeze_ratio': 'of the channels in squeeze-excitation',
  'hidden_size': 'wide',
  'hidden_dim': 'wide',
  'mlp_dim': 'wide in the MLP',
  'tokens_mlp_dim': 'wide in the MLP over tokens',
  'channels_mlp_dim': 'wide in the MLP over channels',
  'patch_size': 'patches',
  'num_classes': 'classes',
}


def check(
  torch: Any,
  name: str,
  module: Any,
  tree: Mapping[str, Any] | None,
  source: Mapping[str, Any],
) -> None:
  """Compares the sizes of a port with those of the weights.

  Args:
    torch: the library.
    name: name of the port.
    module: the port.
    tree: its parameters as a canonical tree, or None if unknown.
    source: the weights, a canonical tree.

  Raises:
    InputError: they are of different architectures; the message lists all
      sizes that differ.
  """
  ours = _described(source)
  theirs = _described(tree) if tree else _of_modules(torch, module, ours)
  different = _differing_parts(module, theirs if tree else None, ours)
  different += [
    f'{_shown(theirs[field])} {noun}, not {_shown(ours[field])}'
    for field, noun in _FIELDS.items()
    if theirs.get(field)
    and ours.get(field)
    and _plain(theirs[field]) != _plain(ours[field])
  ]
  if different:
    raise InputError(
      f'{name} is of another architecture than the weights: '
      f'{"; ".join(different)}; give the weights of the same model'
    )


def _differing_parts(module, theirs, ours):
  """Returns phrases on the parts that only one side has.

  A part that a module with names of its own seems to lack may be in its forward
  pass, so that only the parts that it has are sure there.
  """
  found = []
  mine = 'layer_scale_init' in ours
  if theirs is not None:
    other = 'layer_scale_init' in theirs
  else:
    scales = {type(part).__name__.lower() for part in module.modules()}
    other = True if any('layerscale' in name for name in scales) else mine
  if 'mlp_dim' in ours and other != mine:
    found.append(
      'LayerScale, which the weights lack'
      if other
      else 'no LayerScale, which the weights have'
    )
  if theirs is None or 'mlp_dim' not in ours:
    return found
  numbers = [side.get('num_registers', 0) for side in (theirs, ours)]
  if numbers[0] != numbers[1]:
    found.append(f'{numbers[0]} registers, not {numbers[1]}')
  return found


def _described(tree):
  """Returns the fields of a model, {} if they are unknown."""
  try:
    fields = weights.describe(tree)
  except InputError:
    return {}
  return {**fields, **fields.get('transformer', {})}


def _plain(value):
  return tuple(value) if isinstance(value, list | tuple) else value


def _shown(value):
  if isinstance(value, list | tuple):
    return 'x'.join(map(str, value))
  return str(value)


def _of_modules(torch, module, ours):
  """Returns the sizes that are sure in a ViT with names of its own."""
  if 'mlp_dim' not in ours:
    return {}
  found = {}
  convs = [
    part
    for part in module.modules()
    if isinstance(part, torch.nn.Conv2d) and part.in_channels == 3
  ]
  has_stem = ours.get('stem_num_layers') is not None
  if (
    not has_stem and len(convs) == 1 and convs[0].kernel_size == convs[0].stride
  ):
    found['patch_size'] = convs[0].kernel_size
    found['hidden_size'] = convs[0].out_channels
  width = found.get('hidden_size', ours['hidden_size'])
  blocks, paths = _blocks(torch, module, width)
  if blocks:
    found['num_layers'] = len(blocks)
    sizes = [
      part.out_features
      for part in blocks[0].modules()
      if isinstance(part, torch.nn.Linear)
    ]
    inner = [
      part.in_features
      for part in blocks[0].modules()
      if isinstance(part, torch.nn.Linear)
      and part.out_features == width
      and part.in_features != width
    ]
    if len(inner) == 1 and inner[0] in sizes:
      found['mlp_dim'] = inner[0]
    heads = [
      part
      for path, part in module.named_modules()
      if isinstance(part, torch.nn.Linear)
      and part.in_features in (width, 2 * width)
      and not path.startswith(paths)
    ]
    # A layer as wide as the tokens may be a pre_logits layer.
    heads = [part for part in heads if part.out_features != width]
    if len(heads) == 1:
      found['num_classes'] = heads[0].out_features
  return found


def _blocks(torch, module, width):
  """Returns the modules of the blocks and the starts of their paths.

  They are the one list of modules of one class that each have two LayerNorms
  and linear layers.
  """
  lists = []
  for path, part in module.named_modules():
    if not isinstance(part, torch.nn.ModuleList | torch.nn.Sequential):
      continue
    children = list(part.children())
    if (
      children
      and len({type(c) for c in children}) == 1
      and all(_is_block(torch, child, width) for child in children)
    ):
      lists.append((children, path))
  if len(lists) != 1:
    return [], ()
  children, path = lists[0]
  return children, (
    f'{path}.'
    if path
    else tuple(f'{name}.' for name, _ in module.named_children())
  )


def _is_block(torch, module, width):
  parts = list(module.modules())
  norms = [part for part in parts if torch_layers.is_norm(torch, part, width)]
  dense = [part for part in parts if isinstance(part, torch.nn.Linear)]
  return len(norms) == 2 and len(dense) >= 2
