import re
import shlex
import types

import pytest

from vit_jax_repro import (
  benchmark,
  command_line,
  figures,
  reproduce,
  subcommands,
)
from vit_jax_repro.subcommands import Command

pytestmark = pytest.mark.quick

ran = []
COMMANDS = {
  'show': Command(
    lambda *a: ran.append(a), 'shows one', 'x', '[NAME]', 1, ('out', 'size')
  ),
  'list': Command(lambda *a: ran.append(a), 'lists', '', flags=('out',)),
}


def flags(**present):
  """Returns flags with absl's attribute `present`."""
  return {
    name: types.SimpleNamespace(present=name in present)
    for name in ('out', 'size')
  }


def test_dispatch_passes_flags_and_arguments():
  values = flags(size=3)
  subcommands.dispatch(COMMANDS, values, ['show', 'it'])
  assert ran.pop() == (values, ['it'])


@pytest.mark.parametrize(
  'given, arguments, says',
  [
    ({}, [], 'no command given; choose from show, list'),
    ({}, ['shw'], "unknown command 'shw'; did you mean 'show'\\? choose"),
    ({'size': 1}, ['list'], 'list does not take --size'),
    ({}, ['show', 'a', 'b'], r"show does not take 'b'; usage: show \[NAME\]$"),
    ({}, ['list', 'a'], "list does not take 'a'; usage: list$"),
  ],
)
def test_dispatch_refuses_other_flags_and_arguments(given, arguments, says):
  with pytest.raises(command_line.UsageError, match=says):
    subcommands.dispatch(COMMANDS, flags(**given), arguments)
  assert not ran


VERBS = {'reproduce': reproduce, 'benchmark': benchmark, 'figures': figures}
ALL = [(verb, name) for verb, m in VERBS.items() for name in m.commands()]


@pytest.mark.parametrize('verb, name', ALL)
def test_help_of_a_command_shows_only_its_flags(verb, name, capsys):
  module = VERBS[verb]
  command = module.commands()[name]
  with pytest.raises(SystemExit) as caught:
    module.main([verb, name, '--help'])
  out = capsys.readouterr().out
  assert caught.value.code == 0
  shown = re.findall(r'^  --(\w+)=', out, re.MULTILINE)
  assert shown == sorted(command.flags)
  (example,) = re.findall(r'^example: python -m (.*)$', out, re.MULTILINE)
  # The example parses, and its flags are those of the command.
  values = module.command_flags()
  _, *words = shlex.split(example)
  given = values([verb, *words])[1:]
  assert given[0] == name and len(given) - 1 <= command.most
  assert all(n in command.flags for n in values if values[n].present)


@pytest.mark.parametrize('verb', VERBS)
def test_help_of_a_verb_lists_every_command(verb, capsys):
  module = VERBS[verb]
  assert set(module.command_flags()) == {
    flag for command in module.commands().values() for flag in command.flags
  }
  with pytest.raises(SystemExit):
    module.main([verb, '--help'])
  out = capsys.readouterr().out
  for name, command in module.commands().items():
    assert re.search(rf'^  {name} ', out, re.MULTILINE), name
    assert command.summary.split()[-1] in out
