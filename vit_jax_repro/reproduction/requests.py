"""Many rows asked for at once: each by itself, and those that fail named."""

import contextlib
from collections.abc import Callable, Sequence

from vit_jax_repro.paper import results, table, verdict, views
from vit_jax_repro.paper.sections import View
from vit_jax_repro.paper.table import Row
from vit_jax_repro.reproduction import budget, checks, plans
from vit_jax_repro.reproduction.options import Options

Resolve = Callable[[Row], checks.Check]


def plan(rows: Sequence[Row], resolve: Resolve) -> tuple[View, dict[str, str]]:
  """What checking rows takes; those of which a choice is refused, {id: why}.

  Raises:
    ValueError: none can be checked, or the choice is refused of all.
  """
  found, refused = [], {}
  for row in checkable(rows):
    try:
      found.append(resolve(row))
    except ValueError as error:
      refused[row.id] = str(error)
  if not found:
    raise ValueError(next(iter(refused.values())))
  return plans.plan(found), refused


def run(
  rows: Sequence[Row],
  options: Options,
  resolve: Resolve,
  budget_hours: float | None,
) -> tuple[View, dict[str, str], dict[str, str]]:
  """Checks rows: see `budget.run_many`.

  Returns:
    The verdicts; the rows that were not begun and those that failed, each
    {id: why}.

  Raises:
    ValueError: none can be checked; as run_many.
    OSError: as run_many.
  """
  rows = checkable(rows)
  outcomes = budget.run_many(
    rows, options, resolve=resolve, budget_hours=budget_hours
  )
  found = {}
  for row in rows:
    # A damaged file is the outcome of its row.
    with contextlib.suppress(ValueError, FileNotFoundError):
      found[row.id] = results.read_file(options.result(row))
  late = {key: o for key, o in outcomes.items() if o == budget.OVER_BUDGET}
  failed = {key: o for key, o in outcomes.items() if o not in budget.FINE}
  return views.numbers(rows, found), late, failed


def checkable(rows: Sequence[Row]) -> list[Row]:
  """Those that can be checked.

  Raises:
    ValueError: there are none; says why.
  """
  found = [row for row in rows if row.status != table.NOT]
  if not found:
    why = dict.fromkeys(verdict.BLOCKERS[row.blocker][0] for row in rows)
    raise ValueError(
      f'no row of these can be checked ({", ".join(why)}); `reproduce show` '
      'says more'
    )
  return found
