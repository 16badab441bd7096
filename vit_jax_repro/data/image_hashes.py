"""Hashes of image files, by which a folder is divided."""

import concurrent.futures
import hashlib
import os
from collections.abc import Sequence

from vit_jax_repro.data import trees
from vit_jax_repro.output import buckets, files, waiting

_HASHES: dict[tuple[str, int, int], str] = {}  # of this process


def hashes(root: str | os.PathLike, paths: Sequence[str]) -> list[str]:
  """Returns the SHA-256 of each file, in hexadecimal digits.

  A file is read once in a process, as long as its size and time stay.

  Args:
    root: folder of the files.
    paths: paths of the files.

  Raises:
    OSError: a file cannot be read.
  """

  def hashed(path):
    if buckets.is_url(path):
      return hashlib.sha256(trees.read_bytes(path)).hexdigest()
    stat = os.stat(path)
    key = path, stat.st_size, stat.st_mtime_ns
    if key not in _HASHES:
      _HASHES[key] = files.file_hash(path)
    return _HASHES[key]

  found = []
  with (
    waiting.doing(f'reading {len(paths):,} images of {root} to divide them'),
    concurrent.futures.ThreadPoolExecutor(trees.threads(root)) as pool,
  ):
    for number, content in enumerate(pool.map(hashed, paths), 1):
      found.append(content)
      if number % 100 == 0:
        waiting.now_doing(
          f'reading the images of {root} to divide them: {number:,} of '
          f'{len(paths):,}'
        )
  return found
