"""Verbs with commands: `python -m vit_jax_repro.VERB COMMAND [flags]`.

All flags of a verb are parsed together, so a flag may also precede the command.
Each command lists the flags that it takes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Command:
  """One command of a verb.

  Attributes:
    run: called with the parsed flags and the other arguments.
    summary: one line for the help of the verb.
    example: arguments of an example, without the name of the command.
    arguments: other arguments in the usage line.
    most: largest number of other arguments.
    flags: names of the flags that the command takes.
  """

  run: Callable[[Any, list[str]], Any]
  summary: str
  example: str
  arguments: str = ''
  most: int = 0
  flags: tuple[str, ...] = ()


def run(
  verb: str,
  commands: Mapping[str, Command],
  values: Any,
  description: str,
  *,
  argv: Sequence[str] | None = None,
  begin: Callable[[Any], Any] | None = None,
) -> None:
  """Runs a verb with commands on a command line.

  Args:
    verb, description, argv: see `command_line.run`.
    commands: {name: command}.
    values: flags of all commands, an absl FlagValues.
    begin: called with the parsed flags before the command runs.
  """
  from vit_jax_repro import command_line

  def work(values, arguments):
    if begin is not None:
      begin(values)
    dispatch(commands, values, arguments)

  def describe(arguments):
    return help_text(verb, commands, values, description, arguments)

  command_line.run(
    verb, work, values, description, positional='COMMAND', argv=argv,
    describe=describe,
  )  # fmt: skip


def help_text(
  verb: str,
  commands: Mapping[str, Command],
  values: Any,
  description: str,
  arguments: Sequence[str],
) -> str:
  """Returns the help of the command in the arguments, or else of the verb.

  Args:
    verb, commands, values, description: see `run`.
    arguments: arguments of the command line.
  """
  from vit_jax_repro import command_line

  module = f'python -m vit_jax_repro.{verb}'
  name = _command_in(arguments, commands, values)
  if name is not None:
    command = commands[name]
    usage = ' '.join(filter(None, [name, command.arguments, '[flags]']))
    summary = f'{command.summary[0].upper()}{command.summary[1:]}.'
    return '\n'.join(
      [
        f'usage: {module} {usage}',
        '',
        command_line.paragraph(summary),
        '',
        f'example: {module} {name} {command.example}'.rstrip(),
        '',
        *command_line.flag_lines(values, command.flags),
      ]
    )
  lines = [
    f'usage: {module} COMMAND [flags]',
    '',
    command_line.paragraph(description),
    '',
  ]
  for name, command in commands.items():
    head = f'{name} {command.arguments}'.rstrip()
    lines.append(command_line.entry(f'{head}  {command.summary}'))
  return '\n'.join(
    [*lines, '', f'Flags and an example: {module} COMMAND --help']
  )


def _command_in(arguments, commands, values):
  """Returns the command in the arguments, or None.

  A text after a flag that takes one is no command: `--table list show`.
  """
  for before, text in zip(('', *arguments), arguments, strict=False):
    flag = before.lstrip('-')
    takes = before != flag and flag in values and not values[flag].boolean
    if text in commands and not takes:
      return text
  return None


def dispatch(
  commands: Mapping[str, Command], values: Any, arguments: Sequence[str]
) -> None:
  """Runs the command that the first argument names.

  Args:
    commands: {name: command}.
    values: the parsed flags of the verb, an absl FlagValues.
    arguments: the arguments that are not flags.

  Raises:
    UsageError: the command is unknown, or does not take a flag or argument.
  """
  from vit_jax_repro import command_line

  choices = ', '.join(commands)
  if not arguments:
    raise command_line.UsageError(f'no command given; choose from {choices}')
  name, *rest = arguments
  if name not in commands:
    from vit_jax_repro.output import messages

    hint = messages.did_you_mean(name, list(commands))
    raise command_line.UsageError(
      f'unknown command {name!r}; {hint}choose from {choices}'
    )
  command = commands[name]
  wrong = [
    f'--{flag}'
    for flag in sorted({f for c in commands.values() for f in c.flags})
    if values[flag].present and flag not in command.flags
  ]
  if wrong:
    raise command_line.UsageError(
      f'{name} does not take {", ".join(wrong)}; see `{name} --help`'
    )
  if len(rest) > command.most:
    raise command_line.UsageError(
      f'{name} does not take {rest[command.most]!r}; usage: '
      f'{name} {command.arguments}'.rstrip()
    )
  command.run(values, rest)
