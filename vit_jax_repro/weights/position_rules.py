"""Rules for resizing position embeddings to another grid of patches.

`models.positions.RESIZINGS` describes them. All but the original's are those of
`torch.nn.functional.interpolate`, computed in float64. They are separable: each
has a matrix of weights for each axis.

Shapes: N slots, D hidden, T tokens before the patches, (h, w) grid of patches.
"""

from collections.abc import Callable

import numpy as np
import scipy.ndimage

from vit_jax_repro.models.layers import pick

ORIGINAL = 'linear'


def resize(
  embeddings: np.ndarray,
  grid: tuple[int, int],
  *,
  source_grid: tuple[int, int],
  num_tokens: int,
  rule: str,
) -> np.ndarray:
  """Resizes [1, T + N, D] to [1, T + h * w, D].

  Args:
    embeddings: [1, T + N, D]; the first T slots are kept unchanged.
    grid: (h, w) of the result.
    source_grid: (h, w) of `embeddings`.
    num_tokens: T.
    rule: a key of `RULES`.

  Returns:
    The embeddings in their dtype; the same array if the grid does not change.

  Raises:
    InputError: the rule is unknown.
  """
  apply = pick('position_resizing', rule, RULES)
  if tuple(source_grid) == tuple(grid):
    return embeddings
  cells = np.asarray(embeddings[0, num_tokens:]).reshape(*source_grid, -1)
  cells = apply(cells, grid).astype(embeddings.dtype)
  cells = cells.reshape(1, -1, embeddings.shape[-1])
  return np.concatenate([np.asarray(embeddings[:, :num_tokens]), cells], axis=1)


def _aligned(cells, grid):  # [h, w, D]
  """Resizes bilinearly with aligned corners, as `interpolate_posembed` does."""
  factors = (grid[0] / cells.shape[0], grid[1] / cells.shape[1], 1)
  wide = cells.astype(np.promote_types(cells.dtype, np.float32))
  return scipy.ndimage.zoom(wide, factors, order=1)


def _separable(matrix):
  """Returns a rule that has a matrix [target, source] for each axis."""

  def apply(cells, grid):  # [h, w, D]
    cells = np.asarray(cells, np.float64)
    rows, columns = (
      matrix(source, target)
      for source, target in zip(cells.shape, grid, strict=False)
    )
    return np.einsum('Hh,Ww,hwd->HWd', rows, columns, cells, optimize=True)

  return apply


def _kernel_linear(x):
  return np.maximum(0, 1 - np.abs(x))


def _kernel_cubic(a):
  """Returns Keys' cubic convolution kernel with free parameter `a`."""

  def kernel(x):
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))

  return kernel


def _interpolating(kernel, reach, offset=0.0):
  """Returns a matrix with half-pixel centres that repeats the border values.

  Args:
    kernel: function of the distance in cells of the source.
    reach: number of cells of the source on either side.
    offset: the step between centres is that of a target with this many cells
      more, so that they move towards the start.
  """

  def matrix(source, target):
    weights = np.zeros((target, source))
    step = source / (target + offset)
    centres = (np.arange(target) + 0.5) * step - 0.5
    for row, centre in enumerate(centres):
      first = int(np.floor(centre)) - reach + 1
      for column in range(first, first + 2 * reach):
        inside = min(max(column, 0), source - 1)
        weights[row, inside] += kernel(np.float64(column - centre))
    return weights

  return matrix


def _antialiased(kernel):
  """Returns a matrix with half-pixel centres and antialiasing.

  The kernel is widened when shrinking, and cut at the borders.
  """

  def matrix(source, target):
    scale = max(source / target, 1)
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    distance = (np.arange(source) - centres[:, None]) / scale
    weights = kernel(distance)
    return weights / weights.sum(axis=1, keepdims=True)

  return matrix


# PyTorch's cubic kernel has a = -0.75, and its antialiased one has a = -0.5
# (aten's UpSample kernels).
RULES: dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
  ORIGINAL: _aligned,
  'bilinear': _separable(_interpolating(_kernel_linear, 1)),
  'bilinear_antialias': _separable(_antialiased(_kernel_linear)),
  'bicubic': _separable(_interpolating(_kernel_cubic(-0.75), 2)),
  'bicubic_antialias': _separable(_antialiased(_kernel_cubic(-0.5))),
  'bicubic_offset': _separable(_interpolating(_kernel_cubic(-0.75), 2, 0.1)),
}
