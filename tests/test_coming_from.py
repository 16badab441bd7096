"""Tests that the commands and names of docs/coming_from.md exist."""

import ast
import functools
import importlib
import inspect
import pathlib
import re

import pytest

from vit_jax_repro import config_arguments, jobs, models, ports, weights
from vit_jax_repro.inference import restoring
from vit_jax_repro.recipes import pretraining
from vit_jax_repro.runs import config_files
from vit_jax_repro.training import optim

pytestmark = pytest.mark.quick

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'coming_from.md'
COMMAND = re.compile(r'python -m vit_jax_repro\.(\w+)(?: (.*))?')
OPTIONS = {'--weights', '--base', '--ema', '--image_size', '--preprocessing'}
NAMES = {
  'jobs': jobs,
  'models': models,
  'optim': optim,
  'ports': ports,
  'restore': restoring.restore,
  'weights': weights,
}


def cells(column):
  """Returns the pieces of code in a column of the tables."""
  rows = [
    line.strip('|').split(' | ')
    for line in PAGE.read_text().splitlines()
    if line.startswith('| ')
  ]
  assert {len(row) for row in rows} == {2}
  return [code for row in rows for code in re.findall('`(.*?)`', row[column])]


HERE = cells(1)


def command_flags(verb):
  return importlib.import_module(f'vit_jax_repro.{verb}').command_flags()


def load(text, changes):
  for word, value in {'MODEL': 'b16', 'DATASET': 'cifar10'}.items():
    text = text.replace(word, value)
  return config_files.load(text, changes)


@pytest.mark.parametrize(
  'command', [code for code in HERE if COMMAND.fullmatch(code)]
)
def test_commands_take_their_flags(command):
  verb, rest = COMMAND.fullmatch(command).groups()
  arguments, changes = config_arguments.split((rest or '').split())
  values = command_flags(verb)
  others = values([verb, *arguments])[1:]
  module = importlib.import_module(f'vit_jax_repro.{verb}')
  if hasattr(module, 'commands'):
    assert others[0] in module.commands()
  if verb == 'main' and values.config:
    load(values.config, changes)


@pytest.mark.parametrize('code', [code for code in HERE if code[:2] == '--'])
def test_flags_exist(code):
  arguments, changes = config_arguments.split(code.split())
  config = 'configs/vit.py'
  for argument in arguments:
    if argument.startswith('--config='):
      config = argument.removeprefix('--config=')
    else:
      assert argument.partition('=')[0] in OPTIONS
      assert argument[2:].partition('=')[0] in command_flags('evaluate')
  with_value = [(k, v) for k, v in changes if f'{k}=' in code]
  loaded = load(config, with_value)
  for key, _ in changes:
    functools.reduce(lambda part, name: part[name], key.split('.'), loaded)


def test_configurations_of_the_original_code_load():
  flags = [x for x in cells(0) if x.startswith('--config=vit_jax/')]
  assert len(flags) == 3
  for flag in flags:
    load(flag.removeprefix('--config='), ())


def test_recipes_exist():
  recipes = [code for code in HERE if re.fullmatch(r'bv-\w+', code)]
  assert recipes
  assert {*recipes} <= {*pretraining.RULES}


@pytest.mark.parametrize(
  'code', [code for code in HERE if code.split('.')[0].split('(')[0] in NAMES]
)
def test_python_names_take_their_arguments(code):
  found = ast.parse(code, mode='eval').body
  called = found.func if isinstance(found, ast.Call) else found
  function = eval(ast.unparse(called), NAMES)
  if isinstance(found, ast.Call):
    keywords = {each.arg: each.value for each in found.keywords}
    inspect.signature(function).bind(*found.args, **keywords)
  if function is models.create and '...' not in code:
    assert eval(code, NAMES)
