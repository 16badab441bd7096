"""Where papers and released code differ, and which rows that concerns.

`numbers/differences.csv` has a line for each. Its column `concerns` is our
reading of `affects`, which is in words, as conditions on the fields of a row:

    family=ViT|hybrid; status=checkable-*  or  metric=5shot*

All conditions between semicolons hold, for one of the alternatives between
`or`; a value is one of several globs, with | between them. Empty: it concerns
no row, but readers of the papers or of the code.
"""

import dataclasses
import functools

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.paper import table


@dataclasses.dataclass(frozen=True)
class Difference:
  """One difference: paper and code, two codes, or inside of a paper."""

  id: str
  scope: str  # 'ViT fine-tune'
  kind: str  # 'paper-vs-code', 'code quirk', 'agreement', ...
  source: str
  topic: str
  first: str  # what the paper says, or the first source
  second: str  # what the code does, or the second source says
  where: str
  affects: str
  handling: str  # what to do about it
  status: str  # 'open' or 'documented'
  note: str
  confidence: str
  concerns: str

  def touches(self, row: table.Row) -> bool:
    """Whether it concerns a row."""
    return any(
      all(_holds(condition, row) for condition in alternative.split(';'))
      for alternative in self.concerns.split(' or ')
      if alternative
    )


@functools.cache
def all_differences() -> tuple[Difference, ...]:
  """Every line of the table."""
  return tuple(Difference(**line) for line in table.read_csv('differences'))


def select(pattern: str | None = None) -> list[Difference]:
  """The differences whose id, scope, topic, source or effect fits.

  Args:
    pattern: see naming.fits; None for all.

  Raises:
    InputError: none fits.
  """
  found = [
    each
    for each in all_differences()
    if pattern is None
    or messages.fits(
      pattern, each.id, each.scope, each.topic, each.source, each.affects
    )
  ]
  if not found:
    raise InputError(
      f'no difference fits {pattern!r}; without a pattern all are shown'
    )
  return found


def touching(row: table.Row) -> list[Difference]:
  """The differences that concern a row."""
  return [each for each in all_differences() if each.touches(row)]


def _holds(condition, row):
  field, _, globs = condition.strip().partition('=')
  text = getattr(row, field)
  return any(
    messages.fits(glob, str(text)) if '*' in glob else glob == str(text)
    for glob in globs.split('|')
  )
