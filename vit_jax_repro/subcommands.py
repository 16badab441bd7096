"""Verbs whose first argument says what to do, each with flags of its own."""

import dataclasses
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Command:
  """One of the first arguments.

  Attributes:
    run: called with the parsed flags and the other arguments.
    arguments: as the usage line has them.
    most: how many arguments it takes beside flags.
    flags: names of those that it takes.
  """

  run: Callable
  arguments: str
  most: int
  flags: tuple[str, ...]


def run(
  verb: str,
  commands: Mapping[str, Command],
  values,
  description: str,
  *,
  argv=None,
  begin: Callable | None = None,
) -> None:
  """The `main` of a verb with commands: runs a command line and exits.

  Args:
    verb, description, argv: see `command_line.run`.
    values: its flags, an absl FlagValues.
    begin: called with the parsed flags, before anything else.
  """
  from vit_jax_repro import command_line

  def work(values, arguments):
    if begin is not None:
      begin(values)
    dispatch(commands, values, arguments)

  command_line.run(
    verb, work, values, description, positional=usage(commands), argv=argv
  )


def usage(commands: Mapping[str, Command]) -> str:
  """What the usage line says of the arguments."""
  return ' | '.join(
    f'{name} {command.arguments}'.rstrip() for name, command in commands.items()
  )


def takers(commands: Mapping[str, Command], flag: str) -> str:
  """The commands that take a flag, for its help."""
  return ', '.join(n for n, each in commands.items() if flag in each.flags)


def dispatch(commands: Mapping[str, Command], values, arguments) -> None:
  """Runs the command that the first argument names.

  Args:
    values: the parsed flags of the verb, an absl FlagValues.
    arguments: those that are no flags.

  Raises:
    UsageError: no such command, or a flag or argument that it does not take.
  """
  from vit_jax_repro import command_line

  name, *rest = arguments or ['']
  if name not in commands:
    raise command_line.UsageError(
      f'what to do is {name!r}; choose one of {", ".join(commands)}'
    )
  command = commands[name]
  wrong = [
    f'--{flag}'
    for flag in sorted({f for c in commands.values() for f in c.flags})
    if values[flag].present and flag not in command.flags
  ]
  if wrong:
    raise command_line.UsageError(f'{name} does not take {", ".join(wrong)}')
  if len(rest) > command.most:
    raise command_line.UsageError(
      f'{name} does not take {rest[command.most]!r}: '
      f'{name} {command.arguments}'.rstrip()
    )
  command.run(values, rest)
