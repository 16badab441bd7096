"""What a person decides about running checks."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.paper.table import Row
from vit_jax_repro.published import catalogue


@dataclasses.dataclass(frozen=True)
class Options:
  """How checks are run, and where their files are.

  Raises:
    ValueError: a number is below 1.
  """

  results: str  # folder
  weights_dir: str = 'weights'  # holds published files, as `fetch` lays them
  fetch: bool = False  # whether files that are missing are fetched
  data_dir: str | None = None  # where TFDS sets lie
  batch_size: int = 64  # images at a time, of evaluation
  seeds: int = 1  # runs of fine-tuning
  # Of the recipe's settings, other values, 'pp.crop' and the like; the result
  # says so.
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  show: bool = True  # progress

  def __post_init__(self):
    for name in ('seeds', 'batch_size'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)} must be at least 1')

  def work(self, *parts: str) -> str:
    """A path below the folder of what is computed for the results."""
    return os.path.join(self.results, 'work', *parts)

  def weights(self, name: str) -> str:
    """Where a published file belongs: DIR/FOLDER/NAME.npz, as its name is."""
    return os.path.join(self.weights_dir, f'{catalogue.find(name).name}.npz')

  def result(self, row: Row) -> str:
    """Where the result of a row is written."""
    return os.path.join(self.results, f'{row.id}.json')
