"""Running the checks of many rows within a budget, the cheapest first."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence

from vit_jax_repro.paper import table
from vit_jax_repro.paper.table import Row
from vit_jax_repro.reproduction import checks, earlier, running, work
from vit_jax_repro.reproduction.options import Options
from vit_jax_repro.runs import json_files
from vit_jax_repro.runs.restoring import note

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
    ValueError: the budget is no number of hours.
    OSError: the folder of results cannot be written.
  """
  if budget_hours is not None and not 0 <= budget_hours < math.inf:
    raise ValueError(f'budget={budget_hours} must be a number of hours')
  json_files.check_folder(options.results)
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
  started, done, meter = time.perf_counter(), set(), work.Meter()
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
  """(outcome, None) of a row that is not to be run, or (None, its check)."""
  there = earlier.read(row, options)
  if row.status == table.NOT:
    return (NOT_CHECKABLE if there is None else THERE), None
  if there is not None and earlier.is_by_hand(there):
    return THERE, None
  check = resolve(row)
  if check.pick:
    return (THERE if there else '; '.join(check.pick)), None
  if earlier.find(check, options) is not None:
    return THERE, None
  return None, check


def _line(error):
  return ' '.join(str(error).split())
