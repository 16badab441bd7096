"""Execution of PyTorch ports on the reference's images.

The forward pass and the preprocessing of a port may raise any exception, which
becomes an InputError of one line. `torch_sources` creates ports.
"""

import contextlib
import dataclasses
import importlib
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.comparison.activations import LOGITS
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages

INSTALL = "pip install -e '.[torch]'"
# Beginnings of the file names of frames that are not in the user's own files.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_NOT_OWN = (
  '<',
  _PACKAGE + os.sep,
  *{
    sysconfig.get_path(name) + os.sep
    for name in ('stdlib', 'platstdlib', 'purelib', 'platlib')
  },
)

# Paths of the modules that compute the reference's activations: the output of
# the module at a path is compared with the named activation. Sources: timm 1.0,
# transformers 4 and 5, facebookresearch/deit.

# Prefixes of the paths below in a model with a head, or in a wrapper (as in
# ports.WRAPPERS).
_HOLDERS = ('', 'module.', '_orig_mod.', 'model.', 'backbone.')
_PREFIXES = tuple(
  holder + part for holder in _HOLDERS for part in ('', 'vit.', 'deit.', 'bit.')
)

_BLOCK = 'Transformer/encoderblock_{}'
# {name of the reference: paths, of which the first existing one is used}. `{}`
# is a number, and `{-1}` a number that the port counts from 0 and the reference
# from 1.
_PATHS = {
  'conv_root': (
    'patch_embed.backbone.stem.conv',
    'patch_embed.backbone.conv',
  ),
  'gn_root': (  # between the norm and the ReLU of timm's GroupNormAct
    'patch_embed.backbone.stem.norm.drop',
    'patch_embed.backbone.norm.drop',
  ),
  'root_block': ('embedder', 'stem'),
  'block{}': (
    'patch_embed.backbone.stages.{-1}',
    'encoder.stages.{-1}',
    'stages.{-1}',
  ),
  'embedding': ('embeddings.patch_embeddings', 'patch_embed'),
  'stem': ('stem',),
  'Transformer/posembed_input': ('embeddings', 'norm_pre', 'pos_drop'),
  _BLOCK: ('encoder.layer.{}', 'layers.{}', 'blocks.{}'),
  'MixerBlock_{}': ('blocks.{}',),
  'Transformer/encoder_norm': ('layernorm', 'norm'),
  'pre_head_layer_norm': ('norm',),
  'pre_logits': ('pooler.dense', 'head_drop', 'head.global_pool', 'pooler'),
  'pre_logits_tanh': ('pooler.activation',),
}


@dataclasses.dataclass(frozen=True)
class Port:
  """A port, ready to be run."""

  name: str
  module: Any  # torch.nn.Module in evaluation mode
  layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # path of an image file -> [3, H, W] numbers; None if unknown.
  preprocess: Callable[[str], Any] | None = None
  keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def require_torch() -> Any:
  """Imports and returns torch.

  Raises:
    InputError: PyTorch is not installed.
  """
  try:
    return importlib.import_module('torch')
  except ImportError as error:
    raise InputError(
      f'a port needs PyTorch ({messages.short(error)}): {INSTALL}'
    ) from None


@contextlib.contextmanager
def guarded(what: str, remedy: str) -> Generator[None]:
  """Turns any exception of third-party code into an InputError of one line.

  Args:
    what: beginning of the message, such as 'X cannot be loaded'.
    remedy: end of the message.

  Raises:
    InputError: the code raised an exception. The message has its type, its
      message, and its place in the user's own files, if it has one there.
  """
  try:
    yield
  except Exception as error:
    reason = ': '.join(
      filter(None, (type(error).__name__, messages.short(error)))
    )
    raise InputError(f'{what} ({reason}{_where(error)}); {remedy}') from None


def _where(error):
  if isinstance(error, SyntaxError) and error.filename:
    return f', at {error.filename}:{error.lineno}'
  own = [
    frame
    for frame in traceback.extract_tb(error.__traceback__)
    if not frame.filename.startswith(_NOT_OWN)
  ]
  return f', at {own[-1].filename}:{own[-1].lineno}' if own else ''


def preprocessed(port: Port, path: str) -> np.ndarray:
  """Returns an image file preprocessed by the port, float32.

  Args:
    port: a port with a `preprocess`.
    path: the image file.

  Raises:
    InputError: the preprocessing fails, or does not return numbers.
  """
  assert port.preprocess is not None
  with guarded(
    f'the preprocessing of {port.name} fails on {path}',
    'it must take a path and return [3, H, W] numbers',
  ):
    image = port.preprocess(path)
    if hasattr(image, 'detach'):
      image = image.detach().cpu().float()
    return np.asarray(image, np.float32)


def run(
  port: Port,
  images: np.ndarray,
  names: Collection[str],
  *,
  num_layers: int = 0,
  patch_size: tuple[int, int] | None = None,
  dtype: str = 'float32',
) -> dict[str, np.ndarray]:
  """Returns logits and activations under the reference's names.

  Args:
    port: a port from `torch_sources.make`; its module stays in the dtype.
    images: [B, H, W, 3], the same as for the reference.
    names: names of the reference's activations to look for.
    num_layers: number of blocks of the reference, to recognise the blocks of a
      module with unknown names.
    patch_size: patch size of the reference, to recognise its patch embedding.
    dtype: dtype of parameters and computation, 'float32' or 'float64'.

  Raises:
    InputError: the port fails, or does not have a layer that it names.
  """
  torch = require_torch()
  modules = dict(port.module.named_modules())
  missing = sorted(set(port.layers.values()) - modules.keys())
  if missing:
    raise InputError(
      f'{port.name} has no modules {messages.listed(missing)}, which its '
      '`layers` name; see named_modules()'
    )
  found = module_paths(names, modules.keys())
  found |= _recognised(torch, modules, found, num_layers, patch_size)
  found |= port.layers
  outputs, hooks = {}, []
  for name, path in found.items():
    hooks.append(modules[path].register_forward_hook(_keep(outputs, name)))
  tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
  try:
    with (
      guarded(
        f'{port.name} fails on images of {images.shape[1:3]}',
        'see --image_size',
      ),
      torch.no_grad(),
    ):
      module = port.module.to(getattr(torch, dtype))
      answer = module(tensor.to(getattr(torch, dtype)), **port.keywords)
  finally:
    for hook in hooks:
      hook.remove()
  outputs[LOGITS] = _logits(answer)
  return {
    name: output.detach().cpu().to(getattr(torch, dtype)).numpy()
    for name, output in outputs.items()
    if isinstance(output, torch.Tensor)
  }


def _logits(answer):
  """Returns the logits in the output of a model, or None."""
  if hasattr(answer, 'logits'):
    return answer.logits
  if isinstance(answer, Mapping):
    return answer.get(LOGITS)
  if isinstance(answer, tuple | list) and answer:
    return _logits(answer[0])
  return answer


def _keep(outputs, name):
  def hook(module, inputs, output):
    del module, inputs
    if isinstance(output, tuple | list) and output:
      output = output[0]
    output = getattr(output, 'last_hidden_state', output)
    # The copy is needed because the next layer, such as a ReLU, may work in
    # place.
    if hasattr(output, 'detach'):
      outputs[name] = output.detach().clone()

  return hook


def _recognised(torch, modules, found, num_layers, patch_size):
  """Returns paths of blocks and patch embedding, recognised by their form."""
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


def module_paths(
  names: Collection[str], modules: Collection[str]
) -> dict[str, str]:
  """Returns {name of the reference: path of a module} for the names found.

  Args:
    names: names of activations of the reference.
    modules: paths of all modules of the port.
  """
  found = {}
  for name in names:
    number = re.search(r'\d+$', name)
    candidates = [
      prefix + _numbered(path, number)
      for path in _PATHS.get(re.sub(r'\d+$', '{}', name), ())
      for prefix in _PREFIXES
    ]
    there = [path for path in candidates if path in modules]
    if there:
      found[name] = there[0]
  return found


def _numbered(path, number):
  if number is None:
    return path
  path = path.replace('{-1}', str(int(number[0]) - 1))
  return path.replace('{}', number[0])
