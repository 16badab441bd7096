"""Checks of many rows: planned, or run within a budget of hours."""

import contextlib
import functools
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.output.messages import note
from vit_jax_repro.output.sections import View
from vit_jax_repro.paper import results, table, verdict, views
from vit_jax_repro.paper.table import Row
from vit_jax_repro.reproduction import (
  checks,
  compute_cost,
  needs,
  previous_results,
  running,
)
from vit_jax_repro.reproduction import views as plan_views
from vit_jax_repro.reproduction.options import Options

Resolve = Callable[[Row], checks.Check]  # such as checks.resolve

# Outcomes of `run_many` that are not failures.
MEASURED, THERE = 'measured', 'there'
NOT_CHECKABLE, OVER_BUDGET = 'cannot be checked', 'over budget'
NO_WEIGHTS = 'no weights file'  # a failure
FINE = (MEASURED, THERE, NOT_CHECKABLE, OVER_BUDGET)


def run_many(
  rows: Sequence[Row],
  options: Options,
  *,
  resolve: Resolve = checks.resolve,
  cost: Callable[[checks.Check], Mapping[str, float]] | None = None,
  budget_hours: float | None = None,
) -> dict[str, str]:
  """Runs the checks of rows, the cheapest first, until the budget is used up.

  A row is skipped if it already has a result of the same check, or a result
  written by hand. A check starts only if its estimated time fits into the rest
  of the budget. The estimate uses the speed of the checks so far; before the
  first one is measured, a check starts if any budget is left. A row that fails
  does not stop the others.

  Args:
    rows: rows of paper.table.
    options: options of all checks.
    resolve: returns the Check of a row.
    cost: returns {name: approximate floating-point operations} for the parts of
      a Check; by default `running.remaining`. A part that several checks share
      is counted once.
    budget_hours: None: no limit.

  Returns:
    {row id: outcome}. An outcome is one of the constants above, or one line
    with an error or with the choices that the row needs.

  Raises:
    InputError: the budget is not a number of hours.
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
    except Exception as error:
      outcome = _failure(error)
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
    if not options.fetch and needs.missing_weights(check, options):
      outcomes[row_id] = NO_WEIGHTS
      continue
    note(f'checking {row_id}')
    try:
      running.run(check, options, meter)
    except Exception as error:
      outcomes[row_id] = _failure(error)
      note(f'{row_id}: {outcomes[row_id]}')
      continue
    done |= pieces.keys()
    outcomes[row_id] = MEASURED
  return outcomes


def plan(
  rows: Sequence[Row],
  resolve: Resolve,
  options: Options | None = None,
  tflops: float = needs.TFLOPS,
) -> tuple[View, dict[str, str]]:
  """Returns a view of the checks, and the rows without one as {id: reason}.

  Args:
    rows: the rows.
    resolve: returns the Check of a row.
    options, tflops: see `views.plan`.

  Raises:
    InputError: no row can be checked, or `resolve` fails for all of them.
  """
  found, refused = [], {}
  for row in checkable(rows):
    try:
      found.append(resolve(row))
    except InputError as error:
      refused[row.id] = str(error)
  if not found:
    raise InputError(next(iter(refused.values())))
  return plan_views.plan(found, options, tflops), refused


def run(
  rows: Sequence[Row],
  options: Options,
  resolve: Resolve,
  budget_hours: float | None,
) -> tuple[View, dict[str, str], dict[str, str]]:
  """Checks rows, see `run_many`, and returns the verdicts.

  Returns:
    A view of the verdicts; the rows that did not fit into the budget, and the
    rows that failed, each as {id: reason}.

  Raises:
    InputError: no row can be checked; as run_many.
    OSError: as run_many.
  """
  rows = checkable(rows)
  outcomes = run_many(rows, options, resolve=resolve, budget_hours=budget_hours)
  found = {}
  for row in rows:
    # `run_many` has already reported a damaged file as the outcome of its row.
    with contextlib.suppress(ValueError, FileNotFoundError):
      found[row.id] = results.read_file(options.result(row))
  late = {key: o for key, o in outcomes.items() if o == OVER_BUDGET}
  failed = {key: o for key, o in outcomes.items() if o not in FINE}
  return views.numbers(rows, found), late, failed


def failures(
  failed: Mapping[str, str],
  rows: Sequence[Row],
  options: Options,
  resolve: Resolve,
) -> list[str]:
  """Returns lines on the rows that failed, one for all missing files.

  Args:
    failed: the failures of `run`.
    rows, options, resolve: the arguments of `run`.
  """
  without = [row for row in rows if failed.get(row.id) == NO_WEIGHTS]
  lines = [f'{k}: {why}' for k, why in failed.items() if why != NO_WEIGHTS]
  if without:
    whole = needs.total(needs.of(resolve(row), options) for row in without)
    size = sum(filter(None, whole.weights.values())) / 1e9
    number = len(whole.weights)
    listed = messages.listed if number > 1 else ''.join
    lines.append(
      f'weights files missing in {options.weights_dir!r}: {number}, of '
      f'{len(without)} of the rows: {listed(whole.weights)} ({size:.2f} GB); '
      'give --fetch, or get each by `python -m vit_jax_repro.fetch NAME '
      '--dir=FOLDER`, see docs/paper.md'
    )
  return lines


def checkable(rows: Sequence[Row]) -> list[Row]:
  """Returns the rows that can be checked.

  Raises:
    InputError: there are none; the message has the reasons.
  """
  found = [row for row in rows if row.status != table.NOT]
  if not found:
    why = dict.fromkeys(verdict.BLOCKERS[row.blocker][0] for row in rows)
    raise InputError(
      f'none of these rows can be checked ({", ".join(why)}); see `reproduce '
      'show`'
    )
  return found


def _state(row, options, resolve):
  """Returns (outcome, None) for a row that is not run, else (None, check)."""
  previous = previous_results.read(row, options)
  if row.status == table.NOT:
    return (NOT_CHECKABLE if previous is None else THERE), None
  if previous is not None and previous_results.is_by_hand(previous):
    return THERE, None
  check = resolve(row)
  if check.pick:
    return (THERE if previous else '; '.join(check.pick)), None
  if previous_results.find(check, options) is not None:
    return THERE, None
  return None, check


def _failure(error):
  """Returns an error as one line; prints the traceback of a bug.

  One row's failure does not stop the others, which may take days.
  """
  if not isinstance(error, InputError | OSError):
    traceback.print_exception(error)
  return _line(error)


def _line(error):
  return ' '.join(str(error).split())
