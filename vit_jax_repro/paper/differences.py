"""Differences between papers and released code, and the rows they concern.

`numbers/differences.csv` has a line for each difference. Its column `affects`
is in words. The column `concerns` is our translation of it to conditions on the
fields of a row:

    family=ViT|hybrid; status=checkable-*  or  metric=5shot*

`or` separates alternatives, and semicolons separate the conditions of an
alternative, which must all hold. A value is one or several globs, separated by
|. A difference with an empty cell concerns no row, but readers of the papers or
of the code.
"""

import dataclasses
import functools

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.paper import table


@dataclasses.dataclass(frozen=True)
class Difference:
  """A difference between paper and code, between codes, or within a paper."""

  id: str
  scope: str  # 'ViT fine-tune'
  kind: str  # 'paper-vs-code', 'code quirk', 'agreement', ...
  source: str
  topic: str
  first: str  # statement of the paper, or of the first source
  second: str  # behaviour of the code, or statement of the second source
  where: str
  affects: str
  handling: str  # advice
  status: str  # 'open' or 'documented'
  note: str
  confidence: str
  concerns: str

  def touches(self, row: table.Row) -> bool:
    """Returns whether the difference concerns a row."""
    return any(
      all(_holds(condition, row) for condition in alternative.split(';'))
      for alternative in self.concerns.split(' or ')
      if alternative
    )


@functools.cache
def all_differences() -> tuple[Difference, ...]:
  """Returns all differences, in the order of their ids."""
  return tuple(Difference(**line) for line in table.read_csv('differences'))


def select(pattern: str | None = None) -> list[Difference]:
  """Returns the differences that match a pattern.

  Args:
    pattern: pattern for the id, scope, topic, source or `affects`, see
      `messages.fits`; None for all differences.

  Raises:
    InputError: no difference matches.
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
  """Returns the differences that concern a row."""
  return [each for each in all_differences() if each.touches(row)]


def _holds(condition, row):
  field, _, globs = condition.strip().partition('=')
  text = getattr(row, field)
  return any(
    messages.fits(glob, str(text)) if '*' in glob else glob == str(text)
    for glob in globs.split('|')
  )
