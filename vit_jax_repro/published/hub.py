"""Repositories of the Hub, kept by huggingface_hub in the cache folder.

Downloads continue after an interruption, and large files are compared with the
SHA-256 that the Hub has for them.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Generator
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import configs, state_dicts
from vit_jax_repro.published import catalogue, mirrors, progress

PREFIX = 'hf://'
PREFIXES = (PREFIX, f'{mirrors.HUB}/')
TIMEOUT = 4.0  # seconds to wait for an answer that has no file
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
_HTTP_CLIENTS = ('httpx', 'httpx2', 'requests')  # of huggingface_hub's releases
_SHA256 = re.compile('[0-9a-f]{64}')


class UnreachableError(OSError):
  """The Hub does not answer."""


class _MissingFileError(OSError):
  """The repository has no such file."""


def repository_of(text: str) -> str | None:
  """Returns USER/REPO of hf://USER/REPO, of an address, or of USER/REPO.

  Returns None for any other text.

  Raises:
    InputError: the text begins with one of `PREFIXES`, but is no repository.
  """
  name = text
  for prefix in PREFIXES:
    name = name.removeprefix(prefix)
  name = name.rstrip('/')
  if _NAME.fullmatch(name):
    return name
  if name != text.rstrip('/'):
    raise InputError(
      f'{text!r} is no repository of the Hub; write {PREFIX}USER/REPO'
    )
  return None


def unpublished(text: str) -> str | None:
  """Returns USER/REPO of a repository that is not in the catalogue, or None.

  Args:
    text: a text that `catalogue.find` does not know.

  Raises:
    InputError: the text begins with one of `PREFIXES`, but is no repository.
  """
  repository = repository_of(text)
  if repository != text:  # the text has a prefix, or is no repository
    return repository
  return None if text.partition('/')[0] in catalogue.folders() else text


def weights_in(folder: str) -> str:
  """Returns the path of the weights, or of their index, in a folder.

  Args:
    folder: result of `download`.
  """
  paths = (os.path.join(folder, name) for name in state_dicts.FILES)
  return next(filter(os.path.exists, paths))


def download(repository: str) -> str:
  """Returns the folder of a repository's weights and configuration.

  Files that are in the cache already are not downloaded again. Without a
  connection, the files in the cache are taken.

  Args:
    repository: 'USER/REPO'.

  Raises:
    InputError: the Hub has no such repository, or its model is of another
      architecture.
    UnreachableError: the Hub does not answer and the cache has no copy.
    OSError: a file is damaged or cannot be written.
  """
  try:
    return _download(repository)
  except UnreachableError as error:
    found = _in_cache(repository)
    if found is None:
      note(f'{mirrors.hub()}: {error}')
      note(
        f'the cache {_cache()} has no copy of {repository}; '
        f'{mirrors.HUB_VARIABLE} names another Hub'
      )
      raise UnreachableError(
        f'{repository} cannot be fetched; connect to the internet, or give a '
        'file or folder'
      ) from None
    note(f'{mirrors.hub()}: {error}; takes the copy in the cache')
    return found


def _download(repository):
  """Downloads the configuration first, because it may show another model."""
  revision, folder = 'main', None
  for name in (configs.CONFIG, configs.PREPROCESSOR):
    with contextlib.suppress(_MissingFileError):
      path, revision = _file(repository, name, revision)
      folder = os.path.dirname(path)
  if folder is not None:
    configs.read(folder)  # raises for an unknown architecture
  for name in state_dicts.FILES:
    try:
      path, revision = _file(repository, name, revision)
    except _MissingFileError:
      continue
    for part in _parts(path):
      _file(repository, part, revision)
    return os.path.dirname(path)
  raise InputError(
    f'the repository {repository} has none of {", ".join(state_dicts.FILES)}; '
    'give one with weights of transformers or timm'
  )


def _parts(path):
  """Returns the names of the files that an index names; () for weights."""
  if not path.endswith('.index.json'):
    return ()
  index = files.read_json(path, 'index of a weights file').get('weight_map')
  values = index.values() if isinstance(index, dict) else ()
  return sorted({str(name) for name in values})


def _file(repository, name, revision):
  """Downloads a file; returns its path and the commit that it is from."""
  import huggingface_hub

  address: dict[str, Any] = dict(endpoint=mirrors.hub(), token=_token())
  url = huggingface_hub.hf_hub_url(
    repository, name, revision=revision, endpoint=mirrors.hub()
  )
  with _errors(repository):
    known = huggingface_hub.get_hf_file_metadata(
      url, timeout=TIMEOUT, **address
    )
    with progress.shown(f'{repository}/{name}', url) as watch:
      path = huggingface_hub.hf_hub_download(
        repository,
        name,
        revision=revision,
        cache_dir=_cache(),
        etag_timeout=TIMEOUT,
        tqdm_class=_bar(watch),
        **address,
      )
  digits = known.etag or ''
  if _SHA256.fullmatch(digits) and files.file_hash(path) != digits:
    for wrong in {os.path.realpath(path), path}:
      pathlib.Path(wrong).unlink(missing_ok=True)
    raise OSError(
      f'{url}: the SHA-256 of the bytes is not {digits}; they were removed; '
      'repeat the command'
    )
  return path, os.path.basename(os.path.dirname(path))


def _cache():
  return files.cache_folder('hub')


def _token():
  """Returns $HF_TOKEN; False: no token that was saved on this machine."""
  return os.environ.get('HF_TOKEN') or False


def _bar(watch):
  """Returns a class that gives tqdm's updates to `watch`."""
  import tqdm

  class Bar(tqdm.tqdm):
    def __init__(self, *arguments, **settings):
      settings.pop('name', None)
      super().__init__(*arguments, **settings | {'disable': True})
      self.done, self.size = settings.get('initial', 0), settings.get('total')

    def update(self, n=1):
      self.done += n or 0
      watch(self.done, self.size)

  return Bar


@contextlib.contextmanager
def _errors(repository) -> Generator[None]:
  """Turns the exceptions of huggingface_hub into one line each."""
  from huggingface_hub import errors

  try:
    yield
  except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
    raise InputError(_no_repository(repository, error)) from None
  except errors.LocalEntryNotFoundError as error:
    raise UnreachableError(messages.short(error)) from None
  except errors.EntryNotFoundError:
    raise _MissingFileError(repository) from None
  except errors.HfHubHTTPError as error:
    status = error.response.status_code
    if status == 404:  # a server that does not say what is missing
      raise _MissingFileError(repository) from None
    raise UnreachableError(f'it answers with status {status}') from None
  except errors.OfflineModeIsEnabled:
    raise UnreachableError('HF_HUB_OFFLINE is set') from None
  except errors.HFValidationError as error:
    raise InputError(messages.short(error)) from None
  except Exception as error:
    if type(error).__module__.partition('.')[0] not in _HTTP_CLIENTS:
      raise
    text = messages.short(error) or type(error).__name__
    raise UnreachableError(f'no connection ({text})') from None


def _no_repository(repository, error):
  import huggingface_hub

  if isinstance(error, huggingface_hub.errors.GatedRepoError):
    return (
      f'the repository {repository} is gated; ask for access on its page and '
      'set HF_TOKEN'
    )
  hint = messages.did_you_mean(repository, catalogue.hub_names())
  return (
    f'the Hub has no public repository {repository!r}; {hint}for a private '
    'one, set HF_TOKEN'
  )


def _in_cache(repository):
  """Returns the folder of a complete copy in the cache, or None."""
  import huggingface_hub

  for name in state_dicts.FILES:
    path = huggingface_hub.try_to_load_from_cache(
      repository, name, cache_dir=_cache()
    )
    if isinstance(path, str):
      folder = os.path.dirname(path)
      parts = (os.path.join(folder, part) for part in _parts(path))
      return folder if all(map(os.path.exists, parts)) else None
  return None
