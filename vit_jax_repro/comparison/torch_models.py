"""Execution of PyTorch ports on the reference's images.

The forward pass and the preprocessing of a port may raise any exception, which
becomes an InputError of one line. `torch_sources` creates ports.
"""

import contextlib
import dataclasses
import importlib
import os
import sysconfig
import traceback
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.comparison import torch_calls, torch_layers
from vit_jax_repro.comparison.activations import LOGITS
from vit_jax_repro.comparison.torch_calls import Call, Place
from vit_jax_repro.comparison.torch_layers import Form
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages

_MORE_PASSES = 8  # of a port that draws random numbers
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


@dataclasses.dataclass(frozen=True)
class Port:
  """A port, ready to be run."""

  name: str
  module: Any  # torch.nn.Module in evaluation mode
  layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # path of an image file -> [3, H, W] numbers; None if unknown.
  preprocess: Callable[[str], Any] | None = None
  keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  modes: str = ''  # sentence on the modules that were in training mode


@dataclasses.dataclass(frozen=True)
class Observed:
  """What a port computes from images, and where."""

  outputs: dict[str, np.ndarray]  # under the reference's names
  places: dict[str, Place]
  calls: list[Call]  # of its modules, in one pass
  spread: float  # largest difference of the logits of several passes
  draws: bool  # whether a pass draws random numbers from PyTorch


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
    InputError: the code raised an exception, or ended the program. The message
      has its type, its message, and its place in the user's own files, if it
      has one there.
  """
  try:
    yield
  except (Exception, SystemExit) as error:
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
  form: Form | None = None,
  dtype: str = 'float32',
) -> dict[str, np.ndarray]:
  """Returns the `outputs` of `observe`."""
  return observe(port, images, names, form=form, dtype=dtype).outputs


def observe(
  port: Port,
  images: np.ndarray,
  names: Collection[str],
  *,
  form: Form | None = None,
  dtype: str = 'float32',
) -> Observed:
  """Runs a port and returns logits and activations.

  It runs twice. The first pass shows which modules are called, so that layers
  can be recognised, and whether the port is random. A port that draws random
  numbers runs more often.

  Args:
    port: a port from `torch_sources.make`; its module stays in the dtype.
    images: [B, H, W, 3], the same as for the reference.
    names: names of the reference's activations to look for.
    form: sizes of the reference, to recognise the parts of a module with
      unknown names.
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
  tensor = as_tensor(images, dtype)
  module = port.module.to(getattr(torch, dtype))
  with failing_in_one_line(port, images), torch.no_grad():
    with torch_calls.tracing(torch, module) as calls:
      first = logits_of(module(tensor, **port.keywords))
    places = torch_layers.find(
      torch, names, calls, modules.keys(), form or Form()
    )
    places |= {name: Place(path) for name, path in port.layers.items()}
    outputs = {}

    def keep(name, value):
      # The first call counts. The copy is needed because the next layer, such
      # as a ReLU, may work in place.
      if name not in outputs:
        outputs[name] = value.detach().clone()

    with torch_calls.watching(torch, module, places, keep):
      before = torch.get_rng_state()
      passes = [logits_of(module(tensor, **port.keywords))]
      draws = not torch.equal(before, torch.get_rng_state())
    if draws:  # it may have dropped the same by chance, as stochastic depth can
      passes += [
        logits_of(module(tensor, **port.keywords)) for _ in range(_MORE_PASSES)
      ]
  outputs[LOGITS], spread = passes[0], 0.0
  if isinstance(first, torch.Tensor) and first.numel():
    gaps = [(first.double() - a.double()).abs().nan_to_num(0) for a in passes]
    spread = max(float(gap.max()) for gap in gaps)
  arrays = {
    name: output.cpu().to(getattr(torch, dtype)).numpy()
    for name, output in outputs.items()
    if isinstance(output, torch.Tensor)
  }
  return Observed(arrays, places, calls, spread, draws)


def as_tensor(images: np.ndarray, dtype: str) -> Any:
  """Converts [B, H, W, 3] to a tensor [B, 3, H, W]."""
  torch = require_torch()
  tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
  return tensor.to(getattr(torch, dtype))


def failing_in_one_line(
  port: Port, images: np.ndarray
) -> contextlib.AbstractContextManager:
  """Turns an exception of a port's pass into an InputError; see `guarded`."""
  return guarded(
    f'{port.name} fails on images of {images.shape[1:3]}', 'see --image_size'
  )


def logits_of(answer: Any) -> Any:
  """Returns the logits in the output of a model, or None."""
  if hasattr(answer, 'logits'):
    return answer.logits
  if isinstance(answer, Mapping):
    return answer.get(LOGITS)
  if isinstance(answer, tuple | list) and answer:
    return logits_of(answer[0])
  return answer
