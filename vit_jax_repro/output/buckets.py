"""Files in Google Cloud Storage: gs://BUCKET/PATH.

gcsfs does the work. This module also configures the libraries that open gs://
paths themselves (`path`). bucket_calls.py has the errors.
"""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import bucket_calls, messages, waiting
from vit_jax_repro.output.bucket_calls import PREFIX, BucketError, call

INSTALL = "pip install -e '.[gcs]'"
_SILENCE = 60.0  # seconds without a byte after which a request has failed


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


def clean_run(url: str) -> str:
  """Returns `clean` of the address of a run, which TensorStore also opens.

  Raises:
    InputError: as `clean`, or TensorStore would take another address.
  """
  url = clean(url)
  # It cuts an address at # and ?, resolves dots, and refuses line ends. Then
  # Orbax waits without an end for files that lie elsewhere.
  dots = {'.', '..'} & set(url.split('/'))
  unfit = sorted({'#', '?'} & set(url) | dots)
  if unfit or not url.isprintable():
    what = ' and '.join(map(repr, unfit)) or 'unprintable characters'
    raise InputError(
      f'{messages.quoted(url)} cannot hold checkpoints, because of {what} in '
      'it; choose another name'
    )
  return url


def path(url: str) -> Any:
  """Returns an epath.Path that uses gcsfs, as Orbax does with it then."""
  _filesystem()
  from etils import epath

  return epath.Path(url)


def patiently(url: str, function: Callable[[], Any]) -> Any:
  """Calls a function of a library that waits for a bucket without an end.

  Raises:
    UnreachableError, Exception: see `bucket_calls.patiently`.
  """
  return bucket_calls.patiently(url, function, lambda: _first_object(url))


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
    bucket = bucket_calls.bucket_of(url)
    raise BucketError(
      f'{url}: there is no bucket {bucket!r}; check its name, or make it'
    ) from None


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


def read(url: str, *, most: int | None = None) -> bytes:
  """Reads a file.

  Args:
    url: its address.
    most: the largest number of bytes that are read.

  Raises:
    FileNotFoundError: there is none.
    InputError: it has more than `most` bytes, of which none is read.
    BucketError: see `call`.
  """
  if most is not None:
    size = (info(url) or {}).get('size', 0)
    if size > most:
      raise InputError(
        f'{url} has {size:,} bytes, and at most {most:,} are read; give the '
        'file that a run wrote'
      )
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
  except ModuleNotFoundError:
    raise InputError(
      f'{PREFIX} needs the Python package gcsfs; {INSTALL}'
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
    reason, _ = bucket_calls.explained(error)
    raise BucketError(f'Google Cloud Storage: {reason}') from error
