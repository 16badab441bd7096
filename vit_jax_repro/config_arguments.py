"""The arguments --config.KEY=VALUE of a command line."""

import re
from collections.abc import Sequence

_CHANGE = re.compile(r'--?config\.([^=]*)(?:=(.*))?', re.DOTALL)
_OFF = re.compile(r'--?noconfig\.([^=]*)')
_FLAG = re.compile(r'-+[A-Za-z]')


def split(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
  """Takes the changes of a configuration out of a command line.

  `--config.KEY VALUE` is the same as `--config.KEY=VALUE`, `--config.KEY`
  before another flag is True, and `--noconfig.KEY` is False.

  Args:
    argv: a command line, with the program's name.

  Returns:
    The other arguments, and [(KEY, VALUE), ...] in their order.
  """
  others, changes, left = [], [], list(argv)
  while left:
    argument = left.pop(0)
    if argument == '--':
      return [*others, argument, *left], changes
    if off := _OFF.fullmatch(argument):
      changes.append((off[1], 'False'))
      continue
    change = _CHANGE.fullmatch(argument)
    if change is None:
      others.append(argument)
      continue
    key, value = change.groups()
    if value is None:
      is_value = bool(left) and left[0] != '--' and not _FLAG.match(left[0])
      value = left.pop(0) if is_value else 'True'
    changes.append((key, value))
  return others, changes
