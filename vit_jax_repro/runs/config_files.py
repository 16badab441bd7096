"""Configuration files: found here or in the package, run and completed."""

import importlib.util
import inspect
import os
import pathlib
import re
import traceback
from collections.abc import Sequence
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.runs import configuration, overrides

_PACKAGE = pathlib.Path(__file__).parents[1]
# In the installed package, and in a clone.
_FOLDERS = (_PACKAGE / 'configs', _PACKAGE.parent / 'configs')
# The end of a path that means the package's file, wherever it begins.
_OURS = re.compile(r'(?:^|.*/)(?:vit_jax|vit_jax_repro)/configs/([^/]+)')
# Files of the original code that have no counterpart with this name.
_ELSEWHERE = {
  'inference_time.py': 'python -m vit_jax_repro.benchmark infer',
  'models.py': '--config=configs/vit.py:MODEL,DATASET',
  'common.py': '--config=configs/vit.py:MODEL,DATASET',
}


def load(text: str, changes: Sequence[tuple[str, str]] = ()) -> Any:
  """Returns the configuration that the flags --config and --config.KEY name.

  Args:
    text: FILE.py or FILE.py:ARGUMENT.
    changes: (KEY, VALUE) of the flags --config.KEY=VALUE, in their order.

  Returns:
    A locked ml_collections.ConfigDict with every key of `settings.Settings`, or
    with the key `study`.

  Raises:
    InputError: the file does not exist or is wrong, a key is unknown or a value
      has the wrong type; one line.
  """
  name, argument = _divided(text)
  path = find(name)
  config = _run(path, argument)
  if 'study' not in config:
    config = configuration.completed(config)
  return overrides.apply(config, changes)


def find(path: str) -> str:
  """Returns the configuration file that a path means.

  It is the file at this path, or else the package's file: for configs/NAME.py
  in the working directory, and for every path that ends so after vit_jax/ or
  vit_jax_repro/.

  Raises:
    InputError: there is neither; the message has the package's files.
  """
  found = os.path.expanduser(path)
  if os.path.isfile(found):
    return os.path.abspath(found)
  here = os.path.relpath(os.path.abspath(found)).replace(os.sep, '/')
  whole = os.path.abspath(found).replace(os.sep, '/')
  ours = _OURS.fullmatch(whole) or re.fullmatch('configs/([^/]+)', here)
  name = os.path.basename(path)
  if ours:
    for folder in _FOLDERS:
      if (folder / ours[1]).is_file():
        return str(folder / ours[1])
    if name in _ELSEWHERE:
      raise InputError(
        f'no configuration file {path} here; use {_ELSEWHERE[name]}'
      )
  names = _names()
  near = messages.nearest(
    pathlib.Path(name).stem, {pathlib.Path(each).stem: each for each in names}
  )
  hint = f'did you mean {" or ".join(map(repr, near))}? ' if near else ''
  raise InputError(
    f'no configuration file {path} in {os.getcwd()}; {hint}the package has '
    f'{", ".join(names)}'
  )


def _names():
  """Returns the package's configuration files, such as 'configs/vit.py'."""
  found = {path.name for folder in _FOLDERS for path in folder.glob('*.py')}
  return [f'configs/{name}' for name in sorted(found)]


def _divided(text):
  """Divides FILE.py:ARGUMENT; the argument is None if there is none."""
  match = re.fullmatch(r'(.*?\.py)(?::(.*))?', text, re.DOTALL)
  if match:
    return match[1], match[2]
  raise InputError(
    f'--config={text} must be FILE.py or FILE.py:ARGUMENT, such as '
    'configs/vit.py:b16,cifar10'
  )


def _run(path, argument):
  """Returns the result of a file's `get_config`."""
  spec = importlib.util.spec_from_file_location('config', path)
  assert spec and spec.loader  # the name ends with .py
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    function = getattr(module, 'get_config', None)
    if not callable(function):
      raise InputError(f'{path} has no function get_config; add one')
    config = function(*_arguments(function, argument, path))
  except InputError:
    raise
  except ImportError as error:
    if not _is_of(path, error):
      raise
    raise InputError(
      f'{path}, line {_line(path, error)}: {error}; run in the folder that has '
      'what the file imports'
    ) from error
  except Exception as error:
    if not _is_of(path, error):
      raise
    raise InputError(
      f'{path}, line {_line(path, error)}: {type(error).__name__}: '
      f'{messages.short(error)}'
    ) from error
  if not hasattr(config, 'items'):
    raise InputError(
      f'get_config of {path} returns {messages.quoted(config)}; it must return '
      'an ml_collections.ConfigDict or a dict'
    )
  return config


def _arguments(function, argument, path):
  given = () if argument is None else (argument,)
  try:
    inspect.signature(function).bind(*given)
  except TypeError:
    if given:
      raise InputError(
        f'{path} takes no argument; leave out :{argument}'
      ) from None
    raise InputError(
      f'{path} needs an argument: --config={path}:ARGUMENT'
    ) from None
  return given


def _frames(path, error):
  """Returns the files of an exception's traceback from `path` on."""
  files = [
    frame.filename for frame in traceback.extract_tb(error.__traceback__)
  ]
  return files[files.index(path) :] if path in files else []


def _is_of(path, error):
  """Returns whether the file is to blame for an exception, not the package."""
  if isinstance(error, SyntaxError):
    return error.filename == path
  frames = _frames(path, error)
  ours = str(_PACKAGE) + os.sep
  return bool(frames) and not any(
    name.startswith(ours) and name != path for name in frames
  )


def _line(path, error):
  if isinstance(error, SyntaxError):
    return error.lineno
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == path
  ]
  return lines[-1]
