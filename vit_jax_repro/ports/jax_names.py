"""Finds the parameters of the model in the state of a JAX program."""

import os
from collections.abc import Collection

from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import note
from vit_jax_repro.weights import layouts

NO_AVERAGE = 'it has no averaged weights (EMA); leave --ema out'
ONLY_AVERAGE = 'these are averaged weights (EMA); it has no others'


def average_too(where: str) -> str:
  """Returns the end of a note on averaged weights that are there too."""
  return f'has averaged weights (EMA) too, in {where}; --ema takes them'


def parameters(
  names: Collection[str], path: str | os.PathLike, *, ema: bool
) -> dict[str, str]:
  """Returns {name: canonical name} of the parameters of a checkpoint.

  Notes name averaged parameters that are there too.

  Args:
    names: of all arrays.
    path: of the checkpoint, for notes.
    ema: whether to take the averaged parameters.

  Raises:
    InputError: there is no model, or with `ema` no average.
  """
  average = layouts.average_in(names)
  if average is None:
    found = layouts.from_file(names)
    if ema:
      raise InputError(NO_AVERAGE)
    return found
  if ema:
    return layouts.from_file(names, averaged=True)
  where = average.rstrip('/')
  try:
    found = layouts.from_file(names)
  except InputError:
    note(f'{path}: {ONLY_AVERAGE}')
    return layouts.from_file(names, averaged=True)
  note(f'{path} {average_too(where)}')
  return found
