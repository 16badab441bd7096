"""Mistakes in the environment of a command, in one line each.

JAX and XLA read environment variables when they are imported or first used.
They answer a wrong one with a long trace, and XLA ends the process.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

from vit_jax_repro.errors import InputError

# Reads XLA_FLAGS in the way of a command, without JAX.
_READ_FLAGS = """
from jaxlib import xla_client
xla_client.CompileOptions().executable_build_options.debug_options
"""
_FIND_DEVICES = 'import jax; jax.devices()'
_XLA_MISTAKES = (  # what XLA prints: what to print instead
  (r'Unknown flags? in XLA_FLAGS: (.*)', 'this XLA has no flag {0}'),
  (
    r"Couldn't interpret value (.*) for flag (\w+)",
    'the flag --{1} cannot be {0}',
  ),
  (r'Could not open file "(.*?)"', '{0!r} is no flag: a flag begins with --'),
)
_VARIABLES = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')  # JAX reads the first first
_PLATFORMS = ('cpu', 'cuda', 'gpu', 'rocm', 'tpu')
_PLUGINS = ('jax_cuda13_plugin', 'jax_cuda12_plugin')
# Allowed values in JAX's documentation (docs.jax.dev, configuration options).
_PRECISIONS = 'default, high, highest, bfloat16, tensorfloat32 or float32'
_LONGEST = 160  # characters of a reason


def check() -> None:
  """Raises an InputError if XLA would end the process because of XLA_FLAGS.

  A process of its own reads the flags, which takes 0.1 s. Nothing is checked
  without flags, or if this process has loaded XLA.
  """
  text = os.environ.get('XLA_FLAGS', '').strip()
  if not text or 'jaxlib' in sys.modules:
    return
  done = _python(_READ_FLAGS, TF_CPP_MIN_LOG_LEVEL='0')
  # XLA ends with code 1, as Python does where jaxlib cannot be imported.
  if done.returncode == 0 or 'Traceback' in done.stderr:
    return
  reason = 'XLA cannot read it'
  for pattern, words in _XLA_MISTAKES:
    found = re.search(pattern, done.stderr)
    if found:
      reason = words.format(*found.groups())
      break
  raise InputError(f'XLA_FLAGS={text}: {reason}; correct it or unset XLA_FLAGS')


def require_devices() -> None:
  """Raises an InputError if JAX cannot use the devices of JAX_PLATFORMS.

  This is for a command that computes in processes of its own. It takes some
  seconds, and nothing if the variable is not set or is 'cpu'.
  """
  if os.environ.get('JAX_PLATFORMS', 'cpu') in ('', 'cpu'):
    return
  done = _python(_FIND_DEVICES, XLA_PYTHON_CLIENT_PREALLOCATE='false')
  if done.returncode:
    raise InputError(_on_platforms(' '.join(done.stderr.split())))


def _python(source, **variables):
  return subprocess.run(
    [sys.executable, '-c', source],
    capture_output=True,
    text=True,
    errors='replace',
    check=False,
    env=os.environ | variables,
  )


def explain(error: BaseException) -> str | None:
  """Returns one line about a variable that JAX refused; None for others.

  Args:
    error: any exception, such as one from importing JAX or finding devices.
  """
  text = ' '.join(str(error).split())
  found = re.search(
    r'Invalid value "(.*)" for JAX flag (\w+)'
    r"|invalid truth value '(.*)' for environment '(\w+)'",
    text,
  )
  if found:
    value = found[1] if found[2] else found[3]
    name = (found[2] or found[4]).upper()
    allowed = 'a value that JAX documents'
    if found[4]:
      allowed = 'True or False'
    elif name == 'JAX_DEFAULT_MATMUL_PRECISION':
      allowed = _PRECISIONS
    return f'{name}={value} must be {allowed}; correct it or unset {name}'
  if isinstance(error, AssertionError | RuntimeError) and 'jax' in sys.modules:
    return _without_devices()
  return None


def _without_devices():
  """Returns the line on devices that JAX cannot use; None if it has devices.

  JAX removes its own frames from errors, so they are asked for once more.
  """
  try:
    sys.modules['jax'].devices()
  except Exception as error:  # JAX raises several classes
    return _on_platforms(' '.join(str(error).split()))
  return None


def _on_platforms(text):
  """Returns the line on devices that JAX cannot use; `text` is its message."""
  from vit_jax_repro.output import messages

  variable = next(filter(os.environ.get, _VARIABLES), _VARIABLES[0])
  wanted = os.environ.get(variable, '')
  found = re.search(
    r"Unable to initialize backend '(\w+)': (.*?)( \(set JAX_PLATFORMS|$)", text
  )
  name = found[1] if found else wanted
  reason = found[2].rstrip('. ')[:_LONGEST] if found else 'no such device'
  # Without a plugin JAX finds no backend, or looks for one of another name.
  if wanted in ('cuda', 'gpu') and not _installed(_PLUGINS):
    reason = (
      "JAX's plugin for NVIDIA cards is not installed (pip install -e "
      "'.[cuda]')"
    )
  elif wanted == 'tpu' and not _installed(['libtpu']):
    reason = "libtpu is not installed (pip install -e '.[tpu]')"
  elif name not in _PLATFORMS:
    reason = f'JAX has no platform {name!r}'
  if not wanted:
    return (
      f'JAX cannot use the {name}: {reason}; JAX_PLATFORMS=cpu runs without'
    )
  hint = '' if name in _PLATFORMS else messages.did_you_mean(name, _PLATFORMS)
  return (
    f'{variable}={wanted}: {reason}; {hint}set {variable}=cpu, or unset it to '
    'take the devices that JAX finds'
  )


def note_on_names() -> str | None:
  """Returns a line if Python reads names of files otherwise than as UTF-8.

  Then classes have other names than elsewhere, and libraries in C++, which take
  UTF-8, look for other files.
  """
  code = sys.getfilesystemencoding()
  if code == 'utf-8':
    return None
  return (
    f'Python reads names of files as {code} here, so files whose names are not '
    'ASCII may not be found, and their classes may have other names; set '
    'PYTHONUTF8=1'
  )


def note_on_idle_card(dev: str | os.PathLike = '/dev') -> str | None:
  """Returns a line if JAX cannot use a card that this machine has, else None.

  JAX is not imported. JAX itself takes the CPU without a message.

  Args:
    dev: the folder of devices.
  """
  if os.environ.get('JAX_PLATFORMS'):
    return None
  dev = pathlib.Path(dev)
  if (dev / 'nvidia0').exists():
    return _on_plugin()
  is_tpu = (dev / 'accel0').exists() and not (dev / 'nvidiactl').exists()
  if is_tpu and not _installed(['libtpu']):
    return (
      'this machine seems to have a TPU, but the package libtpu is not '
      "installed and JAX takes the CPU; pip install -e '.[tpu]'"
    )
  return None


def _on_plugin():
  plugins = _installed(_PLUGINS)
  jaxlib = _version('jaxlib')
  install = f"pip install 'jax[cuda12]=={jaxlib}'"
  card = 'this machine has an NVIDIA card, but'
  if not plugins:
    return f"{card} JAX's plugin for it is not installed and JAX takes the " + (
      f'CPU; {install}'
    )
  versions = [_version(name) for name in plugins]
  if jaxlib and jaxlib not in versions:
    return (
      f'{card} {plugins[0]} {versions[0]} does not belong to jaxlib {jaxlib} '
      f'and JAX may take the CPU; {install}'
    )
  return None


def _installed(names):
  return [name for name in names if importlib.util.find_spec(name)]


def _version(package):
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
