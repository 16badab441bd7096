import pathlib

import pytest
from run_verb import assert_one_line, run_verb

import vit_jax_repro
from vit_jax_repro import __main__

pytestmark = pytest.mark.quick

PACKAGE = pathlib.Path(vit_jax_repro.__file__).parent


def verbs_there():
  return {
    path.stem
    for path in PACKAGE.glob('*.py')
    if "if __name__ == '__main__':" in path.read_text()
  } - {'__main__'}


def test_main_lists_every_verb_on_one_line():
  code, out, err = run_verb('')
  assert (code, err) == (0, '')
  lines = [line.split() for line in out.splitlines() if 'python -m' in line]
  listed = [words[2].removeprefix('vit_jax_repro.') for words in lines]
  assert {'evaluate', 'predict'} <= set(listed)
  assert set(listed) == verbs_there() and len(listed) == len(set(listed))
  assert all(len(line) <= 80 for line in out.splitlines())
  assert run_verb('', '--help') == (0, out, '')


def test_verbs_describes_every_verb():
  assert verbs_there() <= __main__.VERBS.keys()


def test_main_runs_the_command_that_it_is_given():
  """A second door that leads elsewhere."""
  assert run_verb('', 'predict', '--help') == run_verb('predict', '--help')
  assert_one_line(run_verb('', 'predict', '--top=x'), 'predict: ', '--top=x')


@pytest.mark.parametrize(
  'name, says',
  [
    ('predcit', "unknown command 'predcit'; did you mean 'predict'? choose"),
    ('train', "did you mean 'main'?"),
    ('--nmae', 'choose from main, evaluate'),
  ],
)
def test_main_suggests_a_command(name, says):
  assert_one_line(run_verb('', name), says)


@pytest.mark.parametrize('verb', ['', 'main', 'reproduce'])
def test_version_is_that_of_the_package(verb):
  line = f'vit-jax-repro {vit_jax_repro.__version__}\n'
  assert run_verb(verb, '--version') == (0, line, '')
