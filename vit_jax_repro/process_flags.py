"""Flags of commands that also run in several processes, and how they join."""

import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from vit_jax_repro import command_line
from vit_jax_repro.output import waiting

# Seconds in which a process may print a reason of its own after another has
# printed one.
_OWN_REASON = 2.0


def define(flag_values: flags.FlagValues) -> None:
  """Defines the flags of commands that also run in several processes."""
  command_line.define_string(
    flag_values,
    'coordinator_address',
    None,
    'HOST:PORT of process 0, for several processes without a launcher',
  )
  for name, least, text in (
    ('num_processes', 1, 'with --coordinator_address: number of processes'),
    (
      'process_id',
      0,
      'with --coordinator_address: number of this process, from 0',
    ),
  ):
    flags.DEFINE_integer(
      name, None, text, lower_bound=least, flag_values=flag_values
    )
  flags.DEFINE_integer(
    'initialization_timeout',
    300,
    'seconds to wait for the other processes',
    lower_bound=1,
    flag_values=flag_values,
  )
  flags.DEFINE_enum(
    'distributed',
    'auto',
    ['auto', 'on', 'off'],
    'auto: joins processes started by SLURM, Open MPI or Cloud TPU; on: by any '
    'launcher that JAX knows; off: joins none',
    flag_values=flag_values,
  )


def join(
  verb: str,
  flag_values: flags.FlagValues,
  join_job: Callable[..., Any],
  *,
  position: Callable[[], str] = lambda: '',
  **options: Any,
) -> None:
  """Joins the other processes with the options that the flags give.

  Args:
    verb: the name of the command.
    flag_values: parsed flags, see `define`.
    join_job: parallel.job.join.
    position: returns where a new start continues, such as ' from step 20', for
      the line on another process that has ended.
    **options: further arguments of `join_job`.

  Raises:
    UsageError: the flags contradict each other.
    InputError, OSError: as `join_job` and its result's `connect`.
  """

  def report_loss(number, has_failed):
    _report_loss(verb, number, has_failed, position)

  job = join_job(on_loss=report_loss, **options, **_options(flag_values))
  if job is not None:
    command_line.joined.append(job)
    if job.number:
      waiting.silence()  # the first process names what takes long
    job.connect()


def _report_loss(verb, number, has_failed, position):
  """Prints that another process has ended, and ends this one."""
  if has_failed:
    time.sleep(_OWN_REASON)
  job = command_line.joined[-1]
  command = shlex.join(['python', '-m', f'vit_jax_repro.{verb}', *sys.argv[1:]])
  command_line.fail(
    verb,
    f'process {number} has ended, and the others cannot go on without it; '
    f'start all {job.size} again to go on{position()}: {command}',
    command_line.FAILED,
  )


def _options(flag_values):
  names = ('coordinator_address', 'num_processes', 'process_id')
  options = {name: flag_values[name].value for name in names}
  given = [f'--{name}' for name in names if options[name] is not None]
  if given and flag_values['distributed'].value == 'off':
    raise command_line.UsageError(
      f'--distributed=off excludes {" and ".join(given)}'
    )
  if 0 < len(given) < len(names):
    raise command_line.UsageError(
      f'{" and ".join(given)} is not enough; '
      f'{", ".join(f"--{name}" for name in names)} are given together'
    )
  if given:
    _check_address(options['coordinator_address'])
    if options['process_id'] >= options['num_processes']:
      raise command_line.UsageError(
        f'--process_id={options["process_id"]} must be less than '
        f'--num_processes={options["num_processes"]}; they count from 0'
      )
  return options | dict(
    mode=flag_values['distributed'].value,
    timeout=flag_values['initialization_timeout'].value,
  )


def _check_address(text):
  host, _, port = text.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise command_line.UsageError(
      f'--coordinator_address={text} must be HOST:PORT, such as 10.0.0.1:1234'
    )
