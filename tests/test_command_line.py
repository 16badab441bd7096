import os
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from absl import flags

from vit_jax_repro import command_line
from vit_jax_repro.data import preprocess
from vit_jax_repro.output import waiting
from vit_jax_repro.weights import model_card

pytestmark = pytest.mark.quick


def run(main, *arguments, positional=''):
  values = flags.FlagValues()
  flags.DEFINE_string('name', 'x', 'a name', flag_values=values)
  flags.DEFINE_integer('top', 5, 'a number', lower_bound=1, flag_values=values)
  flags.DEFINE_boolean('fast', False, 'hurry', flag_values=values)
  command_line.run(
    'verb',
    main,
    values,
    'Says what it does.',
    positional=positional,
    argv=['verb.py', *arguments],
  )


def raiser(error):
  def main(values, rest):
    raise error

  return main


def test_run_calls_main_with_flags_and_arguments():
  seen = []
  run(
    lambda values, rest: seen.append((values.name, values.top, rest)),
    'a.jpg', '--name=y', '--top=2', '--', '--b.jpg', positional='IMAGE...',
  )  # fmt: skip
  assert seen == [('y', 2, ['a.jpg', '--b.jpg'])]


@pytest.mark.parametrize('flag', ['--help', '-h', '--helpfull'])
def test_help_shows_usage_and_flags(capsys, flag):
  with pytest.raises(SystemExit) as caught:
    run(pytest.fail, flag, positional='IMAGE...')
  out, err = capsys.readouterr()
  assert caught.value.code == 0 and not err
  assert out.startswith(
    'usage: python -m vit_jax_repro.verb [flags] IMAGE...\n'
  )
  assert 'Says what it does.' in out
  for text in ('--name=STRING  a name (default x)', '--top=INT', '--fast'):
    assert text in out


@pytest.mark.parametrize(
  'arguments, wanted',
  [
    (['--nmae=x'], "Unknown command line flag 'nmae'. Did you mean: name"),
    (['--top=two'], '--top=two'),
    (['--top=0'], '--top=0'),
    (['--fast=maybe'], 'maybe'),
    (['stray'], "unexpected argument 'stray'"),
    (['--name='], '--name= is empty; give a value'),
    (['--name=None'], '--name=None is None; give a value'),
    (['IN', 'None'], 'argument 2 is None; give a value'),
    (['IN', ''], 'argument 2 is empty; give a value'),
  ],
)
def test_run_refuses_a_wrong_command_line_in_one_line(
  capsys, arguments, wanted
):
  positional = 'IN OUT' if 'IN' in arguments else ''
  with pytest.raises(SystemExit) as caught:
    run(pytest.fail, *arguments, positional=positional)
  out, err = capsys.readouterr()
  assert caught.value.code == 2 and not out
  assert err.startswith('verb: ') and err.count('\n') == 1 and wanted in err


def test_run_prints_errors_of_users_in_one_line(capsys, tmp_path):
  def card(values, rest):
    (tmp_path / 'a.json').write_text('{')
    model_card.read_card(tmp_path / 'a.npz')

  for main, wanted in [
    (card, 'is not valid JSON'),
    (raiser(FileNotFoundError(2, 'No such file', 'x.npz')), 'file: x.npz'),
    (raiser(OSError('two\nlines')), 'verb: two lines'),
    (raiser(KeyboardInterrupt()), 'interrupted'),
  ]:
    with pytest.raises(SystemExit) as caught:
      run(main)
    out, err = capsys.readouterr()
    assert caught.value.code in (1, 130) and not out
    assert err.count('\n') == 1 and wanted in err


def test_run_exits_with_2_on_usage_errors_of_main(capsys):
  with pytest.raises(SystemExit) as caught:
    run(raiser(command_line.UsageError('--name must be given')))
  assert caught.value.code == 2
  assert capsys.readouterr().err == 'verb: --name must be given\n'


@pytest.mark.parametrize('arguments', [['--help'], []])
def test_run_ends_quietly_on_a_closed_pipe(arguments):
  """Standard output is a pipe with a closed reading end."""
  program = f"""
import sys
from absl import flags
from vit_jax_repro import command_line

def main(values, rest):
  for _ in range(10_000):
    print('a line of the result')

command_line.run(
  'verb', main, flags.FlagValues(), 'Says.', argv=['verb', *{arguments}]
)
"""
  read, write = os.pipe()
  os.close(read)
  done = subprocess.run(
    [sys.executable, '-c', program],
    stdout=write,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
  )
  os.close(write)
  assert (done.returncode, done.stderr) == (command_line.NOBODY_READS, '')


def outside(values, rest):
  int('seven')  # a ValueError of Python itself


def in_jax(values, rest):
  jax.jit(lambda x: jnp.reshape(x, (3,)))(jnp.zeros(4))


@pytest.mark.parametrize(
  'main', [outside, in_jax, raiser(KeyError('x')), raiser(TypeError('x'))]
)
def test_run_keeps_the_traceback_of_bugs(main):
  with pytest.raises((ValueError, KeyError, TypeError)):
    run(main)


def test_run_names_a_missing_package_in_one_line(capsys):
  error = ModuleNotFoundError("No module named 'sklearn'", name='sklearn.svm')
  with pytest.raises(SystemExit) as caught:
    run(raiser(error))
  assert caught.value.code == command_line.FAILED
  assert capsys.readouterr().err == (
    'verb: the Python package scikit-learn is not installed; pip install '
    'scikit-learn\n'
  )


@pytest.mark.parametrize('name', [None, 'vit_jax_repro.typo', 'json.typo'])
def test_run_keeps_the_traceback_of_a_missing_own_module(name):
  with pytest.raises(ModuleNotFoundError):
    run(raiser(ModuleNotFoundError('No module', name=name)))


def test_define_weights_flags_names_every_preprocessing():
  values = flags.FlagValues()
  command_line.define_weights_flags(values)
  text = values['preprocessing'].help
  assert all(name in text for name in preprocess.PREPROCESSINGS)
  name = re.search(r'timm:\S+(?=\))', text)[0]
  assert preprocess.pick_preprocessing(name).name == name


def test_image_size_reads_one_or_two_sides():
  assert command_line.image_size(None) is None
  assert command_line.image_size('224') == (224, 224)
  assert command_line.image_size('224x384') == (224, 384)
  assert command_line.image_size('32X48') == (32, 48)
  for text in ('', 'x', '0', '-3', '3x', '1x2x3', '2.5', 'large'):
    with pytest.raises(
      command_line.UsageError, match=f'--image_size={text} must be'
    ):
      command_line.image_size(text)


def test_require_refuses_missing_flags():
  values = flags.FlagValues()
  for name in ('a', 'b'):
    flags.DEFINE_string(name, None, '', flag_values=values)
  values(['', '--a=1'])
  command_line.require(values, 'a')
  with pytest.raises(command_line.UsageError, match='--b must be given'):
    command_line.require(values, 'a', 'b')


def test_run_is_never_silent_for_long(capsys, monkeypatch):
  """A command that computes for long prints nothing meanwhile."""
  monkeypatch.setenv('VIT_JAX_REPRO_PATIENCE', '0.1')

  def main(values, rest):
    time.sleep(0.3)
    with waiting.doing('reading a.npz'):
      time.sleep(0.3)

  command_line.run('verb', main, flags.FlagValues(), 'Waits.', argv=['verb'])
  lines = capsys.readouterr().err.splitlines()
  wanted = {'verb: loading libraries', 'reading a.npz'}
  assert {*lines} == wanted and len(lines) >= 4


_COMPILING = """
import threading, time
from absl import flags
from vit_jax_repro import command_line
from vit_jax_repro.output import waiting

def main(values, rest):
  threading.Thread(target=time.sleep, args=(99,), name=waiting.COMPILER).start()
  raise KeyboardInterrupt

command_line.run('verb', main, flags.FlagValues(), 'Waits.', argv=['verb'])
"""


@pytest.mark.slow
def test_run_does_not_wait_for_a_compiler_after_ctrl_c():
  """An interrupted command ends only when XLA has compiled, minutes later."""
  ended = subprocess.run(
    [sys.executable, '-c', _COMPILING],
    check=False,
    capture_output=True,
    text=True,
    timeout=90,
  )
  assert ended.returncode == 130 and 'verb: interrupted' in ended.stderr
