"""PyTorch ports: made from a name, run on the reference's images.

A port is written as

  transformers:ID         a model on the Hub or in a folder
  timm:NAME               a name of timm's; also local-dir: and hf-hub: names
  module:PACKAGE.FUNCTION a function without arguments that returns an
                          nn.Module, or a pair of one and a mapping: `layers`
                          {name of the reference: path of a module},
                          `preprocess` (path of an image -> [3, H, W])

The module takes [B, 3, H, W] and returns logits [B, K], or an object that has
them as `logits`.
"""

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.comparison import torch_layers
from vit_jax_repro.comparison.activations import LOGITS
from vit_jax_repro.weights import messages

KINDS = ('transformers', 'timm', 'module')
_INSTALL = "pip install -e '.[torch]'"


@dataclasses.dataclass(frozen=True)
class Port:
  """A port, ready to be run."""

  name: str
  module: Any  # torch.nn.Module in evaluation mode
  layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # path of an image file -> [3, H, W] numbers; None: nobody knows.
  preprocess: Callable[[str], Any] | None = None
  keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def state(self) -> dict[str, np.ndarray]:
    """Parameters and buffers under the port's names."""
    state = self.module.state_dict()
    return {name: value.numpy() for name, value in state.items()}


def require_torch():
  """Imports and returns torch.

  Raises:
    ValueError: it is not installed.
  """
  try:
    return importlib.import_module('torch')
  except ImportError as error:
    raise ValueError(
      f'a port needs PyTorch ({messages.short(error)}): {_INSTALL}'
    ) from None


def make(
  text: str,
  image_size: tuple[int, int],
  *,
  own_weights: bool = True,
) -> Port:
  """Makes the port that a flag names; see the top of this file.

  Args:
    text: 'transformers:ID', 'timm:NAME' or 'module:PACKAGE.FUNCTION'.
    image_size: (H, W) that it will see.
    own_weights: load the weights that the library has for the name.

  Raises:
    ValueError: no such kind, library or function; one line.
  """
  kind, _, name = text.partition(':')
  if kind not in KINDS or not name:
    raise ValueError(
      f'port {text!r} must be transformers:ID, timm:NAME or '
      'module:PACKAGE.FUNCTION'
    )
  require_torch()
  port = {
    'transformers': _transformers,
    'timm': _timm,
    'module': _module,
  }[kind](name, image_size, own_weights)
  port.module.eval()
  return dataclasses.replace(port, name=text)


def _transformers(name, image_size, own_weights):
  library = _library('transformers')
  library.utils.logging.disable_progress_bar()
  library.utils.logging.set_verbosity_error()
  try:
    config = library.AutoConfig.from_pretrained(name)
    made = [getattr(library, a, None) for a in config.architectures or ()]
    kind = (
      made[0] if made and made[0] else library.AutoModelForImageClassification
    )
    if own_weights:
      module = kind.from_pretrained(name)
    elif isinstance(kind, type) and issubclass(kind, library.PreTrainedModel):
      module = kind(config)
    else:
      module = kind.from_config(config)
  except (OSError, ValueError) as error:
    raise ValueError(
      f'transformers cannot load {name!r} ({messages.short(error)}); give a '
      'model of the Hub, or a folder that save_pretrained has written'
    ) from None
  trained = getattr(config, 'image_size', None)
  keywords = {}
  if trained not in (None, image_size[0], list(image_size), image_size):
    keywords['interpolate_pos_encoding'] = True
  return Port(name, module, {}, _transformers_reader(library, name), keywords)


def _transformers_reader(library, name):
  """What the library's own image processor does; None if there is none."""
  try:
    processor = library.AutoImageProcessor.from_pretrained(name)
  except (OSError, ValueError, ImportError):
    return None

  def read(path):
    from PIL import Image

    with Image.open(path) as image:
      made = processor(image.convert('RGB'), return_tensors='np')
    return made['pixel_values'][0]

  return read


def _timm(name, image_size, own_weights):
  library = _library('timm')
  try:
    module = library.create_model(name, pretrained=own_weights)
    trained = tuple(module.pretrained_cfg.get('input_size', ()))[1:]
    if hasattr(module, 'patch_embed') and trained not in ((), image_size):
      module = library.create_model(
        name, pretrained=own_weights, img_size=image_size
      )
  except (OSError, RuntimeError, ValueError) as error:
    raise ValueError(
      f'timm cannot load {name!r} ({messages.short(error)}); see '
      'timm.list_models(pretrained=True), or give --port_weights=reference'
    ) from None
  return Port(name, module, {}, _timm_reader(library, module))


def _timm_reader(library, module):
  try:
    settings = library.data.resolve_data_config({}, model=module)
    transform = library.data.create_transform(**settings)
  except (ImportError, AttributeError, TypeError):
    return None

  def read(path):
    from PIL import Image

    with Image.open(path) as image:
      return transform(image.convert('RGB')).numpy()

  return read


def _module(name, image_size, own_weights):
  del image_size
  if not own_weights:
    raise ValueError(
      f'the weights of module:{name} are what its function gives it; leave '
      'out --port_weights=reference'
    )
  where, _, function = name.rpartition('.')
  if os.getcwd() not in sys.path:  # as `python -m` has it
    sys.path.insert(0, os.getcwd())
  try:
    make = getattr(importlib.import_module(where), function)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(
      f'no function {name!r} ({messages.short(error)}); give '
      'module:PACKAGE.FUNCTION, to be found from this folder'
    ) from None
  made = make()
  module, extra = made if isinstance(made, tuple) else (made, {})
  if not isinstance(module, require_torch().nn.Module):
    raise ValueError(
      f'{name} returned {type(module).__name__}; it must return a '
      'torch.nn.Module, or a pair of one and a mapping'
    )
  unknown = sorted(set(extra) - {'layers', 'preprocess'})
  if unknown:
    raise ValueError(
      f"{name} returned a mapping with {unknown}; its keys may be 'layers' and "
      "'preprocess'"
    )
  return Port(name, module, **extra)


def _library(name):
  try:
    return importlib.import_module(name)
  except (ImportError, RuntimeError) as error:
    advice = {'timm': 'pip install timm'}.get(name, _INSTALL)
    raise ValueError(
      f'{name} cannot be imported ({messages.short(error)}): {advice}'
    ) from None


def run(
  port: Port,
  images: np.ndarray,
  names: Collection[str],
  *,
  num_layers: int = 0,
  patch_size: tuple[int, int] | None = None,
  dtype: str = 'float32',
) -> dict[str, np.ndarray]:
  """Logits and activations under the reference's names.

  Args:
    port: from `make`; its module is left in the dtype.
    images: [B, H, W, 3], the very ones that the reference sees.
    names: activations of the reference to look for.
    num_layers, patch_size: of the reference, to recognise the parts of a
      module whose names are unknown.
    dtype: of parameters and computation, 'float32' or 'float64'.

  Raises:
    ValueError: a layer that the port names is not there, or it fails.
  """
  torch = require_torch()
  modules = dict(port.module.named_modules())
  missing = sorted(set(port.layers.values()) - modules.keys())
  if missing:
    raise ValueError(
      f'{port.name} has no modules {messages.listed(missing)}, which its '
      '`layers` name; see named_modules()'
    )
  found = torch_layers.paths(names, modules.keys())
  found |= _recognised(torch, modules, found, num_layers, patch_size)
  found |= port.layers
  outputs, hooks = {}, []
  for name, path in found.items():
    hooks.append(modules[path].register_forward_hook(_keep(outputs, name)))
  tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
  try:
    with torch.no_grad():
      module = port.module.to(getattr(torch, dtype))
      answer = module(tensor.to(getattr(torch, dtype)), **port.keywords)
  except (RuntimeError, ValueError, TypeError) as error:
    raise ValueError(
      f'{port.name} fails on images of {images.shape[1:3]} '
      f'({messages.short(error)}); see --image_size'
    ) from None
  finally:
    for hook in hooks:
      hook.remove()
  logits = getattr(answer, 'logits', answer)
  if isinstance(logits, torch.Tensor):
    outputs[LOGITS] = logits
  return {name: output.numpy() for name, output in outputs.items()}


def _keep(outputs, name):
  def hook(module, inputs, output):
    del module, inputs
    if isinstance(output, tuple | list):
      output = output[0]
    output = getattr(output, 'last_hidden_state', output)
    # A copy: what follows, such as a ReLU, may work in place.
    outputs[name] = output.detach().cpu().clone()

  return hook


def _recognised(torch, modules, found, num_layers, patch_size):
  """Blocks and patch embedding of a module whose names nobody knows."""
  more = {}
  block = 'Transformer/encoderblock_{}'
  if num_layers and block.format(0) not in found:
    for path, module in modules.items():
      lists = torch.nn.ModuleList, torch.nn.Sequential
      if isinstance(module, lists) and len(module) == num_layers:
        more |= {block.format(i): f'{path}.{i}' for i in range(num_layers)}
        break
  if patch_size and 'embedding' not in found:
    for path, module in modules.items():
      if isinstance(module, torch.nn.Conv2d) and (
        module.kernel_size == module.stride == tuple(patch_size)
      ):
        more['embedding'] = path
        break
  return more
