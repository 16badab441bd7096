"""Parameters of a port: read, compared with a weights file's, and loaded."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro import ports, weights
from vit_jax_repro.comparison import causes, torch_models
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference.restoring import Restored
from vit_jax_repro.models.patches import patch_grid
from vit_jax_repro.output import messages
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import tensors
from vit_jax_repro.weights import positions, trees
from vit_jax_repro.weights.adapt import HEADS


@dataclasses.dataclass(frozen=True)
class Parameters:
  """The comparison of two trees of parameters."""

  num_arrays: int  # in the reference
  num_equal: int  # arrays that are equal bit for bit
  # (name, largest absolute difference), the largest first.
  different: tuple[tuple[str, float], ...]
  # (name, reason): missing in the port, only in the port, or two shapes.
  unmatched: tuple[tuple[str, str], ...]

  @property
  def equal(self) -> bool:
    """Returns whether both trees have the same arrays."""
    return not self.different and not self.unmatched


def compare(
  reference: Mapping[str, Any], port: Mapping[str, Any]
) -> Parameters:
  """Compares two canonical trees, nested or flat, array by array."""
  reference, port = trees.flatten(reference), trees.flatten(port)
  different, unmatched = {}, {}
  for name in reference.keys() | port.keys():
    if name not in port:
      unmatched[name] = 'missing in the port'
    elif name not in reference:
      unmatched[name] = 'only in the port'
    elif reference[name].shape != port[name].shape:
      unmatched[name] = (
        f'{tuple(port[name].shape)}, not {tuple(reference[name].shape)}'
      )
    elif not np.array_equal(reference[name], port[name]):
      gap = np.asarray(port[name], np.float64)
      gap = gap - np.asarray(reference[name], np.float64)
      different[name] = float(np.nan_to_num(np.abs(gap), nan=np.inf).max())
  found = len(different) + sum(name in reference for name in unmatched)
  return Parameters(
    num_arrays=len(reference),
    num_equal=len(reference) - found,
    different=tuple(sorted(different.items(), key=lambda item: -item[1])),
    unmatched=tuple(sorted(unmatched.items())),
  )


def canonical(
  port: torch_models.Port, restored: Restored
) -> tuple[str, dict[str, Any]] | tuple[None, None]:
  """Returns the library of a port, and its parameters as a canonical tree.

  Returns (None, None) and prints a note if the names of the port are unknown.

  Args:
    port: the port.
    restored: the reference, for its number of heads.
  """
  try:
    state = _state(port)
    library = ports.library_of(state)
    tree = ports.from_state_dict(
      state,
      num_heads=getattr(restored.model, 'num_heads', None),
      library=library,
    )
  except InputError as error:
    note(f"the port's weights are not compared: {error}")
    return None, None
  return library, tree


def give(port: torch_models.Port, params: Mapping[str, Any]) -> None:
  """Loads the parameters of a canonical tree, converted, into a port.

  Raises:
    InputError: the names of the port are unknown, or the parameters do not fit.
  """
  torch = torch_models.require_torch()
  names = port.module.state_dict().keys()
  state = ports.to_state_dict(params, ports.library_of(names))
  prefix = ports.wrapper_of(names)
  state = {
    prefix + name: tensors.to_torch(torch, np.array(array))
    for name, array in state.items()
  }
  try:
    port.module.load_state_dict(state)
  except RuntimeError as error:
    raise InputError(
      f'the weights do not fit {port.name}: {messages.short(error)}; check '
      'the model, the number of classes and the image size'
    ) from None


def as_cause(
  tree: Mapping[str, Any] | None, source: Mapping[str, Any], restored: Restored
) -> causes.Cause | None:
  """Returns the port's own weights as a cause of differences.

  Returns None if they are unknown, equal to the file's or do not fit the model.

  Args:
    tree: canonical tree of the port, or None if unknown.
    source: canonical tree of the file.
    restored: the model that the weights are adapted to.
  """
  if tree is None or compare(source, tree).equal:
    return None
  # A head with other classes does not fit the model, but the rest may.
  for fitting, text in (
    (tree, causes.PORT_WEIGHTS),
    (_with_head(tree, source), causes.PORT_WEIGHTS_BUT_HEAD),
  ):
    try:
      fitted = weights.adapt(
        fitting, restored.model, image_size=restored.image_size, head='keep'
      )
    except InputError:
      continue
    return causes.port_weights(fitted, text)
  return None  # the table of weights shows the missing arrays


def resized_positions(
  source: Mapping[str, Any], restored: Restored
) -> causes.ResizedPositions | None:
  """Returns the position embeddings that were resized, or None.

  Args:
    source: canonical tree of the file.
    restored: the model, with the image size.
  """
  flat = trees.unstack(trees.flatten(source))
  name = positions.name_in(flat)
  grid = patch_grid(restored.model, restored.image_size)
  if name is None or grid is None:
    return None
  embeddings = np.asarray(flat[name])
  tokens = positions.slots(embeddings.shape[1], positions.prefix(flat, name))
  if tokens is None:
    return None
  side = math.isqrt(embeddings.shape[1] - tokens)
  fitted = np.asarray(trees.flatten(restored.params)[name])
  if (side, side) == grid or np.array_equal(fitted, embeddings):
    return None
  return causes.ResizedPositions(embeddings, (side, side), grid, tokens)


def _state(port):  # {name in the port: array of its own dtype}
  torch = torch_models.require_torch()
  return {
    name: tensors.to_numpy(torch, port.name, name, value)
    for name, value in port.module.state_dict().items()
  }


def _with_head(tree, other):
  """Returns a canonical tree with the head of another."""
  flat, others = trees.flatten(tree), trees.flatten(other)
  kept = {n: a for n, a in flat.items() if not n.startswith(HEADS)}
  return trees.nest(
    kept | {n: a for n, a in others.items() if n.startswith(HEADS)}
  )
