"""The published tables that hold no accuracies: sizes and settings.

`numbers/sizes.csv`, `pretraining.csv` and `finetuning.csv` have a row for each
model or recipe, of the papers and of released code; `status` says which. Cells
are what the source says, in words where it does.
"""

import dataclasses
import functools
from collections.abc import Mapping

from vit_jax_repro.output import messages
from vit_jax_repro.paper import table

_FILES = {  # whole files: name, and what it is about
  'sizes': ('Model sizes', 'Layers, widths, tokens and parameters'),
  'pretraining': ('Pre-training settings', 'Recipes of pre-training'),
  'finetuning': ('Fine-tuning settings', 'Recipes of fine-tuning'),
}


@dataclasses.dataclass(frozen=True)
class Facts:
  """A table of texts."""

  name: str
  title: str
  rows: tuple[Mapping[str, str], ...]  # column: cell, '' for what is not stated

  def common(self) -> dict[str, str]:
    """The columns that have the same cell in all rows, without empty ones."""
    return {
      column: cell
      for column, cell in self.rows[0].items()
      if cell and all(row[column] == cell for row in self.rows)
    }

  def varying(self) -> list[str]:
    """The columns in which rows differ."""
    return [
      column
      for column, cell in self.rows[0].items()
      if any(row[column] != cell for row in self.rows)
    ]


@functools.cache
def tables() -> tuple[Facts, ...]:
  """The tables of the papers, in the order of their names, and whole files."""
  whole, parts = [], {}
  for file, (name, title) in _FILES.items():
    rows = tuple(table.read_csv(file))
    whole.append(Facts(name, title, rows))
    for row in rows:
      parts.setdefault((row['table'], title), []).append(row)
  return (
    *(
      Facts(name, title, tuple(rows))
      for (name, title), rows in sorted(parts.items())
      if name
    ),
    *whole,
  )


def named(name: str) -> Facts:
  """The table of a name, or of a part that no other has.

  Raises:
    InputError: no table or several are called so.
  """
  by_name = {each.name: each for each in tables()}
  return by_name[messages.pick(name, by_name, 'table', '`list` has all names')]
