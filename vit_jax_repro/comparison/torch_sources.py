"""Creation of PyTorch ports from the value of --port.

A port is written as

  transformers:ID         a model on the Hub or in a folder
  timm:NAME               a name of timm; also local-dir: and hf-hub: names
  module:PACKAGE.FUNCTION a function without arguments that returns an
                          nn.Module, or a pair of one and a mapping: `layers`
                          {name of the reference: path of a module},
                          `preprocess` (path of an image -> [3, H, W])
  PATH/FILE.py:FUNCTION   the same, of a file

The module takes [B, 3, H, W] and returns logits [B, K], a mapping or an object
that has them as `logits`, or a tuple that begins with them.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Mapping

from vit_jax_repro.comparison import torch_facts, torch_models
from vit_jax_repro.comparison.torch_models import INSTALL, Port, guarded
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import locations, messages
from vit_jax_repro.published import hub

KINDS = ('transformers', 'timm', 'module')
_REMEDY = (
  'give a model of the Hub, or a folder that save_pretrained has written'
)


def make(
  text: str,
  image_size: tuple[int, int],
  *,
  own_weights: bool = True,
) -> Port:
  """Creates the port that a flag names; see the top of this file.

  Args:
    text: 'transformers:ID', 'timm:NAME', 'module:PACKAGE.FUNCTION' or
      'PATH/FILE.py:FUNCTION'.
    image_size: (H, W) of its images.
    own_weights: load the weights that the library has for the name.

  Raises:
    InputError: the kind, library or function does not exist or fails. The
      message has one line.
  """
  kind, name = check(text)
  torch_models.require_torch()
  port = {
    'transformers': _transformers,
    'timm': _timm,
    'module': _module,
    'file': _file,
  }[kind](name, image_size, own_weights)
  modes = torch_facts.training_modes(port.module)
  port.module.eval()
  return dataclasses.replace(port, name=text, modes=modes)


def check(text: str) -> tuple[str, str]:
  """Returns the kind and name of a port, before anything is loaded.

  Args:
    text: see `make`.

  Raises:
    InputError: there is no such kind or file; or the name is neither a folder
      nor USER/REPO of the Hub.
  """
  kind, _, name = text.partition(':')
  path, _, function = text.rpartition(':')
  if path.endswith('.py') and function.isidentifier():
    if not os.path.isfile(path):
      raise InputError(f'there is no file {path!r}; give PATH/FILE.py:FUNCTION')
    return 'file', text
  if kind not in KINDS or not name:
    raise InputError(
      f'port {text!r} must be transformers:ID, timm:NAME, '
      'module:PACKAGE.FUNCTION or PATH/FILE.py:FUNCTION'
    )
  is_hub_name = name.count('/') == 1 and not locations.is_path(name)
  if kind == 'transformers' and not is_hub_name and not os.path.isdir(name):
    raise InputError(
      f'transformers cannot load {name!r}: there is no such folder, and no '
      f'such name on the Hub, USER/REPO; {_REMEDY}'
    )
  return kind, name


def has_own_function(text: str) -> bool:
  """Returns whether a port is the result of a user's function."""
  return text.startswith('module:') or '.py:' in text


def _transformers(name, image_size, own_weights):
  library = _library('transformers')
  library.utils.logging.disable_progress_bar()
  library.utils.logging.set_verbosity_error()
  # Without access to the Hub, its client would log every attempt.
  logging.getLogger('huggingface_hub').setLevel(logging.ERROR)
  with _hub(name), guarded(f'transformers cannot load {name!r}', _REMEDY):
    config = library.AutoConfig.from_pretrained(name)
    classes = [getattr(library, a, None) for a in config.architectures or ()]
    kind = (
      classes[0]
      if classes and classes[0]
      else library.AutoModelForImageClassification
    )
    if own_weights:
      module = kind.from_pretrained(name)
    elif isinstance(kind, type) and issubclass(kind, library.PreTrainedModel):
      module = kind(config)
    else:
      module = kind.from_config(config)
    reader = _transformers_reader(library, name)
  trained = getattr(config, 'image_size', None)
  keywords = {}
  takes = inspect.signature(module.forward).parameters
  if (
    'interpolate_pos_encoding' in takes  # Dinov2 always does it
    and trained is not None
    and _pair(trained) != tuple(image_size)
  ):
    keywords['interpolate_pos_encoding'] = True
  return Port(name, module, {}, reader, keywords)


def _hub(name):
  """Returns a block in which a name of the Hub is loaded, or a folder."""
  if os.path.isdir(name):
    return contextlib.nullcontext()
  return hub.offline_if_unreachable(name)


def _pair(size):
  return tuple(size) if isinstance(size, list | tuple) else (size, size)


def _transformers_reader(library, name):
  """Returns the library's own image processor as a function, or None."""
  try:
    processor = library.AutoImageProcessor.from_pretrained(name)
  except Exception:  # a missing file, or a missing library that it needs
    return None

  def read(path):
    from PIL import Image

    with Image.open(path) as image:
      made = processor(image.convert('RGB'), return_tensors='np')
    return made['pixel_values'][0]

  return read


def _timm(name, image_size, own_weights):
  library = _library('timm')
  weights = (
    hub.offline_if_unreachable(None)
    if not name.startswith('local-dir:') and (own_weights or ':' in name)
    else contextlib.nullcontext()
  )
  with (
    weights,
    guarded(
      f'timm cannot load {name!r}',
      'see timm.list_models(pretrained=True), or give --port_weights=reference',
    ),
  ):
    module = library.create_model(name, pretrained=own_weights)
    trained = tuple(module.pretrained_cfg.get('input_size', ()))[1:]
    if hasattr(module, 'patch_embed') and trained not in ((), image_size):
      module = library.create_model(
        name, pretrained=own_weights, img_size=image_size
      )
  return Port(name, module, {}, _timm_reader(library, module))


def _timm_reader(library, module):
  try:
    settings = library.data.resolve_data_config({}, model=module)
    transform = library.data.create_transform(**settings)
  except Exception:  # torchvision is missing, or the transform is unknown
    return None

  def read(path):
    from PIL import Image

    with Image.open(path) as image:
      return transform(image.convert('RGB')).numpy()

  return read


def _module(name, image_size, own_weights):
  del image_size
  _check_own_weights(f'module:{name}', own_weights)
  where, _, function = name.rpartition('.')
  if os.getcwd() not in sys.path:  # `python -m` would have added it
    sys.path.insert(0, os.getcwd())
  with guarded(
    f'{name!r} cannot be imported',
    'give module:PACKAGE.FUNCTION, to be found from this folder, or '
    'PATH/FILE.py:FUNCTION',
  ):
    made = importlib.import_module(where)
  return _called(name, _function_of(made, function, name))


def _function_of(module, function, name):
  if not callable(getattr(module, function, None)):
    hint = messages.did_you_mean(function, dir(module))
    raise InputError(f'there is no function {name!r}; {hint}give one that is')
  return getattr(module, function)


def _file(text, image_size, own_weights):
  del image_size
  _check_own_weights(text, own_weights)
  path, _, function = text.rpartition(':')
  folder, name = os.path.split(os.path.abspath(path))
  if folder not in sys.path:  # for the file's own imports
    sys.path.insert(0, folder)
  with guarded(
    f'{path} cannot be imported', 'correct the file, or install what it needs'
  ):
    spec = importlib.util.spec_from_file_location(
      name.removesuffix('.py'), path
    )
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, made)  # dataclasses look there
    spec.loader.exec_module(made)
  return _called(text, _function_of(made, function, text))


def _check_own_weights(text, own_weights):
  if not own_weights:
    raise InputError(
      f'{text} has the weights that its function gives it; leave out '
      '--port_weights=reference'
    )


def _called(name, function):
  """Returns the port that a user's function makes."""
  with guarded(f'{name} fails', 'it is called without arguments'):
    made = function()
  module, extra = made, {}
  if isinstance(made, tuple) and len(made) == 2:
    module, extra = made
  _check_made(name, module, extra)
  return Port(name, module, **extra)


def _check_made(name, module, extra):
  """Raises an InputError if a function did not return a port."""
  if not isinstance(module, torch_models.require_torch().nn.Module):
    raise InputError(
      f'{name} returned {type(module).__name__}; it must return a '
      'torch.nn.Module, or a pair of one and a mapping'
    )
  if not isinstance(extra, Mapping):
    raise InputError(
      f'{name} returned a pair whose second is {type(extra).__name__}; it must '
      "be a mapping with 'layers' or 'preprocess'"
    )
  unknown = sorted(map(str, set(extra) - {'layers', 'preprocess'}))
  if unknown:
    raise InputError(
      f"{name} returned a mapping with {unknown}; its keys may be 'layers' and "
      "'preprocess'"
    )
  layers = extra.get('layers', {})
  if not isinstance(layers, Mapping) or not all(
    isinstance(text, str) for pair in layers.items() for text in pair
  ):
    raise InputError(
      f'{name} returned `layers` of another kind; they must map names of the '
      'reference to paths of modules'
    )
  if not callable(extra.get('preprocess', print)):
    raise InputError(
      f'{name} returned a `preprocess` that cannot be called; it must take a '
      'path and return [3, H, W] numbers'
    )


def _library(name):
  try:
    return importlib.import_module(name)
  except Exception as error:  # an unsuitable torchvision may raise anything
    raise InputError(
      f'{name} cannot be imported ({messages.short(error)}): '
      f'{_advice(name, error)}'
    ) from None


def _advice(name, error):
  """Returns advice to install the library, or a package that it lacks."""
  missing = (getattr(error, 'name', None) or '').partition('.')[0]
  if missing == 'torchvision' or 'torchvision' in str(error):
    return (
      'install the torchvision that belongs to your PyTorch, from the index '
      'that PyTorch came from'
    )
  if missing and missing != name:
    return f'pip install {missing}'
  if name == 'timm':
    return 'pip install timm, with the torchvision that belongs to your PyTorch'
  return INSTALL
