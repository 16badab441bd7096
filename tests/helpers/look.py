"""Checks the texts and pixels of figures of matplotlib."""

import itertools

import numpy as np
from matplotlib.text import Text
from PIL import Image


def texts(figure):
  """Returns all texts in one string; tick labels only of a drawn figure."""
  return '\n'.join(each.get_text() for each in figure.findobj(Text))


def assert_readable(figure):
  """Checks that texts are inside the figure and do not overlap."""
  boxes = [  # without the arrow that an annotation may have
    (each.get_text(), Text.get_window_extent(each)) for each in _written(figure)
  ]
  assert boxes
  width, height = figure.bbox.size
  for text, box in boxes:
    inside = box.x0 >= -1 and box.x1 <= width + 1
    assert inside and box.y0 >= -1 and box.y1 <= height + 1, (text, box)
  for (text, box), (other, second) in itertools.combinations(boxes, 2):
    wide = min(box.x1, second.x1) - max(box.x0, second.x0)
    high = min(box.y1, second.y1) - max(box.y0, second.y0)
    assert wide <= 1 or high <= 1, (text, other)


def assert_drawn(path, figure=None):
  """Checks that a PNG is not blank and has the right size; returns pixels."""
  with Image.open(path) as image:
    pixels = np.asarray(image.convert('RGB'))
  if figure is not None:
    width, height = figure.bbox.size
    np.testing.assert_allclose(pixels.shape, (height, width, 3), atol=1)
  colours = pixels[::2, ::2].astype(np.int32) @ [65536, 256, 1]
  assert len(np.unique(colours)) > 10
  return pixels


def _written(figure):
  """Returns visible texts, without tick labels beyond the axis limits."""
  figure.draw_without_rendering()
  hidden = set()
  for axis in figure.axes:
    if not axis.axison:
      hidden |= set(axis.findobj(Text))
    for side in (axis.xaxis, axis.yaxis):
      shown = set(side._update_ticks())
      for tick in {*side.get_major_ticks(), *side.get_minor_ticks()} - shown:
        hidden |= set(tick.findobj(Text))
  return [
    each
    for each in figure.findobj(Text)
    if each.get_visible() and each.get_text().strip() and each not in hidden
  ]
