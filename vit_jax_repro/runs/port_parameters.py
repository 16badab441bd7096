"""A port's parameters and a file's, brought to one form or into the other."""

import math

import numpy as np

from vit_jax_repro import ports, weights
from vit_jax_repro.comparison import causes, parameters, torch_models
from vit_jax_repro.ports import state_dicts
from vit_jax_repro.runs.restoring import note
from vit_jax_repro.weights import messages, positions, stacking
from vit_jax_repro.weights.adapt import HEADS, patch_grid


def canonical(port, restored):
  """(library, canonical tree) of a port; (None, None): its names are unknown.

  Args:
    port: torch_models.Port.
    restored: restoring.Restored, whose number of heads it is read with.
  """
  try:
    state = _state(port)
    library = ports.library_of(state)
    tree = ports.from_state_dict(
      state,
      num_heads=getattr(restored.model, 'num_heads', None),
      library=library,
    )
  except ValueError as error:
    note(f"the port's weights are not compared: {error}")
    return None, None
  return library, tree


def give(port, params):
  """Puts the parameters of a canonical tree, converted, into the port.

  Raises:
    ValueError: the names of the port are unknown, or they do not fit.
  """
  torch = torch_models.require_torch()
  given = port.module.state_dict().keys()
  state = ports.to_state_dict(params, ports.library_of(given))
  start = ports.wrapper_of(given)
  state = {
    start + name: state_dicts.to_torch(torch, np.array(array))
    for name, array in state.items()
  }
  try:
    port.module.load_state_dict(state)
  except RuntimeError as error:
    raise ValueError(
      f'the weights do not fit {port.name}: {messages.short(error)}; check '
      'the model, the number of classes and the image size'
    ) from None


def _state(port):  # {name of the port: array of its own dtype}
  torch = torch_models.require_torch()
  return {
    name: state_dicts.to_numpy(torch, port.name, name, value)
    for name, value in port.module.state_dict().items()
  }


def as_cause(tree, source, restored):
  """The port's own weights as a cause of differences, None if they are none.

  Args:
    tree: canonical, of the port; None: unknown.
    source: canonical, of the file.
    restored: restoring.Restored, the model they are fitted to.
  """
  if tree is None or parameters.compare(source, tree).equal:
    return None
  # A head of other classes fits nothing here; the rest of the port may.
  for fitting, text in (
    (tree, causes.PORT_WEIGHTS),
    (_with_head(tree, source), causes.PORT_WEIGHTS_BUT_HEAD),
  ):
    try:
      fitted = weights.adapt(
        fitting, restored.model, image_size=restored.image_size, head='keep'
      )
    except ValueError:
      continue
    return causes.port_weights(fitted, text)
  return None  # the table of weights says what is missing


def _with_head(tree, other):
  """A canonical tree with the head of another."""
  flat, others = stacking.flatten(tree), stacking.flatten(other)
  kept = {n: a for n, a in flat.items() if not n.startswith(HEADS)}
  return stacking.nest(
    kept | {n: a for n, a in others.items() if n.startswith(HEADS)}
  )


def resized_positions(source, restored):
  """How a file's position embeddings were resized; None if they were not."""
  flat = stacking.unstack(stacking.flatten(source))
  name = positions.name_in(flat)
  grid = patch_grid(restored.model, restored.image_size)
  if name is None or grid is None:
    return None
  embeddings = np.asarray(flat[name])
  tokens = positions.slots(embeddings.shape[1], positions.prefix(flat, name))
  if tokens is None:
    return None
  side = math.isqrt(embeddings.shape[1] - tokens)
  if (side, side) == grid:
    return None
  return causes.Positions(embeddings, (side, side), grid, tokens)
