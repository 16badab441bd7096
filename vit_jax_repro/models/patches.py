"""Patches in pixels: which pixels of an image a model's patches cover.

A ViT and a Mixer cut an image into whole patches, so that pixels beyond the
last one are not seen. BiT and the stems of hybrids pad their images: every
pixel is seen, and a patch of a hybrid may reach beyond the image.
"""

from typing import Any

from vit_jax_repro.models.bit import BiT


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


def unseen_pixels(model: Any, image_size: tuple[int, int]) -> tuple[int, int]:
  """Returns the numbers of rows at the bottom and columns at the right.

  These pixels of an image have no influence on the output of the model.
  """
  if isinstance(model, BiT) or _stem_stride(model) > 1:
    return 0, 0
  height, width = image_size
  return height % model.patch_size[0], width % model.patch_size[1]


def note_on_unseen(model: Any, image_size: tuple[int, int]) -> str | None:
  """Returns one line on the pixels that a model does not see, if any."""
  unseen = unseen_pixels(model, image_size)
  if not any(unseen):
    return None
  parts = {}  # {(pixels, of, patch): [edge, ...]}
  for edge, *values in zip(
    ('lower', 'right'), unseen, image_size, model.patch_size, strict=True
  ):
    if values[0]:
      parts.setdefault(tuple(values), []).append(edge)
  return '; '.join(
    f'{number} of {side} pixels at the {" and the ".join(edges)} edge are not '
    f'seen: {side} is no multiple of the patch of {patch}'
    for (number, side, patch), edges in parts.items()
  )


def _stem_stride(model):
  """Returns the stride of a hybrid's ResNet, 1 without one."""
  stages = getattr(model, 'stem_num_layers', None)
  return 1 if stages is None else 4 * 2 ** max(len(stages) - 1, 0)
