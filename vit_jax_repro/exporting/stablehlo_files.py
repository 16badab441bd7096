"""StableHLO files: programs of `jax.export`, which need only JAX to run."""

import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from jax import export

from vit_jax_repro.exporting import programs

PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(path: str | os.PathLike, program: programs.Program) -> None:
  """Writes a program with its weights, for each of PLATFORMS.

  Args:
    path: a file, which is overwritten.
    program: the program.

  Raises:
    OSError: the file cannot be written.
  """
  (batch,) = export.symbolic_shape(programs.BATCH)
  images = jax.ShapeDtypeStruct((batch, *program.image_shape), np.float32)
  exported = export.export(jax.jit(program.function), platforms=PLATFORMS)
  pathlib.Path(path).write_bytes(exported(images).serialize())


def runner(path: str | os.PathLike) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a StableHLO file as a function of images."""
  exported = export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
  call = jax.jit(exported.call)
  return lambda images: np.asarray(call(images))
