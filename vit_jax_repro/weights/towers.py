"""The image tower of an image-text model, for all that needs no texts."""

import os
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.output import messages
from vit_jax_repro.weights import layouts, trees


def image_of(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the nested tree of the image tower of an image-text model."""
  return trees.nest(layouts.tower(params, layouts.IMAGE))


def note_on_image(path: str | os.PathLike) -> None:
  """Notes that only the image tower of a file is used."""
  messages.note(
    f'{os.fspath(path)} has an image tower and a text tower; only the image '
    'tower is used (evaluate --zero_shot and predict --texts use both)'
  )
