import pytest

from vit_jax_repro import config_arguments

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
  'arguments, changes',
  [
    (['--config.batch=8'], [('batch', '8')]),
    (['-config.batch=8'], [('batch', '8')]),
    (['--config.batch', '8'], [('batch', '8')]),
    (['--config.shrink', '-1'], [('shrink', '-1')]),
    (['--config.pp.train=a=b'], [('pp.train', 'a=b')]),
    (['--config.teacher='], [('teacher', '')]),
    (['--config.keep_best'], [('keep_best', 'True')]),
    (['--noconfig.keep_best'], [('keep_best', 'False')]),
    (['--config.b=1', '--config.a=2'], [('b', '1'), ('a', '2')]),
  ],
)
def test_split_takes_changes_out(arguments, changes):
  """Changes that are lost, or values that go to another key."""
  line = ['main', *arguments, '--workdir=w']
  assert config_arguments.split(line) == (['main', '--workdir=w'], changes)


@pytest.mark.parametrize(
  'arguments',
  [
    ['--config=a.py', '--workdir', 'w'],
    ['--config', 'a.py'],
    ['--configs.batch=8'],
    ['--', '--config.batch=8'],
    ['--noconfig.a=8'],
  ],
)
def test_split_leaves_other_arguments(arguments):
  """Arguments of other flags that are taken for changes."""
  assert config_arguments.split(['main', *arguments]) == (
    ['main', *arguments],
    [],
  )
