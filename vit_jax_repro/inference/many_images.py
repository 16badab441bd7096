"""A model applied to any number of image files, some of which may be damaged.

Threads read ahead of the devices, two batches at most, so memory does not grow
with the number of images. All batches have the same number of rows, so there is
one compiled program.
"""

import collections
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from vit_jax_repro.data import batches
from vit_jax_repro.errors import InputError, printable
from vit_jax_repro.output import waiting
from vit_jax_repro.parallel import host_memory
from vit_jax_repro.parallel import mesh as meshes
from vit_jax_repro.training import dividing

BATCH_SIZE = 32
_AHEAD = 2  # batches that are read while one is computed


class Outcome(NamedTuple):
  """What became of an image."""

  path: str
  value: np.ndarray | None  # a row of the function's result; None if it failed
  error: InputError | OSError | None


def apply(
  function: Callable[[Any, Any], jax.Array],
  params: Mapping[str, Any],
  read: Callable[[str], np.ndarray],
  paths: Sequence[str],
  *,
  batch_size: int = BATCH_SIZE,
  what: str = 'predicting',
) -> Iterator[Outcome]:
  """Yields the outcome of each image, in order.

  Args:
    function: (params, images [B, H, W, 3]) -> [B, ...], to be compiled.
    params: the parameters, host or device arrays.
    read: path -> [H, W, 3] float32, called by several threads. It raises an
      InputError or OSError for a file that is not a readable image.
    paths: paths of the images.
    batch_size: images of a step, over all devices of this process.
    what: the step, for the line on progress.

  Raises:
    InputError: batch_size is wrong.
  """
  if batch_size < 1:
    raise InputError(f'{batch_size=} must be at least 1')
  mesh = meshes.create_mesh(devices=jax.local_devices())
  params = meshes.replicate(params, mesh)
  multiple = meshes.local_batch_multiple(mesh)
  batch_size = min(batch_size, len(paths))
  num_rows = -(-batch_size // multiple) * multiple

  def of_batch(params, batch):
    return function(params, batch['image'])

  step = jax.jit(
    dividing.divide_work(of_batch, mesh), out_shardings=meshes.replicated(mesh)
  )
  read_images = _read_ahead(read, paths, _AHEAD * num_rows)
  pending, done = None, 0  # fetched one step late, so that no device waits
  with waiting.doing(what):
    while chunk := list(itertools.islice(read_images, batch_size)):
      images = [image for _, image, _ in chunk if image is not None]
      rows = None
      if images:
        batch = {'image': np.stack(images), 'label': np.zeros(len(images))}
        batch = batches.pad(batch, num_rows)
        rows = step(params, meshes.to_global(batch, mesh))
      if pending is not None:
        yield from _outcomes(*pending)
      pending = chunk, rows
      done += len(chunk)
      waiting.now_doing(f'{what}: {done:,} of {len(paths):,} images read')
    if pending is not None:
      yield from _outcomes(*pending)


def _outcomes(chunk, rows):
  values = iter(()) if rows is None else iter(np.asarray(rows))
  for path, image, error in chunk:
    yield Outcome(path, None if image is None else next(values), error)


def _read_ahead(read, paths, ahead):
  """Yields (path, image, error) in order; threads read `ahead` images more."""

  def attempt(path):
    try:
      if os.path.isdir(path):
        raise IsADirectoryError(
          f'{printable(path)} is a folder; give the image files in it'
        )
      if not os.path.exists(path):
        raise FileNotFoundError(f'no such image: {printable(path)}')
      return path, read(path), None
    except (InputError, OSError) as error:
      return path, None, error

  pool = futures.ThreadPoolExecutor(host_memory.cores())
  coming = iter(paths)
  reading = collections.deque()
  try:
    for path in itertools.islice(coming, ahead):
      reading.append(pool.submit(attempt, path))
    while reading:
      yield reading.popleft().result()
      for path in itertools.islice(coming, 1):
        reading.append(pool.submit(attempt, path))
  finally:
    pool.shutdown(cancel_futures=True)
