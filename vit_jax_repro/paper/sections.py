"""What there is to show, the same for a terminal, Markdown and CSV."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading, what it says in sentences, and a table (or none).

  In a cell a line break is a new line; '>' before the name of a column aligns
  it to the right.
  """

  title: str  # '' for one that goes on
  text: tuple[str, ...] = ()
  columns: tuple[str, ...] = ()
  rows: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class View:
  """Sections for people, and records with the same keys for programs."""

  sections: tuple[Section, ...]
  records: tuple[Mapping[str, Any], ...]
