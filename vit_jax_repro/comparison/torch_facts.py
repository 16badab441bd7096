"""Constants and settings read off the modules of a port, as facts."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vit_jax_repro.comparison import torch_calls, torch_layers
from vit_jax_repro.comparison.torch_calls import Call
from vit_jax_repro.output import messages

# Classes of activations by name, besides torch.nn.GELU: those of timm 1.0 and
# transformers 4 and 5.
_ACTIVATIONS = {
  'GELUActivation': 'erf',
  'GELUTanh': 'tanh',
  'NewGELUActivation': 'tanh',
  'PytorchGELUTanh': 'tanh',
  'FastGELUActivation': 'tanh',
  'QuickGELUActivation': 'quick_gelu',
  'QuickGELU': 'quick_gelu',
  'ReLU': 'relu',
  'SiLU': 'silu',
  'SiLUActivation': 'silu',
}
DRAWS = (
  'after eval() the port still draws random numbers, as a dropout does that '
  'stays on.'
)
_HEADS = ('num_heads', 'n_heads', 'num_attention_heads', 'nhead', 'heads')


def constants(
  torch: Any, calls: Sequence[Call], blocks: Sequence[str]
) -> dict[str, Any]:
  """Returns {field of our models: value} where the port surely uses one value.

  Args:
    torch: the library.
    calls: calls of the port's modules in a forward pass.
    blocks: paths of its blocks.

  Returns:
    `layer_norm_eps`, `group_norm_eps`, `batch_norm_eps`, and `gelu`: 'tanh',
    'erf', or a key of `structural_causes.ACTIVATIONS`.
  """
  found = {}
  kinds = {
    'layer_norm_eps': torch.nn.LayerNorm,
    'group_norm_eps': torch.nn.GroupNorm,
    'batch_norm_eps': torch.nn.BatchNorm2d,
  }
  for field, kind in kinds.items():
    values = {c.module.eps for c in calls if isinstance(c.module, kind)}
    others = [c for c in calls if 'norm' in type(c.module).__name__.lower()]
    # A norm of another class may have another constant.
    if len(values) == 1 and all(
      isinstance(c.module, (*kinds.values(),)) for c in others
    ):
      found[field] = values.pop()
  used = [_activation_of(torch, calls, path) for path in blocks]
  if used and None not in used and len(set(used)) == 1:
    found['gelu'] = used[0]
  return found


def _activation_of(torch, calls, block):
  """Returns the name of the activation in a block's MLP, or None."""
  inside = torch_calls.block_calls(calls, block)
  dense = torch_layers.linears(torch, inside)
  if len(dense) < 2:
    return None
  between = [
    name
    for c in inside
    if dense[-2].start < c.start < dense[-1].start
    and (name := _activation(torch, c.module)) is not None
  ]
  return between[0] if len(between) == 1 else None


def _activation(torch, module):
  if isinstance(module, torch.nn.GELU):
    return {'none': 'erf', 'tanh': 'tanh'}.get(module.approximate)
  name = type(module).__name__
  if name == 'GELU' and type(module).__module__.startswith('timm.'):
    return 'erf'
  return _ACTIVATIONS.get(name)


def training_modes(module: Any) -> str:
  """Returns a sentence on the modules in training mode, before eval()."""
  parts = list(module.modules())
  training = [part for part in parts if part.training]
  if not training:
    return 'eval() was called; the port was in evaluation mode already.'
  dropouts = [part for part in training if _dropout_rate(part)]
  which = 'all' if len(training) == len(parts) else f'{len(training)} of'
  more = (
    f', {len(dropouts)} of them with dropout'
    if dropouts
    else ', none of them with dropout'
  )
  return (
    f'eval() was called; before, {which} {len(parts)} modules were in training '
    f'mode{more}. Call it in your own evaluation, too.'
  )


def facts(
  torch: Any, module: Any, calls: Sequence[Call], blocks: Collection[str]
) -> list[str]:
  """Returns sentences on the constants of a port's modules.

  Args:
    torch: the library.
    module: the port.
    calls: calls of its modules in a forward pass.
    blocks: paths of its blocks.
  """
  parts = dict(module.named_modules())
  found = []
  for kind in ('LayerNorm', 'GroupNorm'):
    norms = [
      part
      for part in parts.values()
      if isinstance(part, getattr(torch.nn, kind))
    ]
    found += _counted(f'{kind}s', 'eps', [f'{part.eps:g}' for part in norms])
  activations = [_activation(torch, part) for part in parts.values()]
  words = {'erf': 'GELU with erf', 'tanh': 'GELU with the tanh approximation'}
  activations = [words.get(a, a) for a in activations if a is not None]
  found += [
    f'{number} activations are {name}.'
    for name, number in sorted(Counter(activations).items())
  ]
  found += _counted('modules', 'heads', _heads(parts.values()))
  rates = [rate for part in parts.values() if (rate := _dropout_rate(part))]
  found += _counted('dropouts', 'rate', [f'{rate:g}' for rate in rates])
  return found + _odd_calls(torch, parts, calls, blocks)


def _counted(noun, what, values):
  """Yields 'all 25 LayerNorms have eps=1e-06.', or how many have which."""
  counts = Counter(values)
  if len(counts) == 1:
    (value,) = counts
    number = f'all {len(values)}' if len(values) > 1 else 'the one'
    verb = 'have' if len(values) > 1 else 'has'
    noun = noun if len(values) > 1 else noun.removesuffix('s')
    yield f'{number} {noun} {verb} {what}={value}.'
  elif counts:
    shown = ', '.join(f'{n} with {what}={v}' for v, n in counts.most_common())
    yield f'{len(values)} {noun}: {shown}.'


def _heads(parts):
  """Returns the numbers of heads of modules that have such an attribute."""
  found = []
  for part in parts:
    values = (getattr(part, name, None) for name in _HEADS)
    values = [v for v in values if isinstance(v, int) and v > 0]
    found += map(str, values[:1])
  return found


def _dropout_rate(part):
  """Returns the rate of a dropout, 0 for other modules."""
  if 'Drop' in type(part).__name__:
    rate = getattr(part, 'p', None) or getattr(part, 'drop_prob', None)
  else:
    rate = getattr(part, 'dropout', None)  # of a MultiheadAttention
  return rate if isinstance(rate, float) else 0.0


def _odd_calls(torch, parts, calls, blocks):
  """Returns sentences on modules that are not called exactly once."""
  times = Counter(call.path for call in calls)
  own = [
    path
    for path, part in parts.items()
    if path and (path in blocks or any(True for _ in part.parameters(False)))
  ]
  inside = tuple(
    f'{path}.'
    for path, part in parts.items()
    if isinstance(part, torch.nn.MultiheadAttention)  # uses weights directly
  )
  kinds = (
    torch.nn.LayerNorm,
    torch.nn.GroupNorm,
    torch.nn.Linear,
    torch.nn.Conv2d,
  )
  never = [
    path
    for path in own
    if not times[path]
    and isinstance(parts[path], kinds)
    and not path.startswith(inside or ('/',))
  ]
  found = []
  if never:
    found.append(f'never called as modules: {messages.listed(never)}.')
  # Of a module that is called often, its parts are, too.
  often = [path for path in own if times[path] > 1]
  top = [
    path
    for path in often
    if not any(path.startswith(f'{other}.') for other in often)
  ]
  found += [f'{path} is called {times[path]} times.' for path in top[:4]]
  return found


def differing(
  known: Mapping[str, Any], model: Any
) -> dict[str, tuple[Any, Any]]:
  """Returns {field: (value of the port, of the reference)} that differ."""
  return {
    field: (value, getattr(model, field))
    for field, value in known.items()
    if hasattr(model, field) and getattr(model, field) != value
  }
