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
  fit_height,
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
  fit_height(figure)
  return figure


def rollout(
  found: inspecting.Rollouts, against: inspecting.Rollouts | None = None
) -> Any:
  """Draws images and their attention (ViT paper, Figures 6 and 14).

  Each image has its own scale, which both models share.

  Args:
    found: attention in images.
    against: attention of another model in the same images, drawn next to it.
  """
  pair = _pair(found, against)
  images = found.images
  height, width = images.shape[1:3]
  figure = new(7.2, 3, images=True)
  figure.suptitle(
    f'{_models(pair)}: attention rollout from {found.token}, {found.combined} '
    'over heads',
    fontsize=10,
    wrap=True,
  )
  panels = figure.subplots(len(images), 3, squeeze=False)
  letters = min(max(36 * height // width, 8), 24)  # as long as a row is high
  for i, (row, image, name) in enumerate(
    zip(panels, images, found.names, strict=True)
  ):
    _draw_image(row[0], image, _covered(found))
    row[0].set_ylabel(escape_mathtext(shorten(name, letters)), fontsize=8)
    if against is None:
      large = over_image(found.maps[i], found.patch, (height, width))
      large = np.nan_to_num(large / (np.nanmax(large) or 1))
      _draw_image(row[1], image * large[..., None], _covered(found))
    largest = max(100 * each.maps[i].max() for each in pair)
    for each, panel in zip(pair, row[-len(pair) :], strict=True):
      bottom, right = _covered(each) - 0.5
      drawn = panel.imshow(
        100 * each.maps[i],
        cmap=_MAP,
        extent=(-0.5, right, bottom, -0.5),
        vmin=0,
        vmax=largest,
      )
      panel.set_facecolor(_UNSEEN)
      _limit(panel, image)
    bar = figure.colorbar(drawn, ax=row, fraction=0.04, pad=0.01)
    bar.ax.tick_params(labelsize=8)
    bar.set_label('% to a patch', fontsize=8)
  heads = ['image, weighted', 'attention']
  if against is not None:
    heads = [f'attention,\n{_name(each)}' for each in pair]
  for panel, head in zip(panels[0], ['image', *heads], strict=True):
    panel.set_title(head, fontsize=9)
  _explain_grey(figure, found)
  fit_height(figure)
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
  cell = min(1.4, max(0.15, 9 / len(heads)))  # inches
  side = max(cell, 1.2)
  figure = new(1 + side + len(heads) * cell, 3, images=True)
  figure.suptitle(
    f'{found.model}: attention from {found.token}', fontsize=10, wrap=True
  )
  panels = figure.subplots(len(images), 1, squeeze=False)[:, 0]
  for panel, image, each, name in zip(
    panels, images, found.maps, found.names, strict=True
  ):
    largest = each.max(axis=(-2, -1), keepdims=True)
    scaled = each / np.where(largest > 0, largest, 1)
    drawn = _mosaic(
      panel, scaled, columns=heads, rows=layers, labels=('head', 'layer')
    )
    _draw_left(panel, image, _covered(found), side / (len(heads) * cell))
    panel.yaxis.set_label_position('right')
    panel.yaxis.tick_right()
    panel.set_title(escape_mathtext(shorten(name)), fontsize=8, loc='left')
  bar = figure.colorbar(drawn, ax=panels, fraction=0.04)
  bar.set_label("part of the map's largest", fontsize=8)
  bar.ax.tick_params(labelsize=8)
  _explain_grey(figure, found)
  fit_height(figure)
  return figure


def _draw_left(panel, image, covered, part):
  """Draws an image left of a mosaic, in the mosaic's panel.

  Args:
    panel: an Axes with a mosaic.
    image: RGB values; those in no patch become grey.
    covered: pixels (down, right) that the patches cover.
    part: width of the image in widths of the mosaic.
  """
  image = image.copy()
  image[covered[0] :] = float(_UNSEEN)
  image[:, covered[1] :] = float(_UNSEEN)
  (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
  width = part * (right - left)
  height = width * image.shape[0] / image.shape[1]
  gap = 0.03 * (right - left)
  panel.imshow(
    image, extent=(left - gap - width, left - gap, top + height, top)
  )
  panel.set(
    xlim=(left - gap - width, right), ylim=(max(bottom, top + height), top)
  )
  panel.xaxis.label.set_x(
    1 - 0.5 * (right - left) / (right - left + gap + width)
  )


def distance(
  found: inspecting.Distances, against: inspecting.Distances | None = None
) -> Any:
  """Draws each head's mean over images (ViT paper, Figures 7 (right), 11).

  Args:
    found: distances in images.
    against: those of another model, drawn next to it on the same axis.
  """
  pair = _pair(found, against)
  figure = new(6.4 if against is None else 9, 4.4)
  panels = figure.subplots(1, len(pair), squeeze=False, sharey=True)[0]
  for panel, each in zip(panels, pair, strict=True):
    _draw_distances(panel, each)
    if against is not None:
      panel.set_title(_name(each), fontsize=9)
  panels[0].set_ylabel('mean attention distance (pixels)')
  top = max(
    max(each.distances.mean(axis=0).max(), *each.patch, each.even)
    for each in pair
  )
  panels[0].set_ylim(0, 1.08 * top)
  panels[0].legend(fontsize=8, loc='best', framealpha=0.9)
  number, (height, width) = len(found.distances), found.image_size
  figure.suptitle(
    f'{_models(pair)}: mean attention distance\n'
    f'{number} image{"s" * (number > 1)} of {height}x{width} pixels',
    fontsize=10,
    wrap=True,
  )
  return figure


def _draw_distances(axis, found):
  means = found.distances.mean(axis=0)  # [L, A]
  depth, num_heads = means.shape
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
    (found.even, '--', 'uniform attention'),
    (min(found.patch), ':', 'patch size'),
  ):
    axis.axhline(pixels, color=GREY, linestyle=style, linewidth=1, label=label)
  axis.set(xlabel='layer', xlim=(-0.5, depth - 0.5))
  axis.xaxis.get_major_locator().set_params(integer=True)


def similarity(
  found: inspecting.PositionSimilarity,
  against: inspecting.PositionSimilarity | None = None,
) -> Any:
  """Draws a map for each position (ViT paper, Figures 7 (centre) and 10).

  Args:
    found: similarities of the position embeddings.
    against: those of another model, drawn next to it on the same scale.
  """
  pair = _pair(found, against)
  figure = new(6.6 if against is None else 10, 5, images=True)
  panels = figure.subplots(1, len(pair), squeeze=False)[0]
  for panel, each in zip(panels, pair, strict=True):
    height, width = each.similarity.shape[:2]
    drawn = _mosaic(
      panel,
      each.similarity,
      columns=range(width),
      rows=range(height),
      labels=('column of the patch', 'row of the patch'),
      limits=(-1, 1),
      most=16 if against is None else 7,
    )
    if against is not None:
      panel.set_title(_name(each), fontsize=9)
  bar = figure.colorbar(drawn, ax=panels, fraction=0.04)
  bar.set_label('cosine similarity')
  figure.suptitle(
    f'{_models(pair)}: similarity of position embeddings',
    fontsize=10,
    wrap=True,
  )
  fit_height(figure)
  return figure


def filters(
  found: inspecting.Filters, against: inspecting.Filters | None = None
) -> Any:
  """Draws principal components as colours (ViT paper, Figure 7 (left)).

  Grey is 0. Each component is scaled by its largest entry; with `against`, all
  are scaled by the largest entry of both models.

  Args:
    found: components of the filters.
    against: those of another model, drawn below.
  """
  pair = _pair(found, against)
  columns = min(7, max(len(each.components) for each in pair))
  rows = [math.ceil(len(each.components) / columns) for each in pair]
  figure = new(
    max(0.4 + 1.05 * columns, 3), 0.75 + 1.2 * sum(rows), images=True
  )
  figure.suptitle(
    f'{_models(pair)}: principal components of the first filters'
    + ', summed over red, green and blue' * found.grey,
    fontsize=10,
    wrap=True,
  )
  panels = figure.subplots(sum(rows), columns, squeeze=False)
  scale = max(np.abs(each.components).max() for each in pair)
  for each, block in zip(
    pair, np.split(panels, np.cumsum(rows)[:-1]), strict=True
  ):
    if against is not None:
      label = block[len(block) // 2, 0]
      label.set_ylabel(_name(each), fontsize=9)
    block = block.ravel()  # noqa: PLW2901
    for panel in block[len(each.components) :]:
      panel.axis('off')
    for i, (panel, component, share) in enumerate(
      zip(block, each.components, each.shares, strict=False)
    ):
      largest = np.abs(component).max() if against is None else scale
      colours = 0.5 + 0.5 * component / largest
      panel.imshow(np.broadcast_to(colours, (*colours.shape[:2], 3)))
      panel.set(xticks=[], yticks=[])
      panel.set_title(f'{i + 1}: {100 * share:.2g} %', fontsize=8, pad=3)
  figure.supxlabel(
    'number of the component: its part of the variance', size=9, wrap=True
  )
  fit_height(figure)
  return figure


def _pair(found, against):
  return [found] if against is None else [found, against]


def _models(pair):
  return ' and '.join(dict.fromkeys(each.model for each in pair))


def _name(found):
  """Returns the file of a record, for a title."""
  return escape_mathtext(shorten(found.source, 16))


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


def _mosaic(axis, maps, *, columns, rows, labels, limits=(0, 1), most=16):
  """Draws maps [rows, columns, h, w] in one panel with numbered axes.

  At most `most` columns are numbered, and rows as densely.
  """
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
  # Numbers are as high as two thirds of the width that each gets in a row.
  most_rows = max(1, int(1.5 * most * image.shape[0] / image.shape[1]))
  for side, numbers, cell, limit in (
    (axis.xaxis, columns, width, most),
    (axis.yaxis, rows, height, most_rows),
  ):
    numbers = list(numbers)  # noqa: PLW2901
    step = math.ceil(len(numbers) / limit)
    places = [i * (cell + gap) + (cell - 1) / 2 for i in range(len(numbers))]
    side.set_ticks(places[::step], [str(n) for n in numbers[::step]])
  axis.tick_params(length=0, labelsize=8)
  axis.set(xlabel=labels[0], ylabel=labels[1])
  for spine in axis.spines.values():
    spine.set_visible(False)
  return drawn
