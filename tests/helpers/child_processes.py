"""Starts processes by forking one that has imported TensorFlow and JAX.

They have their own outputs and devices, and tests can kill them. A new
interpreter would import TensorFlow for seconds each time. The forked process
has not initialized JAX's devices.
"""

import atexit
import gc
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
    'clu.metric_writers',
    'flax.linen',
    'orbax.checkpoint',
    'sklearn.datasets',
    'tensorflow',
    'tensorflow_datasets',
    'vit_jax_repro.jobs',
    'vit_jax_repro.runs.configuration',
    'vit_jax_repro.studies',
  ]
)
_OUTPUTS = tempfile.TemporaryDirectory(prefix='processes_')
atexit.register(_OUTPUTS.cleanup)


class Child:
  """Runs a function of a test module, or of this one, in a process.

  Attributes:
    pid: the process id.
    stdout, stderr: the output so far.
  """

  def __init__(self, function, *arguments, devices=None):
    """Starts the process, with as many devices as this one by default."""
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

  def wait(self, timeout=1200):
    """Waits for the end; returns the exit code, negative for a signal."""
    self._process.join(timeout)
    assert not self.is_running(), f'still running after {timeout} s'
    return self._process.exitcode

  def kill(self):
    """Sends SIGKILL and waits for the end."""
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
  """Returns XLA_FLAGS of this process with another number of devices."""
  flags = os.environ['XLA_FLAGS']
  return re.sub('(device_count)=[0-9]+', rf'\1={devices}', flags)


def free_port():
  """Returns an unused port of this machine."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def verb(name, arguments):
  """Runs `python -m vit_jax_repro.NAME ARGUMENTS` in a Child."""
  sys.argv = [name, *arguments]
  module = f'vit_jax_repro.{name}' if name else 'vit_jax_repro'
  runpy.run_module(module, run_name='__main__', alter_sys=True)


def in_two(name, *arguments, each=((), ()), devices=(2, 2)):
  """Starts a command in two processes; returns the Children."""
  address = f'--coordinator_address=localhost:{free_port()}'
  return [
    Child(
      verb,
      name,
      [
        *map(str, arguments),
        address,
        '--num_processes=2',
        f'--process_id={number}',
        *map(str, each[number]),
      ],
      devices=devices[number],
    )
    for number in range(2)
  ]


def script(source, *arguments):
  """Runs `python -c SOURCE ARGUMENTS` in a Child."""
  sys.argv = ['-c', *map(str, arguments)]
  exec(compile(source, '<script>', 'exec'), {'__name__': '__main__'})


def run_script(source, *arguments, devices=None):
  """Returns (exit code, standard output, standard error)."""
  child = Child(script, source, *arguments, devices=devices)
  return child.wait(), child.stdout, child.stderr


def _run(function, arguments, paths, env):
  gc.freeze()  # the modules stay, and are not copied for the collector
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
  # Ends like a verb, without the exit code of multiprocessing.
  sys.exit(code)


def _end_together():
  """Shuts JAX down, as the end of an interpreter does but that of a fork not.

  The first of several processes waits for the others, or they would abort.
  """
  if 'jax' in sys.modules:
    sys.modules['jax'].distributed.shutdown()
