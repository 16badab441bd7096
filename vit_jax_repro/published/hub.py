"""Repositories of the Hub, kept in the cache folder.

huggingface_hub finds the files and their hashes. Its own downloads do not
continue after their process was killed (release 2.4), so `download` gets the
bytes. The cache has a folder for each commit of a repository.
"""

import contextlib
import os
import re
from collections.abc import Generator

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages, waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import configs, file_kinds
from vit_jax_repro.published import (
  catalogue,
  download,
  mirrors,
  partial_download,
  progress,
)

PREFIX = 'hf://'
PREFIXES = (PREFIX, f'{mirrors.HUB}/')
TIMEOUT = 4.0  # seconds to wait for the next bytes of an answer without a file
LONGEST = 5 * TIMEOUT  # seconds to wait for the whole answer
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
_HTTP_CLIENTS = ('httpx', 'httpx2', 'requests')  # of huggingface_hub's releases
_COMMIT = re.compile('[0-9a-f]{40}')
_FILE = re.compile(r'\w[\w.-]*')  # a part of the weights
_SHA256 = re.compile('[0-9a-f]{64}')

# Otherwise huggingface_hub asks the Hub for something else first, for 3 s.
os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')


class _MissingFileError(OSError):
  """The repository has no such file."""


class _RefusedError(download.UnreachableError):
  """The Hub answers with a status other than 200 or 404."""


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


def download_repository(repository: str) -> str:
  """Returns the folder of a repository's weights and configuration.

  Files that are in the cache already are not downloaded again. Without a
  connection, the newest copy in the cache is taken.

  Args:
    repository: 'USER/REPO'.

  Raises:
    InputError: the Hub has no such repository, or its model is of another
      architecture.
    UnreachableError: the Hub does not answer and the cache has no copy.
    InUseError: another process is downloading a file of it.
    OSError: a file does not arrive, or cannot be written.
  """
  try:
    return str(_download(repository))
  except download.UnreachableError as error:
    found = _in_cache(repository)
    if found is None:
      note(f'{mirrors.shown_hub()}: {error}')
      remedy = 'connect to the internet'
      if isinstance(error, _RefusedError):
        remedy = 'repeat the command later, check HF_TOKEN'
      raise download.UnreachableError(
        f'{repository}: the cache has no copy either; {remedy}, set '
        f'{mirrors.HUB_VARIABLE} to another Hub, or give a file or folder'
      ) from None
    note(f'{mirrors.shown_hub()}: {error}; the copy in the cache is taken')
    return str(found)


def _download(repository):
  """Downloads the configuration first, because it may show another model."""
  revision, folder = 'main', None
  for name in (configs.CONFIG, configs.PREPROCESSOR):
    with contextlib.suppress(_MissingFileError):
      folder = _file(repository, name, revision)
      revision = folder.name
  if folder is not None:
    configs.read(folder)  # raises for an unknown architecture
  for name in file_kinds.FILES:
    try:
      folder = _file(repository, name, revision)
    except _MissingFileError:
      continue
    for part in _parts(folder / name):
      _file(repository, part, folder.name)
    return folder
  raise InputError(
    f'the repository {repository} has no weights of transformers or timm, '
    'model.safetensors or pytorch_model.bin; give one that has'
  )


def _parts(path):
  """Returns the names of the files that an index names; () for weights."""
  if not path.name.endswith('.index.json'):
    return ()
  index = files.read_json(path, 'index of a weights file').get('weight_map')
  values = index.values() if isinstance(index, dict) else ()
  names = sorted({str(name) for name in values})
  for name in names:
    if not _FILE.fullmatch(name):
      raise InputError(f'{path} names {messages.quoted(name)}, no file there')
  return names


def _file(repository, name, revision):
  """Downloads a file; returns its folder, named after its commit."""
  import huggingface_hub

  def address(revision):
    return huggingface_hub.hf_hub_url(
      repository, name, revision=revision, endpoint=mirrors.hub()
    )

  with _errors(repository, name):
    known = waiting.within(
      LONGEST,
      lambda: huggingface_hub.get_hf_file_metadata(
        address(revision), token=mirrors.token() or False, timeout=TIMEOUT
      ),
    )
  if not _COMMIT.fullmatch(known.commit_hash or ''):
    raise download.UnreachableError('it answers, but not like the Hub')
  folder = _cache(repository) / known.commit_hash
  path, url = folder / name, address(known.commit_hash)
  if path.exists():
    return folder
  folder.mkdir(parents=True, exist_ok=True)
  with partial_download.alone(path):
    if path.exists():  # another process has finished in the meantime
      return folder
    digits = known.etag or ''
    hashes = [f'sha256:{digits}'] if _SHA256.fullmatch(digits) else []
    shown = messages.without_secrets(url)
    with progress.shown(f'{repository}/{name}', shown) as watch:
      try:
        download.download(
          url, path, hashes=hashes, token=mirrors.token(), watch=watch
        )
      except download.UnreachableError:
        raise
      except download.SourceError as error:
        raise OSError(f'{shown}: {error}') from None
  return folder


def _cache(repository):
  return files.cache_folder('hub', *repository.split('/'))


@contextlib.contextmanager
def _errors(repository, name='') -> Generator[None]:
  """Turns the exceptions of huggingface_hub into one line each."""
  from huggingface_hub import errors

  missing = _MissingFileError(f'the repository {repository} has no {name}')
  try:
    yield
  except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
    raise InputError(_no_repository(repository, error)) from None
  except errors.EntryNotFoundError:
    raise missing from None
  except errors.HfHubHTTPError as error:
    status = error.response.status_code
    if status == 404:  # a server that does not say what is missing
      raise missing from None
    raise _RefusedError(f'it answers with status {status}') from None
  except errors.OfflineModeIsEnabled:
    raise download.UnreachableError('HF_HUB_OFFLINE is set') from None
  except TimeoutError:
    raise download.UnreachableError('no answer in time') from None
  except errors.HFValidationError as error:
    raise InputError(messages.short(error)) from None
  except Exception as error:
    if type(error).__module__.partition('.')[0] not in _HTTP_CLIENTS:
      raise
    raise download.UnreachableError(
      download.silence(error) or messages.short(error) or type(error).__name__
    ) from None


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
  """Returns the folder of the newest complete copy in the cache, or None."""
  folders = [
    path.parent
    for name in file_kinds.FILES
    for path in _cache(repository).glob(f'*/{name}')
    if all((path.parent / part).exists() for part in _parts(path))
  ]
  return max(folders, key=os.path.getmtime, default=None)


@contextlib.contextmanager
def offline_if_unreachable(repository: str | None) -> Generator[None]:
  """Lets other libraries take their own cached copies if the Hub is silent.

  Otherwise they would try each file for half a minute.

  Args:
    repository: 'USER/REPO', whose config.json must be in huggingface_hub's own
      cache then; None: the libraries know the name.

  Raises:
    UnreachableError: the Hub does not answer and there is no copy.
  """
  import huggingface_hub
  from huggingface_hub import constants

  try:
    with _errors(''):
      session = huggingface_hub.get_session()
      waiting.within(
        LONGEST, lambda: session.head(mirrors.hub(), timeout=TIMEOUT)
      )
  except download.UnreachableError as error:
    note(f'{mirrors.shown_hub()}: {error}; only a copy in a cache can be taken')
  else:
    yield
    return
  if repository is not None and not isinstance(
    huggingface_hub.try_to_load_from_cache(repository, configs.CONFIG), str
  ):
    raise download.UnreachableError(
      f'{repository}: the cache of huggingface_hub has no copy; connect to the '
      'internet, or give a folder'
    )
  before = constants.HF_HUB_OFFLINE
  constants.HF_HUB_OFFLINE = True
  try:
    yield
  finally:
    constants.HF_HUB_OFFLINE = before
