"""The job behind `fetch`: a published file, from whichever source has it.

NAME.npz.fetched.json, next to NAME.npz, records the source and the SHA-256 of
the file, so that a later change is noticed.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import re

from vit_jax_repro import ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, reports
from vit_jax_repro.ports import state_dicts
from vit_jax_repro.published import (
  augreg,
  catalogue,
  download,
  mirrors,
  partial_download,
)
from vit_jax_repro.weights import model_card

# Endings of a port's file while it is converted, next to NAME.npz.
_COPIES = ('.copy.safetensors', '.copy.pth', '.copy.bin')


@dataclasses.dataclass(frozen=True)
class Fetched:
  """The record of a fetched file, the contents of NAME.npz.fetched.json."""

  path: str  # official: bucket/folder/NAME.npz
  file: str  # where it is
  size: int  # bytes
  sha256: str  # of the .npz
  source: str  # address, '' if it was there and none is known
  source_sha256: str  # of the bytes that came; another than sha256 for a copy
  checked: tuple[str, ...]  # hashes that were known and compared
  notes: tuple[str, ...]  # what a user should know, a line each
  date: str
  was_there: bool = False


def fetch(
  name, directory='.', *, sha256=None, mirror=None, waits=download.WAITS
):
  """Gets a published file as DIRECTORY/NAME.npz.

  A copy in a port's layout becomes the official one. A file that is there is
  checked and left alone.

  Args:
    name: see catalogue.find; or a catalogue.Published.
    directory: made if it is not there.
    sha256: 64 digits that the bytes must have as they come.
    mirror: see mirrors.sources.
    waits: see download.download.

  Returns:
    Fetched.

  Raises:
    InputError: an unknown name or several files of that name, a wrong hash, or
      a file is there and is another one, damaged or changed.
    OSError: no source has it (one line with each answer, and the manual way),
      another process is fetching it, or it cannot be written.
  """
  entry = catalogue.find(name) if isinstance(name, str) else name
  if sha256 is not None and not re.fullmatch('[0-9a-fA-F]{64}', sha256):
    raise InputError(
      f'{sha256=} must be the 64 hexadecimal digits of a SHA-256'
    )
  sha256 = sha256 and sha256.lower()
  directory = _folder(directory)
  path = os.path.normpath(os.path.join(directory, entry.file_name))
  if os.path.exists(path):
    return _there(path, entry, sha256)
  with partial_download.alone(path):
    if os.path.exists(path):  # by now
      return _there(path, entry, sha256)
    if os.path.exists(model_card.card_path(path)):
      raise InputError(
        f'{model_card.card_path(path)} would be taken for the description of '
        f'{path}; move it away or give another folder'
      )
    fetched = _try_all(entry, path, sha256, mirror, waits)
    files.write_json(_record_path(path), dataclasses.asdict(fetched))
    return fetched


def fetch_index(directory='.', *, mirror=None, waits=download.WAITS):
  """Returns the path of AugReg's DIRECTORY/index.csv, fetched if missing.

  Raises:
    OSError: no source has it, or it cannot be written.
  """
  path = os.path.normpath(os.path.join(_folder(directory), 'index.csv'))
  if os.path.exists(path):
    return path
  with partial_download.alone(path):
    answers = []
    for source in mirrors.index_sources(mirror=mirror):
      try:
        download.download(
          source.url, path, check=augreg.read_index, waits=waits
        )
        return path
      except download.SourceError as error:
        answers.append(f'{source.url}: {error}')
  raise OSError(
    f'no source has the AugReg index: {"; ".join(answers)}. By hand: bring '
    f'gs://{augreg.INDEX} to {path}, or say --index=PATH'
  )


def _folder(directory):
  """Returns the folder for what is fetched, made if it is not there."""
  directory = os.path.expanduser(directory)
  if os.path.exists(directory) and not os.path.isdir(directory):
    raise OSError(f'--dir={directory} is a file; give the name of a folder')
  os.makedirs(directory, exist_ok=True)
  return directory


def _try_all(entry, path, sha256, mirror, waits):
  """Fetches a file from the first source that has it."""
  answers = []
  wanted = (f'sha256:{sha256}',) if sha256 else ()
  for source in mirrors.sources(entry, mirror=mirror):
    get = _get_copy if source.copy_of else _get_npz
    try:
      if source.needs:
        raise download.SourceError(
          f'not tried, as {source.needs}, which reads it, is not installed'
        )
      with _bar(entry.name) as watch:
        fetched = get(
          source,
          path,
          entry,
          hashes=(*source.hashes, *wanted),
          waits=waits,
          watch=watch,
        )
    except download.SourceError as error:
      answers.append(f'{source.url}: {error}')
      continue
    for kind in ('', *_COPIES):  # what others have left
      partial_download.PartialFile(f'{path}{kind}').remove()
    return dataclasses.replace(fetched, notes=(*answers, *fetched.notes))
  raise OSError(
    f'no source has {entry.name}: {"; ".join(answers)}. By hand: '
    f'{mirrors.by_hand(entry, path)}'
  )


def _get_npz(source, path, entry, **settings):
  """Returns the authors' own file."""
  notes = []

  def check(part):
    notes.extend(_check(part, entry))

  checked = download.download(source.url, path, check=check, **settings)
  return _fetched(path, entry, source, files.file_hash(path), checked, notes)


def _get_copy(source, path, entry, **settings):
  """Returns a port's file, written as the authors would have."""
  copy = pathlib.Path(f'{path}.copy{source.suffix}')
  try:
    checked = download.download(
      source.url, copy, token=source.token, **settings
    )
    source_sha256 = files.file_hash(copy)
    notes = _convert(copy, path, entry, source)
    if not checked:  # an .npz has checksums of its own
      notes.append(
        'no hash of these bytes is known, so none was compared; compare their '
        f'SHA-256, {source_sha256}, or say --sha256'
      )
  finally:
    copy.unlink(missing_ok=True)
  return _fetched(path, entry, source, source_sha256, checked, notes)


def _convert(copy, path, entry, source):
  """Writes the .npz of a port's file; returns notes.

  Raises:
    SourceError: the file is damaged or another model's.
  """
  try:
    params = ports.from_state_dict(state_dicts.read(copy))
    spec = weights.describe(params)
    catalogue.check_fits(entry, spec)
  except ValueError as error:
    raise download.SourceError(partial_download.reason(error, copy)) from None
  if entry.card:
    model_card.save_model(
      path,
      params,
      # Trained in PyTorch, whose GELU is exact.
      architecture={**spec, 'gelu': 'erf'},
      preprocessing=entry.card,
      image_size=spec['image_size'],
    )
  else:
    weights.save(path, params)
  official = 'the official' if entry.is_official else "this project's"
  notes = [f"converted from {source.copy_of}'s layout to {official} .npz"]
  if lacks := catalogue.lacking(entry, spec):
    notes.append(
      f'the copy has no {" and no ".join(lacks)}, unlike the official file'
    )
  return notes


def _check(path, entry):
  """Reads all of an .npz; returns notes.

  Raises:
    InputError: it is damaged, no weights file, or another model's.
  """
  catalogue.check_fits(entry, weights.describe(weights.load(path)))
  size = os.path.getsize(path)
  if entry.sizes and size not in entry.sizes:
    expected = ' or '.join(map(str, entry.sizes))
    return [
      f'{size} bytes, not the computed {expected}; read completely, it has the '
      'right arrays'
    ]
  return []


def _there(path, entry, sha256):
  """Returns fetched of the file that is there already."""
  advice = f'remove it to fetch {entry.name} anew, or give another folder'
  fetched = _read_record(path)
  try:
    if fetched is None:
      notes = (*_check(path, entry), 'nothing tells where it is from')
      digits = files.file_hash(path)
      size = os.path.getsize(path)
      fetched = Fetched(
        entry.path, path, size, digits, '', digits, (), notes, ''
      )
    if fetched.path != entry.path:
      raise InputError(f'it is {fetched.path}')
    if files.file_hash(path) != fetched.sha256:
      raise InputError('it has changed since it was fetched')
    if sha256 and sha256 != fetched.source_sha256:
      raise InputError(f'its SHA-256 was {fetched.source_sha256}')
  except ValueError as error:
    why = partial_download.reason(error, path)
    raise InputError(f'{path} is there, but {why}; {advice}') from None
  return dataclasses.replace(fetched, file=path, was_there=True)


def _fetched(path, entry, source, source_sha256, checked, notes):
  return Fetched(
    path=entry.path,
    file=path,
    size=os.path.getsize(path),
    sha256=files.file_hash(path),
    source=source.url,
    source_sha256=source_sha256,
    checked=tuple(checked),
    notes=tuple(notes),
    date=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  )


def _record_path(path):
  return f'{path}.fetched.json'


def _read_record(path):
  """Returns the record of an earlier fetch; None if missing or damaged."""
  try:
    with open(_record_path(path), encoding='utf-8') as file:
      fetched = Fetched(**json.load(file))
  except (FileNotFoundError, ValueError, TypeError):
    return None
  return dataclasses.replace(
    fetched, checked=tuple(fetched.checked), notes=tuple(fetched.notes)
  )


@contextlib.contextmanager
def _bar(name):
  """Yields what download.download calls; a bar if anybody sees it."""
  from rich import progress

  err = reports.progress_console()
  columns = (
    progress.TextColumn('{task.description}', markup=False),
    progress.BarColumn(),
    progress.DownloadColumn(),
    progress.TransferSpeedColumn(),
    progress.TimeRemainingColumn(),
  )
  with progress.Progress(
    *columns, console=err, disable=not err.is_terminal, transient=True
  ) as bar:
    task = bar.add_task(name, total=None)
    yield lambda done, total: bar.update(task, completed=done, total=total)
