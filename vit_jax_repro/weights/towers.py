"""The image tower of an image-text model, for all that needs no texts."""

import os
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.output import messages
from vit_jax_repro.weights import layouts


def image_of(
  params: Mapping[str, Any], path: str | os.PathLike
) -> dict[str, Any]:
  """Returns the tree of the image tower, with a note; any other tree unchanged.

  Args:
    params: result of `weights.load`.
    path: of its file, for the note.
  """
  if not layouts.has_two_towers(params):
    return dict(params)
  note_on_image(path)
  return params[layouts.IMAGE[:-1]]


def note_on_image(path: str | os.PathLike) -> None:
  """Notes that only the image tower of a file is used."""
  messages.note(
    f'{os.fspath(path)} has an image tower and a text tower; only the image '
    'tower is used (evaluate --zero_shot and predict --texts use both)'
  )


def image_architecture(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of the image tower; those of another model unchanged.

  Args:
    fields: a mapping for `models.create`.
  """
  if 'text_model' not in fields:
    return dict(fields)
  out_dim = fields.get('out_dim') or (None, None)
  return dict(fields['image'], num_classes=out_dim[0])
