"""Figures of a model's attention, positions and filters.

Each function takes a record of inspecting.py and returns a matplotlib Figure,
see `pictures`. For figures of numbers see `charts`.
"""

import math
from typing import Any

import numpy as np
import scipy.ndimage

from vit_jax_repro.analysis import inspecting
from vit_jax_repro.analysis.pictures import (
  BLUE,
  GREY,
  ORANGE,
  escape_mathtext,
  new,
  shorten,
)

_MAP = 'viridis'
# Each map of a mosaic has at least `_FINE` pixels per side, so that gaps can be
# narrow: a gap is `_GAP` of a map's width.
_FINE, _GAP = 24, 0.08
_UNSEEN = '0.6'  # grey of pixels that are in no patch


def patches(image: np.ndarray, patch_size: tuple[int, int]) -> Any:
  """Draws an image and the patches that it is cut into (ViT paper, Figure 1).

  Args:
    image: [H, W, 3] in [-1, 1].
    patch_size: pixels (height, width), which divide those of the image.
  """
  height, width = patch_size
  rows, columns = image.shape[0] // height, image.shape[1] // width
  image = 0.5 + 0.5 * image
  gap = max(1, round(_GAP * width))
  apart = np.ones(
    (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
  )
  for i, j in np.ndindex(rows, columns):
    y, x = i * (height + gap), j * (width + gap)
    apart[y : y + height, x : x + width] = image[
      i * height : (i + 1) * height, j * width : (j + 1) * width
    ]
  figure = new(5.5, 0.5 + 2.6 * image.shape[0] / image.shape[1], images=True)
  titles = 'image', f'{rows} x {columns} patches of {height} x {width} pixels'
  for panel, shown, title in zip(
    figure.subplots(1, 2), (image, apart), titles, strict=True
  ):
    panel.imshow(shown)
    panel.set(xticks=[], yticks=[])
    panel.set_title(title, fontsize=9)
  return figure


def rollout(found: inspecting.Rollouts) -> Any:
  """Draws images and their attention (ViT paper, Figures 6 and 14)."""
  images = found.images
  height, width = images.shape[1:3]
  figure = new(7.2, 0.7 + len(images) * 2.3 * height / width, images=True)
  figure.suptitle(
    f'{found.model}: attention rollout from {found.token}, {found.combined} '
    'over heads',
    fontsize=10,
    wrap=True,
  )
  panels = figure.subplots(len(images), 3, squeeze=False)
  per_cent, covered = 100 * found.maps, _covered(found)
  limits = dict(vmin=0, vmax=per_cent.max())
  for row, image, shares, name in zip(
    panels, images, per_cent, found.names, strict=True
  ):
    large = over_image(shares, found.patch, (height, width))
    weighted = image * (large / (np.nanmax(large) or 1))[..., None]
    _draw_image(row[0], image, covered)
    row[0].set_ylabel(escape_mathtext(shorten(name)), fontsize=8)
    _draw_image(row[1], np.nan_to_num(weighted), covered)
    bottom, right = covered - 0.5
    drawn = row[2].imshow(
      shares, cmap=_MAP, extent=(-0.5, right, bottom, -0.5), **limits
    )
    row[2].set_facecolor(_UNSEEN)
    _limit(row[2], image)
  for panel, head in zip(
    panels[0], ('image', 'image, weighted', 'attention'), strict=True
  ):
    panel.set_title(head, fontsize=9)
  bar = figure.colorbar(drawn, ax=panels[:, 2], fraction=0.05)
  bar.set_label('attention to a patch (%)', fontsize=9)
  _explain_grey(figure, found)
  return figure


def over_image(
  cells: np.ndarray, patch: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Enlarges a map of patches [h, w] to the pixels [H, W] of their image.

  Args:
    cells: the map.
    patch: pixels between adjacent patches: down, right.
    size: H and W. Pixels beyond the last patch are NaN. A part of a patch that
      lies beyond the image, as of hybrids, is cut off.
  """
  height, width = np.multiply(cells.shape, patch)
  large = enlarged(cells, (height, width))[: size[0], : size[1]]
  found = np.full(size, np.nan)
  found[: large.shape[0], : large.shape[1]] = large
  return found


def enlarged(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Enlarges [h, w] to [H, W], linearly between the centres of patches."""
  factors = [big / small for big, small in zip(size, cells.shape, strict=True)]
  return scipy.ndimage.zoom(
    cells, factors, order=1, mode='nearest', grid_mode=True
  )


def heads(found: inspecting.HeadMaps) -> Any:
  """Draws a map for each head (columns) and layer (rows) of each image."""
  images, layers, heads = found.images, found.layers, found.heads
  ratio = images.shape[1] / images.shape[2]
  cell = min(1.4, max(0.35, 9 / (len(heads) + 1)))
  rows = len(layers)
  side = max(cell, 1.2)
  tall = max(rows * cell, side) * ratio
  figure = new(
    1.9 + side + len(heads) * cell,
    1.1 + len(images) * (tall + 0.25),
  )
  figure.suptitle(
    f'{found.model}: attention from {found.token}', fontsize=10, wrap=True
  )
  panels = figure.subplots(
    len(images),
    2,
    squeeze=False,
    width_ratios=(side, len(heads) * cell),
  )
  for row, image, each, name in zip(
    panels, images, found.maps, found.names, strict=True
  ):
    _draw_image(row[0], image, _covered(found))
    row[0].set_xlabel(escape_mathtext(shorten(name)), fontsize=8)
    largest = each.max(axis=(-2, -1), keepdims=True)
    scaled = each / np.where(largest > 0, largest, 1)
    drawn = _mosaic(
      row[1], scaled, columns=heads, rows=layers, labels=('head', 'layer')
    )
  bar = figure.colorbar(drawn, ax=panels[:, 1], fraction=0.04)
  bar.set_label("attention (part of the map's largest)", fontsize=8)
  _explain_grey(figure, found)
  return figure


def distance(found: inspecting.Distances) -> Any:
  """Draws each head's mean over images (ViT paper, Figures 7 (right), 11)."""
  patch, (height, width) = min(found.patch), found.image_size
  means = found.distances.mean(axis=0)  # [L, A]
  depth, num_heads = means.shape
  figure = new(6.4, 4.4)
  axis = figure.subplots()
  at = np.repeat(np.arange(depth), num_heads)
  axis.scatter(
    at, means.ravel(), s=22, color=BLUE, alpha=0.75, linewidths=0, label='head'
  )
  axis.plot(
    np.arange(depth),
    means.mean(axis=1),
    color=ORANGE,
    marker='_',
    markersize=14,
    linewidth=1.2,
    label='mean of the heads',
  )
  for pixels, style, label in (
    (found.even, '--', 'the same attention to all patches'),
    (patch, ':', 'distance to the next patch'),
  ):
    axis.axhline(pixels, color=GREY, linestyle=style, linewidth=1, label=label)
  axis.set(
    xlabel='layer, from the image on',
    ylabel='mean attention distance (pixels)',
    ylim=(0, 1.08 * max(means.max(), patch, found.even)),
    xlim=(-0.5, depth - 0.5),
  )
  axis.xaxis.get_major_locator().set_params(integer=True)
  axis.legend(fontsize=8, loc='best', framealpha=0.9)
  number = len(found.distances)
  figure.suptitle(
    f'{found.model}: mean attention distance\n'
    f'{number} image{"s" * (number > 1)} of {height}x{width} pixels',
    fontsize=10,
    wrap=True,
  )
  return figure


def similarity(found: inspecting.PositionSimilarity) -> Any:
  """Draws a map for each position (ViT paper, Figures 7 (centre) and 10)."""
  grids = found.similarity
  height, width = grids.shape[:2]
  figure = new(6.6, 0.9 + 4.9 * (height / width) ** 2, images=True)
  axis = figure.subplots()
  drawn = _mosaic(
    axis,
    grids,
    columns=range(width),
    rows=range(height),
    labels=('column of the patch', 'row of the patch'),
    limits=(-1, 1),
  )
  figure.colorbar(drawn, ax=axis, fraction=0.04).set_label('cosine similarity')
  figure.suptitle(
    f'{found.model}: similarity of position embeddings', fontsize=10, wrap=True
  )
  return figure


def filters(found: inspecting.Filters) -> Any:
  """Draws principal components as colours (ViT paper, Figure 7 (left)).

  Grey is 0. Each component is scaled by its largest entry.
  """
  components = found.components
  number = len(components)
  columns = min(7, number)
  rows = math.ceil(number / columns)
  figure = new(0.4 + 1.05 * columns, 0.75 + 1.2 * rows, images=True)
  figure.suptitle(
    f'{found.model}: principal components of the first filters',
    fontsize=10,
    wrap=True,
  )
  panels = figure.subplots(rows, columns, squeeze=False).ravel()
  for panel in panels[number:]:
    panel.axis('off')
  for i, (panel, component, share) in enumerate(
    zip(panels, components, found.shares, strict=False)
  ):
    panel.imshow(0.5 + 0.5 * component / np.abs(component).max())
    panel.set(xticks=[], yticks=[])
    panel.set_title(f'{i + 1}: {100 * share:.2g} %', fontsize=8, pad=3)
  figure.supxlabel(
    'number of the component: its part of the variance', size=9, wrap=True
  )
  return figure


def _draw_image(panel, image, covered):
  """Draws an image; grey covers the pixels that are in no patch."""
  height, width = image.shape[:2]
  panel.imshow(image)
  if covered[0] < height:
    panel.axhspan(covered[0] - 0.5, height - 0.5, color=_UNSEEN)
  if covered[1] < width:
    panel.axvspan(covered[1] - 0.5, width - 0.5, color=_UNSEEN)
  _limit(panel, image)


def _limit(panel, image):
  """Limits a panel to the pixels of an image."""
  height, width = image.shape[:2]
  panel.set(
    xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5)
  )


def _covered(found):
  """Returns the pixels (down, right) that all patches cover."""
  return np.multiply(found.maps.shape[-2:], found.patch)


def _explain_grey(figure, found):
  if (_covered(found) < found.images.shape[1:3]).any():
    figure.supxlabel('grey: pixels in no patch', size=9)


def _mosaic(axis, maps, *, columns, rows, labels, limits=(0, 1)):
  """Draws maps [rows, columns, h, w] in one panel with numbered axes."""
  times = math.ceil(_FINE / min(maps.shape[-2:]))
  maps = maps.repeat(times, axis=-2).repeat(times, axis=-1)
  num_rows, num_columns, height, width = maps.shape
  gap = max(1, round(_GAP * width))
  image = np.full(
    (num_rows * (height + gap) - gap, num_columns * (width + gap) - gap), np.nan
  )
  for i in range(num_rows):
    for j in range(num_columns):
      y, x = i * (height + gap), j * (width + gap)
      image[y : y + height, x : x + width] = maps[i, j]
  drawn = axis.imshow(
    image, cmap=_MAP, vmin=limits[0], vmax=limits[1], interpolation='nearest'
  )
  for side, numbers, cell in (
    (axis.xaxis, columns, width),
    (axis.yaxis, rows, height),
  ):
    numbers = list(numbers)  # noqa: PLW2901
    step = math.ceil(len(numbers) / 24)
    places = [i * (cell + gap) + (cell - 1) / 2 for i in range(len(numbers))]
    side.set_ticks(places[::step], [str(n) for n in numbers[::step]])
  axis.tick_params(length=0, labelsize=8)
  axis.set(xlabel=labels[0], ylabel=labels[1])
  for spine in axis.spines.values():
    spine.set_visible(False)
  return drawn
