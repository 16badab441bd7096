"""Runs a verb as a user does, in a process of its own."""

import subprocess
import sys


def run_verb(verb, *arguments):
  """Returns (exit code, standard output, standard error)."""
  module = f'vit_jax_repro.{verb}' if verb else 'vit_jax_repro'
  done = subprocess.run(
    [sys.executable, '-m', module, *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
    stdin=subprocess.DEVNULL,
  )
  return done.returncode, done.stdout, done.stderr


def assert_one_line(answer, *wanted):
  """The verb failed with one line on standard error, and nothing else."""
  code, out, err = answer
  assert code in (1, 2) and not out, answer
  assert err.endswith('\n') and err.count('\n') == 1, err
  assert 'Traceback' not in err
  for text in wanted:
    assert text in err
