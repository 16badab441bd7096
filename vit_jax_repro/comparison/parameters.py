"""A port's parameters against those of a weights file, array by array."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro.weights import stacking


@dataclasses.dataclass(frozen=True)
class Parameters:
  """How two trees of parameters compare."""

  num_arrays: int  # of the reference
  num_equal: int  # bit for bit
  # Name and largest absolute difference, the largest first.
  different: tuple[tuple[str, float], ...]
  # Name, and what is the matter: 'missing', 'extra', or two shapes.
  unmatched: tuple[tuple[str, str], ...]

  @property
  def equal(self) -> bool:
    return not self.different and not self.unmatched


def compare(
  reference: Mapping[str, Any], port: Mapping[str, Any]
) -> Parameters:
  """Compares two canonical trees, nested or flat."""
  reference, port = stacking.flatten(reference), stacking.flatten(port)
  different, unmatched = {}, {}
  for name in reference.keys() | port.keys():
    if name not in port:
      unmatched[name] = 'missing in the port'
    elif name not in reference:
      unmatched[name] = 'only in the port'
    elif reference[name].shape != port[name].shape:
      unmatched[name] = (
        f'{tuple(port[name].shape)}, not {tuple(reference[name].shape)}'
      )
    elif not np.array_equal(reference[name], port[name]):
      gap = np.asarray(port[name], np.float64)
      gap = gap - np.asarray(reference[name], np.float64)
      different[name] = float(np.nan_to_num(np.abs(gap), nan=np.inf).max())
  found = len(different) + sum(name in reference for name in unmatched)
  return Parameters(
    num_arrays=len(reference),
    num_equal=len(reference) - found,
    different=tuple(sorted(different.items(), key=lambda item: -item[1])),
    unmatched=tuple(sorted(unmatched.items())),
  )
