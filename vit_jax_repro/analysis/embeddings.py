"""Position embeddings and the filters of the first layer (ViT paper, Figure 7).

Shapes: (h, w) grid of patches, D hidden, (p, q) pixels of a filter.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax_repro import models
from vit_jax_repro.analysis import attention
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import positions
from vit_jax_repro.weights import layouts, trees

# Names of filters of RGB values in canonical trees: the patch embeddings of a
# ViT, the stem of a Mixer, and the first convolutions of hybrids and BiT.
_FILTERS = ('conv_root/kernel', *layouts.FAMILY_MARKERS)
_ADDED = ('learned', 'learned2d', 'sincos2d')


def position_table(
  model: models.ViT,
  params: Mapping[str, Any],
  grid: tuple[int, int],
  layer: int = 0,
) -> np.ndarray:
  """Returns the position embeddings [h, w, D] of the patches.

  Args:
    model: a ViT.
    params: parameters of the model, adapted to the grid.
    grid: numbers of rows and columns of patches.
    layer: the layer, for a model with embeddings in every layer.

  Raises:
    InputError: the model is not a ViT, or adds no embeddings to the patches or
      in this layer.
  """
  attention.require_vit(model)
  kind = model.position_embedding
  if kind not in _ADDED:
    raise InputError(
      f'the model has position_embedding={kind!r}, with no vector for a patch; '
      f'those of {", ".join(_ADDED)} can be compared'
    )
  own_layers = model.position_embedding_at == 'every_layer'
  layers = model.num_layers if own_layers else 1
  if not 0 <= layer < layers:
    raise InputError(
      f'{layer=} has no position embeddings; the model has those of layers '
      f'0 to {layers - 1}'
    )
  module = positions.PositionEmbedding(kind=kind, grid=grid)
  own = _below(params, _place(model, layer))
  first = 0 if model.class_token_after_positions else _num_prefix(params)
  tokens = jnp.zeros((1, first + math.prod(grid), model.hidden_size))
  table = np.asarray(module.apply({'params': own}, tokens), np.float64)
  return table[0, first:].reshape(*grid, -1)


def similarity(table: np.ndarray) -> np.ndarray:  # [h, w, D] -> [h, w, h, w]
  """Returns the cosine similarity of every two position embeddings.

  See the ViT paper, Figures 7 (centre) and 10. The similarity of zeros is 0.

  Raises:
    InputError: the table is not finite.
  """
  if not np.isfinite(table).all():
    raise InputError('the position embeddings hold NaN or infinity')
  height, width, _ = table.shape
  norms = np.linalg.norm(table, axis=-1, keepdims=True)
  unit = table / np.where(norms > 0, norms, 1)
  return np.einsum('hwd,yxd->hwyx', unit, unit).reshape(
    height, width, height, width
  )


def rgb_filters(params: Mapping[str, Any]) -> np.ndarray:
  """Returns the kernel [p, q, 3, D] of the first layer, as stored.

  Raises:
    InputError: there is no kernel of RGB values, or it is not finite.
  """
  flat = trees.flatten(params)
  name = next((name for name in _FILTERS if name in flat), None)
  if name is None or flat[name].shape[2] != 3:
    raise InputError('the weights have no filters of RGB values')
  kernel = np.asarray(flat[name], np.float64)
  if not np.isfinite(kernel).all():
    raise InputError(f'{name} holds NaN or infinity')
  return kernel


def principal_components(
  kernel: np.ndarray, number: int = 28
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the principal components of D filters [p, q, 3, D].

  See the ViT paper, Figure 7 (left), which shows 28. The filters are centred.
  A component has length 1, and its largest entry is positive.

  Returns:
    Components [n, p, q, 3] and their parts of the variance [n], largest first.
    n is `number`, or less if D filters have fewer components.

  Raises:
    InputError: all filters are alike.
  """
  rows = kernel.reshape(-1, kernel.shape[-1]).T  # [D, p*q*3]
  _, sizes, components = np.linalg.svd(
    rows - rows.mean(axis=0), full_matrices=False
  )
  if not sizes.any():
    raise InputError('all filters are alike; they have no components')
  count = min(number, len(components), len(rows) - 1)
  components = components[:count]
  largest = np.abs(components).argmax(axis=1)
  signs = np.sign(components[np.arange(count), largest])
  shares = (sizes**2 / (sizes**2).sum())[:count]
  return (
    (components * signs[:, None]).reshape(count, *kernel.shape[:3]),
    shares,
  )


def _place(model, layer):
  """Returns the path of the embeddings in the canonical tree."""
  if model.class_token_after_positions:
    return ''
  return {
    'stem': 'Transformer/posembed_input/',
    'shared': 'Transformer/posembed_shared/',
    'every_layer': f'Transformer/encoderblock_{layer}/posembed_layer/',
  }[model.position_embedding_at]


def _below(params, place):
  """Returns the arrays directly below a path; stacked blocks are unstacked."""
  flat = trees.unstack(trees.flatten(params))
  found = {
    name.removeprefix(place): value
    for name, value in flat.items()
    if name.startswith(place)
  }
  return {name: value for name, value in found.items() if '/' not in name}


def _num_prefix(params):
  """Returns the number of tokens with positions that are not patches."""
  return sum(name in params for name in ('cls', 'dist'))
