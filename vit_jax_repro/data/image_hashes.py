"""Hashes of image files, by which a folder is divided."""

import concurrent.futures
import os
from collections.abc import Sequence

from vit_jax_repro.output import files, waiting

_HASHES: dict[tuple[str, int, int], str] = {}  # of this process


def hashes(root: str | os.PathLike, paths: Sequence[str]) -> list[str]:
  """Returns the SHA-256 of each file, in hexadecimal digits.

  A file is read once in a process, as long as its size and time stay.

  Args:
    root: named in the line on progress.
    paths: paths of the files.

  Raises:
    OSError: a file cannot be read.
  """

  def hashed(path):
    stat = os.stat(path)
    key = path, stat.st_size, stat.st_mtime_ns
    if key not in _HASHES:
      _HASHES[key] = files.file_hash(path)
    return _HASHES[key]

  found = []
  with (
    waiting.doing(f'reading {len(paths):,} images of {root} to divide them'),
    concurrent.futures.ThreadPoolExecutor() as pool,
  ):
    for number, content in enumerate(pool.map(hashed, paths), 1):
      found.append(content)
      if number % 100 == 0:
        waiting.now_doing(
          f'reading the images of {root} to divide them: {number:,} of '
          f'{len(paths):,}'
        )
  return found
