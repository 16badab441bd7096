"""Processes of their own: forked from one that has the imports behind it.

Real processes, with outputs and devices of their own, that can be killed; a
fresh interpreter would spend seconds on importing TensorFlow each time. JAX is
imported there too, but has not looked for devices yet.
"""

import atexit
import multiprocessing
import os
import pathlib
import re
import runpy
import socket
import sys
import tempfile
import traceback

_FORKING = multiprocessing.get_context('forkserver')
_FORKING.set_forkserver_preload(
  [
    'flax.linen',
    'orbax.checkpoint',
    'tensorflow',
    'tensorflow_datasets',
    'vit_jax_repro.jobs',
    'vit_jax_repro.runs.configuration',
  ]
)
_OUTPUTS = tempfile.TemporaryDirectory(prefix='processes_')
atexit.register(_OUTPUTS.cleanup)


class Child:
  """A running call of a function of a test module, or of this one.

  Attributes:
    pid: of the process.
    stdout, stderr: what it has written so far.
  """

  def __init__(self, function, *arguments, devices=None):
    """`devices`: how many the process has; as many as this one by default."""
    folder = tempfile.mkdtemp(dir=_OUTPUTS.name)
    self._paths = [os.path.join(folder, name) for name in ('out', 'err')]
    for path in self._paths:
      pathlib.Path(path).touch()
    env = dict(os.environ)
    if devices is not None:
      env['XLA_FLAGS'] = xla_flags(devices)
    self._process = _FORKING.Process(
      target=_run, args=(function, arguments, self._paths, env)
    )
    self._process.start()
    self.pid = self._process.pid

  def is_running(self):
    return self._process.is_alive()

  def wait(self, timeout=300):
    """Its exit code, that of a signal negative."""
    self._process.join(timeout)
    assert not self.is_running(), f'still running after {timeout} s'
    return self._process.exitcode

  def kill(self):
    """By SIGKILL; waits until it is gone."""
    self._process.kill()
    self.wait()

  @property
  def stdout(self):
    return self._read(0)

  @property
  def stderr(self):
    return self._read(1)

  def _read(self, number):
    with open(self._paths[number], encoding='utf-8') as file:
      return file.read()


def xla_flags(devices):
  """This process's, with another number of devices."""
  flags = os.environ['XLA_FLAGS']
  return re.sub('(device_count)=[0-9]+', rf'\1={devices}', flags)


def free_port():
  """A port of this machine that nobody listens on."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def verb(name, arguments):
  """What `python -m vit_jax_repro.NAME ARGUMENTS` does, for a Child."""
  sys.argv = [name, *arguments]
  module = f'vit_jax_repro.{name}' if name else 'vit_jax_repro'
  runpy.run_module(module, run_name='__main__', alter_sys=True)


def script(source, *arguments):
  """What `python -c SOURCE ARGUMENTS` does, for a Child."""
  sys.argv = ['-c', *map(str, arguments)]
  exec(compile(source, '<script>', 'exec'), {'__name__': '__main__'})


def run_script(source, *arguments, devices=None):
  """Returns (exit code, standard output, standard error)."""
  child = Child(script, source, *arguments, devices=devices)
  return child.wait(), child.stdout, child.stderr


def _run(function, arguments, paths, env):
  os.environ.clear()
  os.environ.update(env)
  with open(os.devnull, 'rb') as nothing:
    os.dup2(nothing.fileno(), 0)
  for path, descriptor in zip(paths, (1, 2), strict=True):
    with open(path, 'wb') as file:
      os.dup2(file.fileno(), descriptor)
  try:
    function(*arguments)
    code = 0
    _end_together()
  except SystemExit as stop:
    code = stop.code or 0
  except BaseException:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  # Not through multiprocessing's own way out, which a verb does not take.
  sys.exit(code)


def _end_together():
  """What JAX does at the end of an interpreter, which a fork leaves out.

  The first of several processes waits for the others: without it they abort.
  """
  if 'jax' in sys.modules:
    sys.modules['jax'].distributed.shutdown()
