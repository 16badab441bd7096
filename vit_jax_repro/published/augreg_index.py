"""The index of AugReg files, from the bucket or without it."""

import os
from collections.abc import Sequence

from vit_jax_repro.output.messages import note
from vit_jax_repro.published import (
  augreg,
  download,
  fetching,
  mirrors,
  partial_download,
  progress,
)


def fetch_index(
  directory: str | os.PathLike = '.',
  *,
  mirror: str | None = None,
  waits: Sequence[float] = download.WAITS,
) -> str:
  """Returns the path of AugReg's DIRECTORY/index.csv; downloads it if missing.

  Raises:
    NoSourceError: no source has the file.
    OSError: the file cannot be written.
  """
  path = os.path.normpath(
    os.path.join(fetching.folder_for(directory), 'index.csv')
  )
  if os.path.exists(path):
    return path
  with partial_download.alone(path):
    answers = []
    for source in mirrors.index_sources(mirror=mirror):
      try:
        with progress.shown('index.csv', source.shown) as watch:
          download.download(
            source.url,
            path,
            check=augreg.read_index,
            waits=waits,
            watch=watch,
          )
        return path
      except download.SourceError as error:
        answers.append(fetching.answered(source, error))
  raise fetching.no_source(
    'the AugReg index',
    answers,
    f'copy gs://{augreg.INDEX} to {path}, or give --index=PATH',
  )


def rows(
  directory: str | os.PathLike = '.',
  *,
  adapted: bool,
  mirror: str | None = None,
  waits: Sequence[float] = download.WAITS,
) -> list[augreg.IndexRow]:
  """Returns the rows of AugReg's index for `augreg.ranked`.

  If no source has index.csv, these are the files of the catalogue that have a
  copy, and a note reports it.

  Args:
    directory, mirror, waits: see `fetch_index`.
    adapted: whether fine-tuned files are wanted, not pre-trained ones.

  Raises:
    InputError: DIRECTORY/index.csv is no index.
    OSError: see `fetch_index`.
  """
  try:
    path = fetch_index(directory, mirror=mirror, waits=waits)
  except fetching.NoSourceError:
    found = augreg.rows_with_copies(adapted)
    number = len({augreg.file_of(row, adapted) for row in found})
    note(
      f'without index.csv, {number} AugReg files are ranked: those with a '
      'public copy, by their accuracy on ImageNet after fine-tuning'
    )
    return found
  return augreg.read_index(path)
