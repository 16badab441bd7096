"""Running the checks of many rows within a budget, the cheapest first."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files
from vit_jax_repro.output.messages import note
from vit_jax_repro.output.sections import View
from vit_jax_repro.paper import results, table, verdict, views
from vit_jax_repro.paper.table import Row
from vit_jax_repro.reproduction import (
  checks,
  compute_cost,
  previous_results,
  running,
)
from vit_jax_repro.reproduction import views as plan_views
from vit_jax_repro.reproduction.options import Options

# Outcomes of `run_many` that are no failures.
MEASURED, THERE = 'measured', 'there'
NOT_CHECKABLE, OVER_BUDGET = 'cannot be checked', 'over budget'
FINE = (MEASURED, THERE, NOT_CHECKABLE, OVER_BUDGET)


def run_many(
  rows: Sequence[Row],
  options: Options,
  *,
  resolve: Callable[[Row], checks.Check] = checks.resolve,
  cost: Callable[[checks.Check], Mapping[str, float]] | None = None,
  budget_hours: float | None = None,
) -> dict[str, str]:
  """Runs the checks of rows, the cheapest first, until the budget is used up.

  A row that has a result of what is asked for, or one that was written by
  hand, is left alone. A check begins if what it still takes fits into what is
  left of the budget, at the speed of what was computed before; as long as
  nothing was, if anything is left. A row that fails does not stop the others.

  Args:
    rows: of paper.table.
    options: for all of them.
    resolve: row -> Check.
    cost: Check -> {what it computes: floating-point operations, about};
      `running.remaining` by default. What checks share is counted once.
    budget_hours: None: no limit.

  Returns:
    {row id: one of the outcomes above, or one line on what went wrong or has
    to be picked}.

  Raises:
    InputError: the budget is no number of hours.
    OSError: the folder of results cannot be written.
  """
  if budget_hours is not None and not 0 <= budget_hours < math.inf:
    raise InputError(f'budget={budget_hours} must be a number of hours')
  files.check_folder(options.results)
  cost = cost or functools.partial(running.remaining, options=options)
  outcomes, ready = {}, []
  for row in rows:
    try:
      outcome, check = _state(row, options, resolve)
      if check is not None:
        ready.append((row.id, check, dict(cost(check))))
    except (ValueError, OSError) as error:
      outcome = _line(error)
    if outcome is not None:
      outcomes[row.id] = outcome
  started, done, meter = time.perf_counter(), set(), compute_cost.ComputeMeter()
  for row_id, check, pieces in sorted(
    ready, key=lambda each: (sum(each[2].values()), each[0])
  ):
    left = sum(pieces[name] for name in pieces.keys() - done)
    spent = time.perf_counter() - started
    expected = meter.expected(left)
    if budget_hours is not None and spent + expected > budget_hours * 3600:
      outcomes[row_id] = OVER_BUDGET
      continue
    note(f'checking {row_id}')
    try:
      running.run(check, options, meter)
    except (ValueError, OSError) as error:
      outcomes[row_id] = _line(error)
      note(f'{row_id}: {outcomes[row_id]}')
      continue
    done |= pieces.keys()
    outcomes[row_id] = MEASURED
  return outcomes


def _state(row, options, resolve):
  """Returns (outcome, None) of a row that is not run, or (None, check)."""
  there = previous_results.read(row, options)
  if row.status == table.NOT:
    return (NOT_CHECKABLE if there is None else THERE), None
  if there is not None and previous_results.is_by_hand(there):
    return THERE, None
  check = resolve(row)
  if check.pick:
    return (THERE if there else '; '.join(check.pick)), None
  if previous_results.find(check, options) is not None:
    return THERE, None
  return None, check


def _line(error):
  return ' '.join(str(error).split())


Resolve = Callable[[Row], checks.Check]


def plan(rows: Sequence[Row], resolve: Resolve) -> tuple[View, dict[str, str]]:
  """Returns the plan of checking rows, and the refused rows, {id: why}.

  Raises:
    InputError: none can be checked, or the choice is refused of all.
  """
  found, refused = [], {}
  for row in checkable(rows):
    try:
      found.append(resolve(row))
    except InputError as error:
      refused[row.id] = str(error)
  if not found:
    raise InputError(next(iter(refused.values())))
  return plan_views.plan(found), refused


def run(
  rows: Sequence[Row],
  options: Options,
  resolve: Resolve,
  budget_hours: float | None,
) -> tuple[View, dict[str, str], dict[str, str]]:
  """Returns checks rows: see `budget.run_many`.

  Returns:
    The verdicts; the rows that were not begun and those that failed, each
    {id: why}.

  Raises:
    InputError: none can be checked; as run_many.
    OSError: as run_many.
  """
  rows = checkable(rows)
  outcomes = run_many(rows, options, resolve=resolve, budget_hours=budget_hours)
  found = {}
  for row in rows:
    # A damaged file is the outcome of its row.
    with contextlib.suppress(ValueError, FileNotFoundError):
      found[row.id] = results.read_file(options.result(row))
  late = {key: o for key, o in outcomes.items() if o == OVER_BUDGET}
  failed = {key: o for key, o in outcomes.items() if o not in FINE}
  return views.numbers(rows, found), late, failed


def checkable(rows: Sequence[Row]) -> list[Row]:
  """Returns those that can be checked.

  Raises:
    InputError: there are none; with the reasons.
  """
  found = [row for row in rows if row.status != table.NOT]
  if not found:
    why = dict.fromkeys(verdict.BLOCKERS[row.blocker][0] for row in rows)
    raise InputError(
      f'no row of these can be checked ({", ".join(why)}); `reproduce show` '
      'says more'
    )
  return found
