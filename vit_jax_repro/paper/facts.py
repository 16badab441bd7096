"""The published tables without accuracies: model sizes and settings.

`numbers/sizes.csv`, `pretraining.csv` and `finetuning.csv` have a row for each
model or recipe of the papers and of released code. The column `status` names
the origin of the row. Cells repeat the source, in its own words if it has no
number.
"""

import dataclasses
import functools
from collections.abc import Mapping

from vit_jax_repro.output import messages
from vit_jax_repro.paper import table

_FILES = {  # file: (name of the table with all its rows, title)
  'sizes': ('Model sizes', 'Layers, widths, tokens and parameters'),
  'pretraining': ('Pre-training settings', 'Recipes of pre-training'),
  'finetuning': ('Fine-tuning settings', 'Recipes of fine-tuning'),
}


@dataclasses.dataclass(frozen=True)
class Facts:
  """A table whose cells are text."""

  name: str
  title: str
  rows: tuple[Mapping[str, str], ...]  # {column: cell}; '' if not stated

  def common(self) -> dict[str, str]:
    """Returns {column: cell} of the non-empty cells that all rows share."""
    return {
      column: cell
      for column, cell in self.rows[0].items()
      if cell and all(row[column] == cell for row in self.rows)
    }

  def varying(self) -> list[str]:
    """Returns the columns in which rows differ."""
    return [
      column
      for column, cell in self.rows[0].items()
      if any(row[column] != cell for row in self.rows)
    ]


@functools.cache
def tables() -> tuple[Facts, ...]:
  """Returns the tables of the papers, sorted by name, then the whole files."""
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
  """Returns the table with a name, or with a part of a name that is unique.

  Raises:
    InputError: no table or several match.
  """
  by_name = {each.name: each for each in tables()}
  return by_name[messages.pick(name, by_name, 'table', '`list` has all names')]
