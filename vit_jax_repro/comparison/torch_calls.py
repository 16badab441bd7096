"""Calls of the modules in a PyTorch module, and the tensors that they pass."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple


class Place(NamedTuple):
  """Where a port has an activation: a module's output, or its first input."""

  path: str
  is_input: bool = False

  def __str__(self) -> str:
    return f'input of {self.path}' if self.is_input else self.path


@dataclasses.dataclass
class Call:
  """One call of a module in a forward pass."""

  path: str
  module: Any
  start: int  # number of the call in the order in which calls began
  input: tuple[int, ...] | None  # shape of the first tensor
  output: tuple[int, ...] | None = None
  end: int = -1  # number of the last call that began inside


def first_tensor(torch: Any, value: Any) -> Any:
  """Returns the first tensor of a module's inputs or output, or None."""
  value = getattr(value, 'last_hidden_state', value)
  if isinstance(value, Mapping):
    value = tuple(value.values())
  if isinstance(value, tuple | list):
    found = (first_tensor(torch, part) for part in value)
    return next((part for part in found if part is not None), None)
  return value if isinstance(value, torch.Tensor) else None


@contextlib.contextmanager
def tracing(torch: Any, module: Any) -> Generator[list[Call]]:
  """Yields a list of the calls of all modules, filled by a forward pass."""
  calls, open_calls, handles = [], [], []

  def before(path, part, args, kwargs):
    shape = _shape(first_tensor(torch, (args, kwargs)))
    call = Call(path, part, len(calls), shape)
    calls.append(call)
    open_calls.append(call)

  def after(output):
    call = open_calls.pop()
    call.output, call.end = _shape(first_tensor(torch, output)), len(calls) - 1

  for path, part in module.named_modules():
    handles += [
      part.register_forward_pre_hook(
        lambda m, a, k, p=path: before(p, m, a, k), with_kwargs=True
      ),
      part.register_forward_hook(lambda m, a, output: after(output)),
    ]
  try:
    yield calls
  finally:
    for handle in handles:
      handle.remove()


@contextlib.contextmanager
def watching(
  torch: Any,
  module: Any,
  places: Mapping[str, Place],
  keep: Callable[[str, Any], None],
) -> Generator[None]:
  """Calls `keep(name, tensor)` for the tensor at each place, at each call."""
  modules, handles = dict(module.named_modules()), []
  for name, (path, is_input) in places.items():
    if is_input:

      def before(part, args, kwargs, name=name):
        del part
        if (tensor := first_tensor(torch, (args, kwargs))) is not None:
          keep(name, tensor)

      register = modules[path].register_forward_pre_hook
      handles.append(register(before, with_kwargs=True))
    else:

      def after(part, args, output, name=name):
        del part, args
        if (tensor := first_tensor(torch, output)) is not None:
          keep(name, tensor)

      handles.append(modules[path].register_forward_hook(after))
  try:
    yield
  finally:
    for handle in handles:
      handle.remove()


def block_calls(calls: Sequence[Call], path: str) -> list[Call]:
  """Returns the calls of the modules inside a module, in its first call."""
  inside = [call for call in calls if call.path.startswith(f'{path}.')]
  own = next((call for call in calls if call.path == path), None)
  if own is None:
    return inside
  return [call for call in inside if own.start < call.start <= own.end]


def _shape(tensor):
  return None if tensor is None else tuple(tensor.shape)
