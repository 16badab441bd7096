import types

import pytest

from vit_jax_repro import command_line, subcommands
from vit_jax_repro.subcommands import Command

pytestmark = pytest.mark.quick

ran = []
COMMANDS = {
  'show': Command(lambda *a: ran.append(a), '[NAME]', 1, ('out', 'size')),
  'list': Command(lambda *a: ran.append(a), '', 0, ('out',)),
}


def flags(**present):
  """What absl knows of flags: whether they were given."""
  return {
    name: types.SimpleNamespace(present=name in present)
    for name in ('out', 'size')
  }


def test_the_named_command_gets_flags_and_arguments():
  values = flags(size=3)
  subcommands.dispatch(COMMANDS, values, ['show', 'it'])
  assert ran.pop() == (values, ['it'])


@pytest.mark.parametrize(
  'given, arguments, says',
  [
    ({}, [], "what to do is ''; choose one of show, list"),
    ({}, ['shw'], "what to do is 'shw'; choose one of"),
    ({'size': 1}, ['list'], 'list does not take --size'),
    ({}, ['show', 'a', 'b'], r"show does not take 'b': show \[NAME\]$"),
    ({}, ['list', 'a'], "list does not take 'a': list$"),
  ],
)
def test_what_a_command_does_not_take(given, arguments, says):
  with pytest.raises(command_line.UsageError, match=says):
    subcommands.dispatch(COMMANDS, flags(**given), arguments)
  assert not ran


def test_usage_and_help():
  assert subcommands.usage(COMMANDS) == 'show [NAME] | list'
  assert subcommands.takers(COMMANDS, 'out') == 'show, list'
  assert subcommands.takers(COMMANDS, 'size') == 'show'
