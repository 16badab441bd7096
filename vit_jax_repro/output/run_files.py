"""JSON files of a training run, read with the types that a run writes.

A workdir may come from a stranger. A key that is missing is left to the reader,
because runs of older versions lack some.
"""

import io
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import buckets, files, messages

MOST_STEPS = 2**31 - 1  # updates are counted in int32
MOST_LINES = 500_000  # of metrics.jsonl
_MOST_LINE_BYTES = 2**16
_MOST_BYTES = 2**28  # of a metrics.jsonl in a bucket
_NUMBER = int | float | None
_TEXT = str | None
# {file: {key, dotted inside mappings: its types}}
_TYPES: dict[str, dict[str, Any]] = {
  'config.json': {
    'continue_from': _TEXT,
    'dataset': _TEXT,
    'hypothesis': _TEXT,
    'model': dict,
    'model.model_name': _TEXT,
    'model.transformer': dict | None,
    'model_or_filename': _TEXT,
    'objective': _TEXT,
    'pp': dict,
    'pp.test': _TEXT,
    'pp.train': _TEXT,
    'pretrained_dir': _TEXT,
    'question': _TEXT,
  },
  'manifest.json': {
    'compile_seconds': _NUMBER,
    'data': dict,
    'data.continued_step': int | None,
    'data.dataset': _TEXT,
    'data.orientation': _TEXT,
    'data.test': _TEXT,
    'data.test_classes': dict,
    'data.train': _TEXT,
    'data.train_classes': dict,
    'data.validation_classes': dict,
    'devices': dict,
    'git_commit': _TEXT,
    'versions': dict,
  },
  'result.json': {
    'accuracy': _NUMBER,
    'multi_label': dict | None,
    'notes': list,
    'num_examples': int | None,
    'seconds': _NUMBER,
    'step': int | None,
  },
  'stopped.json': {
    'last_good_step': int | None,
    'reason': _TEXT,
    'step': int | None,
  },
}
# The largest value of a number, by its last key; the smallest is 0.
_MOST = {
  'accuracy': 1,
  'compile_seconds': 1e12,
  'continued_step': MOST_STEPS,
  'last_good_step': MOST_STEPS,
  'num_examples': 2**53,
  'seconds': 1e12,
  'step': MOST_STEPS,
}


def read(
  path: str | pathlib.Path, remedy: str = '', *, needed: Iterable[str] = ()
) -> dict[str, Any]:
  """Reads a JSON file of a run.

  Args:
    path: path or address of the file. Its name decides which types are checked.
    remedy: the end of the message.
    needed: keys that must have a value.

  Raises:
    InputError: it is no JSON object, or a value has another type than those
      that a run writes; one line.
    OSError: the file cannot be read; FileNotFoundError without the file.
  """
  if buckets.is_url(path):
    url = os.fspath(path)
    content = buckets.read(url, most=files.MOST_JSON_BYTES)
    found = files.json_object(
      content, url, 'file of a run', remedy, finite=True
    )
  else:
    found = files.read_json(path, 'file of a run', remedy, finite=True)
  return _checked(found, path, remedy, needed)


def _checked(found, path, remedy, needed=()):
  name = os.path.basename(os.fspath(path))
  problem = next(_problems(found, name, needed), None)
  if problem is not None:
    end = f'; {remedy}' if remedy else ''
    raise InputError(f'{path} is no file of a run: {problem}{end}')
  return found


def _problems(found, name, needed):
  for key in needed:
    if found.get(key) is None:
      yield f'it has no {key!r}'
  for key, types in _TYPES.get(name, {}).items():
    *parents, last = key.split('.')
    holder = found
    for parent in parents:
      holder = holder.get(parent) if isinstance(holder, Mapping) else None
    if not isinstance(holder, Mapping) or last not in holder:
      continue
    value = holder[last]
    is_right = isinstance(value, types) and not isinstance(value, bool)
    if is_right and isinstance(value, int | float):
      is_right = 0 <= value <= _MOST[last]
    if not is_right:
      yield f'its {key!r} must not be {messages.short(repr(value))}'


def metrics(path: str | os.PathLike) -> tuple[list[dict[str, Any]], int]:
  """Reads the lines of a metrics.jsonl, and the number of damaged ones.

  The last line may be cut, which does not count as damaged.

  Args:
    path: path or address of the file.

  Raises:
    InputError: it has more than `MOST_LINES` lines.
    OSError: the file cannot be read; FileNotFoundError without the file.
  """
  found, damaged = [], 0
  with _opened(path) as file:
    lines = iter(lambda: file.readline(_MOST_LINE_BYTES), b'')
    for number, line in enumerate(lines, 1):
      if number > MOST_LINES:
        raise InputError(
          f'{path} has more than {MOST_LINES:,} lines; remove some, or set '
          'config.progress_every higher in the next run'
        )
      values = metric(line)
      if values:
        found.append(values)
      damaged += values is None and line.endswith(b'\n')
  return found, damaged


def _opened(path):
  if buckets.is_url(path):
    return io.BytesIO(buckets.read(os.fspath(path), most=_MOST_BYTES))
  return open(path, 'rb')


def metric(line: bytes) -> dict[str, Any] | None:
  """Returns the values of a line of metrics.jsonl; None for a damaged line.

  All of them are numbers, and `step` is a number of updates.
  """
  try:
    values = files.parse_json(line)
  except ValueError:
    return None
  if not isinstance(values, dict) or not _is_step(values.get('step')):
    return None
  return {
    key: float(value) if key != 'step' else value
    for key, value in values.items()
    if _is_number(value)
  }


def _is_step(value):
  return (
    isinstance(value, int) and 0 <= value <= MOST_STEPS and value is not True
  )


def _is_number(value):
  """Returns whether a value of JSON is a number that a float can hold."""
  if isinstance(value, int) and not isinstance(value, bool):
    return abs(value) < 2**1000
  return isinstance(value, float)
