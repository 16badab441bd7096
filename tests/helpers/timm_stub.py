"""Imports timm without torchvision.

timm imports torchvision, but its models do not need it. Published builds of
torchvision do not fit a CPU build of torch.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types


class _Anything(type):
  """Metaclass of a class with every attribute."""

  def __getattr__(cls, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return f'{cls.__name__}.{name}'


class _Module(types.ModuleType):
  """Module with every class."""

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return _Anything(name, (), {'__init__': lambda self, *_, **__: None})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  def find_spec(self, name, path=None, target=None):
    del path, target
    if name.partition('.')[0] != 'torchvision':
      return None
    return importlib.machinery.ModuleSpec(name, self, is_package=True)

  def create_module(self, spec):
    return _Module(spec.name)

  def exec_module(self, module):
    pass


@functools.cache
def import_timm():
  """Imports timm and removes the stub, so that no other module finds it."""
  if importlib.util.find_spec('torchvision') is None:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
      import timm
    finally:
      sys.meta_path.remove(finder)
      for name in [n for n in sys.modules if n.startswith('torchvision')]:
        del sys.modules[name]
    return timm
  import timm

  return timm
