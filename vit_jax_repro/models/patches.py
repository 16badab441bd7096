"""Patches in pixels: which pixels of an image a model's patches cover.

A ViT and a Mixer cut an image into whole patches, so that pixels beyond the
last one are not seen. The stems of hybrids pad images: a patch of one cell may
reach beyond the image. Cells that make no whole patch are dropped, and their
pixels have an effect only through the norms of the stem and on its neighbouring
cells. BiT pads images and drops nothing.
"""

from typing import Any


def patch_grid(
  model: Any, image_size: tuple[int, int]
) -> tuple[int, int] | None:
  """Returns (h, w) of an image's patch grid, None for models without one."""
  patch_size = getattr(model, 'patch_size', None)
  if patch_size is None:
    return None
  # Each 'SAME' stride of 2 rounds up.
  height, width = (-(-side // _stem_stride(model)) for side in image_size)
  return height // patch_size[0], width // patch_size[1]


def patch_stride(model: Any) -> tuple[int, int]:
  """Returns the pixels (down, right) from a patch of a ViT to the next."""
  height, width = model.patch_size
  return height * _stem_stride(model), width * _stem_stride(model)


def uncovered_pixels(
  model: Any, image_size: tuple[int, int]
) -> tuple[int, int]:
  """Returns the numbers of rows at the bottom and columns at the right.

  These pixels are in no patch of the model.
  """
  grid = patch_grid(model, image_size)
  if grid is None:
    return 0, 0
  rows, columns = (
    max(0, side - number * stride)
    for side, number, stride in zip(
      image_size, grid, patch_stride(model), strict=True
    )
  )
  return rows, columns


def note_on_uncovered(model: Any, image_size: tuple[int, int]) -> str | None:
  """Returns one line on the pixels of images that are in no patch, if any."""
  uncovered = uncovered_pixels(model, image_size)
  if not any(uncovered):
    return None
  fate = 'not seen'
  if _stem_stride(model) > 1:
    fate = 'in no patch and hardly seen'
  parts = {}  # {(pixels, of, patch): [edge, ...]}
  for edge, *values in zip(
    ('lower', 'right'), uncovered, image_size, patch_stride(model), strict=True
  ):
    if values[0]:
      parts.setdefault(tuple(values), []).append(edge)
  return '; '.join(
    f'{number} of {side} pixels at the {" and the ".join(edges)} edge are '
    f'{fate}: {side} is no multiple of the patch of {patch}'
    for (number, side, patch), edges in parts.items()
  )


def _stem_stride(model):
  """Returns the stride of a hybrid's ResNet, 1 without one."""
  stages = getattr(model, 'stem_num_layers', None)
  return 1 if stages is None else 4 * 2 ** max(len(stages) - 1, 0)
