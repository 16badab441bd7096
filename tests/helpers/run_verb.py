"""Runs a verb in a process of its own and checks its errors."""

import child_processes


def run_verb(name, *arguments):
  """Returns (exit code, standard output, standard error)."""
  child = child_processes.Child(
    child_processes.verb, name, [str(a) for a in arguments]
  )
  return child.wait(), child.stdout, child.stderr


def assert_one_line(answer, *wanted):
  """Checks that a verb printed one line, on standard error, and failed."""
  code, out, err = answer
  assert code in (1, 2) and not out, answer
  assert err.endswith('\n') and err.count('\n') == 1, err
  assert 'Traceback' not in err
  for text in wanted:
    assert text in err
