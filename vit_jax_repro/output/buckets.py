"""Files in Google Cloud Storage: gs://BUCKET/PATH.

gcsfs does the work. This module decides how long a bucket that does not answer
is asked again (`call`), turns its refusals into one line, and configures the
libraries that open gs:// paths themselves (`path`).
"""

import contextlib
import functools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages, waiting

PREFIX = 'gs://'
INSTALL = "pip install 'vit_jax_repro[gcs]'"
VARIABLE = 'VIT_JAX_REPRO_BUCKET_DEADLINE'
_DEADLINE = 300.0  # seconds
_LONGEST_PAUSE = 10.0  # seconds between two attempts
_SILENCE = 60.0  # seconds without a byte after which a request has failed
_LOOK = 5.0  # seconds between two looks whether a bucket answers
_LOGIN = 'log in again: gcloud auth application-default login'
_REMEDIES = {
  400: _LOGIN,
  401: _LOGIN,
  403: 'ask for the role Storage Object User on the bucket, or log in with '
  'another account',
}
_FAULTS = {
  400: 'it refuses the request, as with an expired login',
  401: 'the login is missing or has expired',
  403: 'permission denied',
}
_outages: set[str] = set()  # buckets that did not answer last time
_outages_lock = threading.Lock()
_impatient = threading.local()  # its `now` is True inside `at_once`


class BucketError(OSError):
  """A bucket refuses, or there is none; the message is one line."""


class UnreachableError(BucketError, TimeoutError):
  """A bucket has not answered until the deadline."""


def is_url(path: str | os.PathLike) -> bool:
  """Returns whether a path lies in a bucket."""
  return os.fspath(path).startswith(PREFIX)


def clean(url: str) -> str:
  """Returns gs://BUCKET/PATH without a slash at the end.

  Raises:
    InputError: the address has no bucket, or empty parts.
  """
  bucket, *parts = url.removeprefix(PREFIX).rstrip('/').split('/')
  if not re.fullmatch(r'[a-z0-9][a-z0-9._-]+', bucket) or '' in parts:
    raise InputError(
      f'{messages.quoted(url)} is no address in a bucket; write '
      f'{PREFIX}BUCKET/PATH, without empty parts'
    )
  return '/'.join([f'{PREFIX}{bucket}', *parts])


def deadline() -> float:
  """Returns the longest outage in seconds: 300, or VARIABLE.

  Raises:
    InputError: the variable is no number of at least 0.
  """
  text = os.environ.get(VARIABLE) or str(_DEADLINE)
  try:
    seconds = float(text)
  except ValueError:
    seconds = -1.0
  if not 0 <= seconds < float('inf'):
    raise InputError(
      f'{VARIABLE}={text} must be a number of seconds of at least 0; '
      f'{_DEADLINE:g} is the default'
    )
  return seconds


@contextlib.contextmanager
def at_once() -> Generator[None]:
  """Asks a bucket only once inside the block, for what ends a process."""
  _impatient.now = True
  try:
    yield
  finally:
    _impatient.now = False


def path(url: str) -> Any:
  """Returns an epath.Path that uses gcsfs, as Orbax does with it then."""
  _filesystem()
  from etils import epath

  return epath.Path(url)


def call(
  what: str, url: str, function: Callable[..., Any], *arguments: Any, **named
) -> Any:
  """Calls a function of the file system until the bucket answers.

  Args:
    what: what it does, such as 'reading'.
    url: the address that the messages name.
    function: of gcsfs.
    *arguments, **named: of the function.

  Raises:
    FileNotFoundError, FileExistsError: as the function.
    UnreachableError: there is no answer until the deadline.
    BucketError: the bucket refuses.
  """
  longest = 0.0 if getattr(_impatient, 'now', False) else deadline()
  pause = 0.5
  end = time.monotonic() + longest
  with waiting.doing(f'{what} {url}'):
    while True:
      try:
        result = function(*arguments, **named)
      except Exception as error:
        if isinstance(error, FileNotFoundError | FileExistsError):
          answers(url)
          raise
        reason, passes = _explained(error)
        if not passes:
          raise BucketError(f'{url}: {reason}') from error
        if time.monotonic() + pause > end:
          raise UnreachableError(
            f'{url}: {reason}, for {longest:g} s; repeat the command when the '
            f'connection is back, or set {VARIABLE}'
          ) from error
        is_silent(url, reason, longest)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
      else:
        answers(url)
        return result


def is_silent(url: str, reason: str, longest: float) -> None:
  """Notes once that a bucket does not answer."""
  bucket = _bucket(url)
  with _outages_lock:
    if bucket in _outages:
      return
    _outages.add(bucket)
  messages.note(
    f'{PREFIX}{bucket}: {reason}; asking again for at most {longest:g} s',
    every_process=True,
  )


def answers(url: str) -> None:
  """Notes that a bucket answers again, if it did not."""
  bucket = _bucket(url)
  with _outages_lock:
    if bucket not in _outages:
      return
    _outages.remove(bucket)
  messages.note(f'{PREFIX}{bucket}: it answers again', every_process=True)


def patiently(url: str, function: Callable[[], Any]) -> Any:
  """Calls a function of a library that waits for a bucket without an end.

  The function runs in a thread. If it takes long, the bucket is asked whether
  it answers at all.

  Raises:
    UnreachableError: the bucket has not answered until the deadline. The thread
      still waits; its name is waiting.ABANDONED.
    Exception: as the function.
  """
  ended, results, errors = threading.Event(), [], []

  def run():
    try:
      results.append(function())
    except BaseException as error:
      errors.append(error)
    ended.set()

  longest = deadline()
  look, since = min(_LOOK, max(longest / 4, 0.1)), None
  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  while not ended.wait(look):
    try:
      _first_object(url)
    except Exception as error:
      reason, passes = _explained(error)
      if not passes:  # the library finds that out, too
        continue
      since = time.monotonic() if since is None else since
      is_silent(url, reason, longest)
      if time.monotonic() - since >= longest:
        thread.name = waiting.ABANDONED
        raise UnreachableError(
          f'{url}: {reason}, for {longest:g} s; repeat the command when the '
          f'connection is back, or set {VARIABLE}'
        ) from error
    else:
      since = None
      answers(url)
  if errors:
    raise errors[0]
  return results[0]


def require(url: str, *, writable: bool) -> None:
  """Checks that a bucket exists and that this process may use it.

  Args:
    url: an address below which files are read or written.
    writable: whether to write and remove a small file there, too.

  Raises:
    BucketError: it does not exist or refuses, or does not answer.
  """
  try:
    call('listing', url, _first_object, url)
    if writable:
      probe = f'{url}/.writable'
      write(probe, b'')
      remove(probe)
  except FileNotFoundError:
    raise BucketError(
      f'{url}: there is no bucket {_bucket(url)!r}; check its name, or make it'
    ) from None


def exists(url: str) -> bool:
  """Returns whether a file, or a file below this address, exists."""
  return call('looking for', url, _filesystem().exists, url)


def names(url: str) -> list[str]:
  """Returns the sorted names of files and folders below an address."""
  try:
    found = call('listing', url, _filesystem().ls, url, detail=False)
  except FileNotFoundError:
    return []
  return sorted({os.path.basename(each.rstrip('/')) for each in found} - {''})


def sizes(url: str) -> dict[str, int]:
  """Returns the sizes of all files below an address by their path there."""
  found = call('listing', url, _filesystem().find, url, detail=True)
  start = len(url) - len(PREFIX) + 1
  return {name[start:]: entry['size'] for name, entry in found.items()}


def info(url: str) -> dict[str, Any] | None:
  """Returns the metadata of a file, such as `generation`; None if none is."""
  try:
    found = call('looking for', url, _filesystem().info, url)
  except FileNotFoundError:
    return None
  return found if found['type'] == 'file' else None


def read(url: str) -> bytes:
  """Reads a file.

  Raises:
    FileNotFoundError: there is none.
    BucketError: see `call`.
  """
  try:
    return call('reading', url, _filesystem().cat_file, url)
  except FileNotFoundError:
    raise FileNotFoundError(f'there is no file {url}') from None


def download(url: str, target: str | os.PathLike) -> None:
  """Copies a file of a bucket to a path on this machine; errors as `read`."""
  try:
    call('reading', url, _filesystem().get_file, url, os.fspath(target))
  except FileNotFoundError:
    raise FileNotFoundError(f'there is no file {url}') from None


def write(url: str, content: bytes, *, only_new: bool = False) -> None:
  """Writes a file in one request, so that it is there whole or not at all.

  Args:
    url: the address of the file.
    content: its bytes.
    only_new: whether the file must not exist.

  Raises:
    FileExistsError: `only_new`, and the file exists.
    FileNotFoundError: the bucket does not exist.
    BucketError: see `call`.
  """
  call(
    'writing',
    url,
    _filesystem().pipe_file,
    url,
    content,
    mode='create' if only_new else 'overwrite',
    chunksize=len(content) + 1,
  )


def remove(url: str) -> None:
  """Removes a file, if it exists."""
  with contextlib.suppress(FileNotFoundError):
    call('removing', url, _filesystem().rm_file, url)


def move(source: Any, target: Any) -> None:
  """Moves all files below one address to another."""
  files = _filesystem()
  call('moving', str(source), files.mv, str(source), str(target), True)


def _bucket(url):
  return url.removeprefix(PREFIX).partition('/')[0]


def _first_object(url):
  """Lists one object; fails if the bucket does not exist."""
  bucket, _, prefix = url.removeprefix(PREFIX).partition('/')
  _filesystem().call('GET', 'b/{}/o', bucket, prefix=prefix, maxResults=1)


@functools.cache
def _filesystem():
  """Returns gcsfs's file system; configures epath and fsspec for Orbax.

  Raises:
    InputError: gcsfs is not installed.
    BucketError: the login is unusable.
  """
  try:
    import fsspec
    import gcsfs.core
  except ModuleNotFoundError as error:
    raise InputError(
      f'{PREFIX} needs the Python package {error.name}; {INSTALL}'
    ) from None
  import aiohttp
  from etils.epath import gpath

  # They print errors that they also raise, with traces.
  for name in ('gcsfs', 'google.auth'):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  # epath would take TensorFlow's file system. It may have looked already.
  os.environ['EPATH_USE_TF'] = 'false'
  gpath._is_tf_installed.cache_clear()
  # A cached listing of a folder never shows what others add to it.
  options: dict[str, Any] = {'use_listings_cache': False}
  if os.environ.get('STORAGE_EMULATOR_HOST'):
    options['token'] = 'anon'  # an emulator has no logins
  fsspec.config.conf.setdefault('gcs', {}).update(options)

  class Files(gcsfs.core.GCSFileSystem):
    """gcsfs without its own silent repetitions, which `call` replaces."""

    _request = gcsfs.core.GCSFileSystem._request.__wrapped__
    _get_file_request = gcsfs.core.GCSFileSystem._get_file_request.__wrapped__

  timeout = aiohttp.ClientTimeout(
    total=None, sock_connect=_SILENCE, sock_read=_SILENCE
  )
  try:
    with waiting.doing('logging in to Google Cloud Storage'):
      return Files(requests_timeout=timeout, **options)
  except Exception as error:
    reason, _ = _explained(error)
    raise BucketError(f'Google Cloud Storage: {reason}') from error


def _explained(error):
  """Returns the reason of an error of gcsfs, and whether it may pass.

  An error that is none of the bucket is raised again.
  """
  import aiohttp
  import google.auth.exceptions
  import requests
  from gcsfs.retry import HttpError

  text = messages.short(error)
  code = getattr(error, 'code', None) if isinstance(error, HttpError) else None
  if str(code).isdecimal():
    code = int(str(code))
  elif isinstance(error, OSError) and text.startswith('Forbidden'):
    code = 403
  elif isinstance(error, ValueError) and text.startswith('Bad Request'):
    code = 400
  if code in _FAULTS:
    return f'{_FAULTS[code]} ({code}); {_REMEDIES[code]}', False
  if code is not None:
    return f'it answers with status {code}', code in (408, 429) or code >= 500
  if isinstance(error, google.auth.exceptions.TransportError):
    return f'the login cannot be checked ({text})', True
  if isinstance(error, google.auth.exceptions.GoogleAuthError):
    return f'the login is unusable ({text}); {_LOGIN}', False
  if isinstance(error, requests.exceptions.ProxyError):  # gcsfs's for 502
    return 'it answers with status 502', True
  if isinstance(
    error,
    aiohttp.ClientError
    | requests.exceptions.RequestException
    | TimeoutError
    | ConnectionError,
  ):
    return f'no answer ({type(error).__name__})', True
  raise error
