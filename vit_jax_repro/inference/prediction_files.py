"""Predictions of many images in files: CSV, JSON, JSON lines."""

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from typing import Any

from vit_jax_repro.output import rows

KINDS = ('csv', 'json', 'jsonl')


def as_json(prediction: Any) -> dict[str, Any]:
  """Returns a Prediction as {'image', 'classes', 'error'}.

  'classes' is [{'label', 'name', 'probability'}]; 'error' is None or a text.
  """
  return {
    'image': prediction.image,
    'classes': [
      {'label': label, 'name': name, 'probability': probability}
      for label, name, probability in prediction.classes
    ],
    'error': prediction.error,
  }


@contextlib.contextmanager
def writing(
  paths: Mapping[str, str | os.PathLike | None],
) -> Generator[Callable[[Any], None]]:
  """Yields a function that writes a Prediction to each of the files.

  Args:
    paths: {kind: path or None}; the kinds are KINDS.
  """
  with contextlib.ExitStack() as stack:
    writers = []
    for kind, path in paths.items():
      if path is not None:
        writers.append(stack.enter_context(_WRITING[kind](path)))

    def write(prediction):
      for each in writers:
        each(prediction)

    yield write


@contextlib.contextmanager
def _json(path):
  with rows.json_array(path) as write:
    yield lambda prediction: write(as_json(prediction))


@contextlib.contextmanager
def _json_lines(path):
  with rows.json_lines(path) as write:
    yield lambda prediction: write(as_json(prediction))


@contextlib.contextmanager
def _csv(path):
  """Writes a row for each image.

  The first image that can be read has the number of columns. Until then, rows
  are kept.
  """
  with rows.csv_rows(path) as write:
    number, kept = None, []

    def write_row(prediction):
      nonlocal number
      if number is None:
        kept.append(prediction)
        if prediction.error is not None:
          return
        number = len(prediction.classes)
        write(_columns(number))
        for each in kept:
          write(_cells(each, number))
        kept.clear()
      else:
        write(_cells(prediction, number))

    yield write_row
    if number is None:
      write(_columns(0))
      for each in kept:
        write(_cells(each, 0))


def _columns(number):
  parts = ('label', 'class', 'probability')
  ranked = [f'{part}_{k + 1}' for k in range(number) for part in parts]
  return ['image', *ranked, 'error']


def _cells(prediction, number):
  cells = [cell for each in prediction.classes for cell in each]
  cells += [None] * (3 * number - len(cells))
  return [prediction.image, *cells, prediction.error]


_WRITING = {'csv': _csv, 'json': _json, 'jsonl': _json_lines}
