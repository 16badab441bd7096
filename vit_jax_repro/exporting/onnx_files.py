"""ONNX files: written by jax2onnx, run by onnxruntime."""

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.exporting import programs
from vit_jax_repro.models import convolution
from vit_jax_repro.output import messages

# jax2onnx asks for an orbax-checkpoint below 0.11.37, older than the one that
# runs need, and uses it nowhere. So it cannot be a requirement of the extra.
INSTALL = "pip install -e '.[export]' && pip install --no-deps jax2onnx==0.17.1"
_LIBRARIES = ('onnx', 'onnxruntime', 'jax2onnx')
_LOGGERS = ('jax2onnx', 'onnx_ir')
_ERRORS_ONLY = 3  # severity of onnxruntime's messages


def require() -> None:
  """Raises an InputError unless the libraries can be imported."""
  for name in _LIBRARIES:
    _import(name)


def write(
  path: str | os.PathLike,
  program: programs.Program,
  metadata: Mapping[str, str],
) -> None:
  """Writes a program as an ONNX file with its weights.

  Args:
    path: a file, which is overwritten.
    program: the program.
    metadata: {key: text}, stored in the file.

  Raises:
    InputError: a library is not installed.
    OSError: the file cannot be written.
  """
  onnx, jax2onnx = _import('onnx'), _import('jax2onnx')
  with (
    _quiet(),
    jax.numpy_rank_promotion('allow'),  # jax2onnx's own code relies on it
    nn.intercept_methods(_group_norm_by_axes),
  ):
    model = jax2onnx.to_onnx(
      program.function,
      [(programs.BATCH, *program.image_shape)],
      model_name=program.restored.name,
      input_names=[programs.INPUT],
      output_names=[program.output],
    )
  onnx.helper.set_model_props(model, dict(metadata))
  with open(path, 'wb') as file:
    file.write(model.SerializeToString())


def runner(path: str | os.PathLike) -> Callable[[np.ndarray], np.ndarray]:
  """Returns an ONNX file as a function of images, which runs on the CPU."""
  onnxruntime = _import('onnxruntime')
  options = onnxruntime.SessionOptions()
  options.log_severity_level = _ERRORS_ONLY
  session = onnxruntime.InferenceSession(
    os.fspath(path), options, providers=['CPUExecutionProvider']
  )

  def run(images):
    (outputs,) = session.run(None, {programs.INPUT: images})
    return outputs

  return run


def _group_norm_by_axes(next_call, args, kwargs, context):
  """Intercepts GroupNorm; takes its means over one axis after the other.

  onnxruntime adds the values of a mean one by one. For the tens of thousands of
  values of a group, that is ten times less exact than XLA, and by axes it is as
  exact. The order of additions is the only difference.
  """
  norm = context.module
  if not (
    isinstance(norm, convolution.GroupNorm)
    and context.method_name == '__call__'
  ):
    return next_call(*args, **kwargs)

  def mean(values):  # [B, H, W, G, C/G] -> [B, 1, 1, G, 1]
    for axis in (1, 2, 4):
      values = values.mean(axis=axis, keepdims=True)
    return values

  (x,) = args  # [B, H, W, C]
  grouped = x.reshape(*x.shape[:-1], norm.num_groups, -1)
  centre = mean(grouped)
  if norm.fast_variance:
    variance = mean(grouped * grouped) - centre * centre
    variance = jnp.maximum(variance, 0)
  else:
    variance = mean(jnp.square(grouped - centre))
  x = ((grouped - centre) / jnp.sqrt(variance + norm.eps)).reshape(x.shape)
  scale, bias = (norm.get_variable('params', key) for key in ('scale', 'bias'))
  return x * scale + bias


def _import(name: str) -> Any:
  try:
    with _quiet():
      return importlib.import_module(name)
  except ImportError as error:
    raise InputError(
      f'ONNX files need {name} ({messages.short(error)}): {INSTALL}'
    ) from None


@contextlib.contextmanager
def _quiet() -> Generator[None]:
  """Silences warnings about parts of the libraries that are not used here."""
  levels = {name: logging.getLogger(name).level for name in _LOGGERS}
  for name in _LOGGERS:
    logging.getLogger(name).setLevel(logging.ERROR)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  finally:
    for name, level in levels.items():
      logging.getLogger(name).setLevel(level)
