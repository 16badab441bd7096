"""Folders of images on this machine or in a bucket, by their paths.

A bucket is listed once for each data set (`opened`), because each request takes
long. The functions then answer from the listing.
"""

import collections
import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.output import buckets, files, locations

THREADS = 32  # requests at a time to a bucket; each waits for the network
_FRESH = 60.0  # seconds for which a listing is used again
_listings: dict[str, '_Listing'] = {}


@dataclasses.dataclass(frozen=True)
class _Entry:
  """One name in a folder of a bucket, like an os.DirEntry."""

  name: str
  folder: bool

  def is_dir(self):
    return self.folder


class _Listing:
  """What lies below one address, as it was when it was listed."""

  def __init__(self, url):
    buckets.require(url, writable=False)
    self.sizes: dict[str, int] = {}
    self.folders: dict[str, dict[str, bool]] = collections.defaultdict(dict)
    for name, size in buckets.sizes(url).items():
      if not name or name.endswith('/'):  # a folder made on Google's web page
        continue
      self.sizes[f'{url}/{name}'] = size
      folder, *below = url, *name.split('/')
      for each in below[:-1]:
        self.folders[folder][each] = True
        folder = f'{folder}/{each}'
      self.folders[folder][below[-1]] = False
    self.time = time.monotonic()


def opened(root: str) -> str:
  """Returns a root without a slash at the end; lists it if it is in a bucket.

  Raises:
    InputError: gcsfs is not installed, or the address is none.
    BucketError: the bucket does not exist, refuses, or does not answer.
  """
  if not locations.is_address(root):
    return root
  root = buckets.clean(root)
  known = _listings.get(root)
  if known is None or time.monotonic() - known.time > _FRESH:
    _listings[root] = _Listing(root)
  return root


def threads(root: str | os.PathLike) -> int | None:
  """Returns how many files to read at a time; None: TensorFlow chooses."""
  return THREADS if buckets.is_url(root) else None


def is_folder(path: str | os.PathLike) -> bool:
  """Returns whether there is a folder at a path."""
  if buckets.is_url(path):
    return os.fspath(path) in _listing(path).folders
  return os.path.isdir(path)


def is_special(path: str | os.PathLike) -> bool:
  """Returns whether there is a device, pipe or socket at a path."""
  return not buckets.is_url(path) and files.is_special(path)


def is_file(path: str | os.PathLike) -> bool:
  """Returns whether there is a file at a path."""
  if buckets.is_url(path):
    return os.fspath(path) in _listing(path).sizes
  return os.path.isfile(path)


def scandir(
  folder: str | os.PathLike,
) -> AbstractContextManager[Iterator[Any]]:
  """Lists a folder, as os.scandir does."""
  if not buckets.is_url(folder):
    return os.scandir(folder)
  found = _listing(folder).folders.get(os.fspath(folder), {})
  return nullcontext(iter([_Entry(*each) for each in found.items()]))


def identity(folder: str | os.PathLike) -> str:
  """Returns what all paths of one folder share; buckets have no links."""
  if buckets.is_url(folder):
    return os.fspath(folder)
  return os.path.realpath(folder)


def check_readable(path: str) -> None:
  """Refuses a file that cannot be opened.

  Raises:
    OSError: it is a broken link, or its permissions forbid it.
  """
  if not buckets.is_url(path) and not os.access(path, os.R_OK):
    reason = 'permission denied' if os.path.exists(path) else 'no such file'
    raise OSError(f'{path} cannot be read: {reason}; remove or mend it')


def size(path: str) -> int:
  """Returns the size of a file in bytes."""
  if buckets.is_url(path):
    return _listing(path).sizes[path]
  return os.stat(path).st_size


def read_bytes(path: str) -> bytes:
  """Reads a file.

  Raises:
    OSError: it cannot be read.
  """
  if buckets.is_url(path):
    return buckets.read(path)
  with open(path, 'rb') as file:
    return file.read()


def read_in_graph(root: str, path: Any) -> Any:
  """Reads a file below a root: a string tensor of its path to its bytes."""
  tf = tensorflow()
  if not buckets.is_url(root):
    return tf.io.read_file(path)
  content = tf.numpy_function(_read_path, [path], tf.string)
  return tf.ensure_shape(content, [])


def _listing(path):
  """Returns the listing of the nearest root above a path."""
  path = os.fspath(path)
  roots = [x for x in _listings if f'{path}/'.startswith(f'{x}/')]
  if not roots:
    return _listings[opened(path)]
  return _listings[max(roots, key=len)]


def _read_path(path):
  return buckets.read(os.fsdecode(path))
