"""Resizing rules for position embeddings in ports.

The original aligns corners (`weights.resize_position_embedding`). Each rule
here is separable: it has a matrix of weights for each axis.

Shapes: N slots, D hidden, (h, w) grid of patches.
"""

from collections.abc import Callable

import numpy as np


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


def _interpolating(kernel, reach):
  """Returns a rule with half-pixel centres that repeats the border values."""

  def matrix(source, target):
    weights = np.zeros((target, source))
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    for row, centre in enumerate(centres):
      first = int(np.floor(centre)) - reach + 1
      for column in range(first, first + 2 * reach):
        inside = min(max(column, 0), source - 1)
        weights[row, inside] += kernel(np.float64(column - centre))
    return weights

  return matrix


def _antialiased(kernel):
  """Returns a rule with half-pixel centres and antialiasing.

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
RULES: dict[str, Callable[[int, int], np.ndarray]] = {
  # timm's reader of .npz files (models/vision_transformer.py, _load_weights).
  'bilinear, half-pixel centres': _interpolating(_kernel_linear, 1),
  # F.interpolate(mode='bicubic') in transformers and in DeiT's main.py.
  'bicubic, half-pixel centres': _interpolating(_kernel_cubic(-0.75), 2),
  # timm's default, resample_abs_pos_embed (layers/pos_embed.py).
  'bicubic, antialiased': _antialiased(_kernel_cubic(-0.5)),
  'bilinear, antialiased': _antialiased(_kernel_linear),
}


def resize(
  embeddings: np.ndarray,
  grid: tuple[int, int],
  *,
  source_grid: tuple[int, int],
  num_tokens: int,
  rule: str,
) -> np.ndarray:
  """Resizes [1, T + N, D] to [1, T + h * w, D] by a port's rule.

  Args:
    embeddings: [1, T + N, D]; the first T slots are kept unchanged.
    grid: (h, w) of the result.
    source_grid: (h, w) of `embeddings`.
    num_tokens: T.
    rule: a key of `RULES`.
  """
  tokens, cells = embeddings[:, :num_tokens], embeddings[0, num_tokens:]
  cells = np.asarray(cells, np.float64).reshape(*source_grid, -1)
  rows, columns = (
    RULES[rule](source, target)
    for source, target in zip(source_grid, grid, strict=True)
  )
  cells = np.einsum('Hh,Ww,hwd->HWd', rows, columns, cells)
  cells = cells.reshape(1, -1, embeddings.shape[-1]).astype(embeddings.dtype)
  return np.concatenate([np.asarray(tokens), cells], axis=1)
