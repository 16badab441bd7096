"""The job behind `fetch`: downloads a published file from the first source.

NAME.npz.fetched.json, next to NAME.npz, records the source and the SHA-256 of
the file, so that a later change is noticed.
"""

import dataclasses
import datetime
import os
import pathlib
import re
from collections.abc import Sequence

from vit_jax_repro import ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import variants
from vit_jax_repro.models.layers import TORCH_GELU
from vit_jax_repro.output import files, waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import converting, file_kinds, state_dicts
from vit_jax_repro.published import (
  catalogue,
  download,
  hub,
  mirrors,
  partial_download,
  progress,
  prompt_lists,
)
from vit_jax_repro.weights import model_card

# Endings of a copy in a port's layout while it is converted, next to NAME.npz.
_COPIES = ('.copy.safetensors', '.copy.pth', '.copy.bin')


class NoSourceError(OSError):
  """No source has the file; a note of the exception has each answer."""


@dataclasses.dataclass(frozen=True)
class Fetched:
  """The record of a fetched file, the contents of NAME.npz.fetched.json."""

  path: str  # official path: bucket/folder/NAME.npz
  file: str  # path on this machine
  size: int  # bytes
  sha256: str  # of the .npz
  source: str  # address; '' if an existing file has no record of it
  source_sha256: str  # of the downloaded bytes; a converted copy has another
  checked: tuple[str, ...]  # hashes that were known and compared
  notes: tuple[str, ...]  # remarks for the user, one line each
  date: str
  answers: tuple[str, ...] = ()  # of the sources that did not have it
  was_there: bool = False  # whether the file existed already


def fetch(
  name: str | catalogue.Published,
  directory: str | os.PathLike = '.',
  *,
  sha256: str | None = None,
  mirror: str | None = None,
  waits: Sequence[float] = download.WAITS,
) -> Fetched:
  """Downloads a published file to DIRECTORY/NAME.npz.

  An image-text model gets its vocabulary and the published lists of class names
  in the same folder; a note of the result has each that no source gives.
  A copy in a port's layout is converted to the official layout. An existing
  file is checked and never replaced. The answer of each source that does not
  have the file is shown on stderr as it comes.

  Args:
    name: see catalogue.find; or a catalogue.Published; or any repository of
      the Hub, which is converted with the constants of its own library.
    directory: created if it does not exist.
    sha256: 64 digits that the downloaded bytes must have.
    mirror: see mirrors.sources.
    waits: see download.download.

  Returns:
    The record of the file, as written to NAME.npz.fetched.json.

  Raises:
    InputError: the name is unknown or ambiguous, a hash is wrong, or an
      existing file is a different one, damaged or changed.
    NoSourceError: no source has the file; the message has the manual way.
    OSError: another process is downloading it, or it cannot be written.
  """
  entry = _entry(name) if isinstance(name, str) else name
  fetched = _fetch_file(entry, directory, sha256, mirror, waits)
  if entry.model not in variants.LITS:
    return fetched
  lines = prompt_lists.fetch_all(
    entry, fetched.file, mirror=mirror, waits=waits
  )
  return dataclasses.replace(fetched, notes=(*fetched.notes, *lines))


def _fetch_file(entry, directory, sha256, mirror, waits):
  """Downloads one file, or checks the one that exists."""
  if sha256 is not None and not re.fullmatch('[0-9a-fA-F]{64}', sha256):
    raise InputError(
      f'{sha256=} must be the 64 hexadecimal digits of a SHA-256'
    )
  sha256 = sha256 and sha256.lower()
  directory = folder_for(directory)
  path = os.path.normpath(os.path.join(directory, entry.file_name))
  if os.path.exists(path):
    return _existing(path, entry, sha256)
  with partial_download.alone(path):
    if os.path.exists(path):  # another process has finished in the meantime
      return _existing(path, entry, sha256)
    if os.path.exists(model_card.card_path(path)):
      raise InputError(
        f'{model_card.card_path(path)} exists already and would describe '
        f'{path}; move it away or give another folder'
      )
    if entry.repository:
      fetched = _get_repository(path, entry, sha256)
    else:
      fetched = _try_all(entry, path, sha256, mirror, waits)
    files.write_json(_record_path(path), dataclasses.asdict(fetched))
    return fetched


def folder_for(directory):
  """Returns the folder for downloads; creates it if it does not exist."""
  directory = os.path.expanduser(directory)
  if os.path.exists(directory) and not os.path.isdir(directory):
    raise OSError(f'--dir={directory} is a file; give the name of a folder')
  os.makedirs(directory, exist_ok=True)
  return directory


def _try_all(entry, path, sha256, mirror, waits):
  """Downloads a file from the first source that has it."""
  answers, silent = [], set()  # hosts that do not answer are asked once
  wanted = (f'sha256:{sha256}',) if sha256 else ()
  for source in mirrors.sources(entry, mirror=mirror):
    if source.host in silent:
      continue
    get = _get_copy if source.copy_of else _get_npz
    try:
      if source.needs:
        raise download.SourceError(
          f'not tried: {source.needs}, needed to read it, is not installed'
        )
      with progress.shown(entry.name, source.shown) as watch:
        fetched = get(
          source,
          path,
          entry,
          hashes=(*source.hashes, *wanted),
          waits=waits,
          watch=watch,
        )
    except download.SourceError as error:
      answers.append(answered(source, error))
      if isinstance(error, download.UnreachableError):
        silent.add(source.host)
      continue
    for kind in ('', *_COPIES):  # parts that other sources have left
      partial_download.PartialFile(f'{path}{kind}').remove()
    return dataclasses.replace(fetched, answers=tuple(answers))
  if len(silent) == len(answers):
    raise no_source(
      entry.name,
      answers,
      f'connect to the internet, or put the file at {path}',
    )
  raise no_source(entry.name, answers, mirrors.by_hand(entry, path))


def answered(source: mirrors.DownloadSource, error: OSError) -> str:
  """Shows and returns a line with the answer of a source."""
  is_silent = isinstance(error, download.UnreachableError)
  line = f'{source.host if is_silent else source.shown}: {error}'
  note(line)
  return line


def no_source(name: str, answers: Sequence[str], by_hand: str) -> NoSourceError:
  """Returns the error that no source has a file.

  Args:
    name: name of the file.
    answers: results of `answered`; they become notes of the exception.
    by_hand: the manual way.
  """
  if len(answers) > 1:
    text = f'none of the {len(answers)} sources of {name} gives it'
  else:
    text = f'the only source of {name} does not give it'
  error = NoSourceError(f'{text}; {by_hand}')
  for line in answers:
    error.add_note(line)
  return error


def _entry(name):
  """Returns the file of a name, or that of a repository on the Hub."""
  try:
    return catalogue.find(name)
  except InputError:
    repository = hub.unpublished(name)
    if repository is None:
      raise
  return catalogue.Published(f'{repository}.npz', repository=repository)


def _get_repository(path, entry, sha256):
  """Downloads a repository of the Hub and converts its weights to an .npz."""
  with waiting.doing(f'fetching {entry.repository}'):
    folder = hub.download_repository(entry.repository)
  weights_file = file_kinds.weights_in(folder) or folder
  source = mirrors.DownloadSource(f'{mirrors.hub()}/{entry.repository}')
  digits = files.file_hash(weights_file)
  if sha256 and sha256 != digits:
    raise InputError(
      f'{weights_file}: its SHA-256 is {digits}, not {sha256}; give another '
      'repository or hash'
    )
  with waiting.doing(f'converting {entry.repository}'):
    converting.convert(folder, path)
  notes = (
    'converted with the settings of its config.json to an .npz and its '
    f'description {model_card.card_path(path)}',
  )
  return _fetched(path, entry, source, digits, (f'sha256:{digits}',), notes)


def _get_npz(source, path, entry, **settings):
  """Downloads the authors' own file."""
  notes = []

  def check(part):
    notes.extend(_check(part, entry))
    if source.is_others and entry.sizes and notes:
      raise InputError(notes[0])

  checked = download.download(source.url, path, check=check, **settings)
  return _fetched(path, entry, source, files.file_hash(path), checked, notes)


def _get_copy(source, path, entry, **settings):
  """Downloads a copy in a port's layout and converts it to an .npz."""
  copy = pathlib.Path(f'{path}.copy{source.suffix}')
  try:
    checked = download.download(
      source.url, copy, token=source.token, **settings
    )
    source_sha256 = files.file_hash(copy)
    notes = _convert(copy, path, entry, source)
    if not checked:  # other than an .npz, a copy may have no checksums
      notes.append(
        'no hash of these bytes is known, so none was compared; compare their '
        f'SHA-256, {source_sha256}, or give --sha256'
      )
  finally:
    copy.unlink(missing_ok=True)
  return _fetched(path, entry, source, source_sha256, checked, notes)


def _convert(copy, path, entry, source):
  """Converts a copy in a port's layout to an .npz; returns notes.

  Raises:
    SourceError: the copy is damaged or holds another model.
  """
  try:
    params = ports.from_state_dict(state_dicts.read(copy))
    spec = weights.describe(params)
    catalogue.check_fits(entry, spec)
  except ValueError as error:
    raise download.SourceError(partial_download.reason(error, copy)) from None
  is_convnet = spec['model'] == 'efficientnet'
  if entry.card:
    model_card.save_model(
      path,
      params,
      architecture=spec | ({} if is_convnet else {'gelu': TORCH_GELU}),
      preprocessing=entry.card,
      image_size=spec['image_size'] or (entry.image_size,) * 2,
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
  """Reads an .npz completely and checks it; returns notes.

  Raises:
    InputError: it is damaged, not a weights file, or holds another model.
  """
  catalogue.check_fits(entry, weights.describe(weights.load(path)))
  size = os.path.getsize(path)
  if entry.sizes and size not in entry.sizes:
    expected = ' or '.join(map(str, entry.sizes))
    return [
      f'{size} bytes, not the computed {expected}; all arrays were read and '
      'are of the right shapes'
    ]
  return []


def _existing(path, entry, sha256):
  """Returns the record of a file that exists already, after checking it."""
  advice = f'remove it to fetch {entry.name} again, or give another folder'
  fetched = _read_record(path)
  try:
    if fetched is None:
      notes = (*_check(path, entry), 'its source is not recorded')
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
    raise InputError(f'{path} exists, but {why}; {advice}') from None
  return dataclasses.replace(fetched, file=path, was_there=True)


def _fetched(path, entry, source, source_sha256, checked, notes):
  return Fetched(
    path=entry.path,
    file=path,
    size=os.path.getsize(path),
    sha256=files.file_hash(path),
    source=source.shown,
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
    record = files.read_json(_record_path(path), 'record of a file')
    fetched = Fetched(**record)
  except (FileNotFoundError, ValueError, TypeError):
    return None
  return dataclasses.replace(
    fetched,
    checked=tuple(fetched.checked),
    notes=tuple(fetched.notes),
    answers=tuple(fetched.answers),
  )
