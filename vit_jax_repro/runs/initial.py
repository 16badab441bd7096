"""The parameters that a run starts from."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro import weights
from vit_jax_repro.runs.pretrained import pretrained_path
from vit_jax_repro.runs.settings import Settings


def parameters(
  settings: Settings, model: nn.Module, image_size: tuple[int, int]
) -> Any:
  """A published file's parameters, fitted to the task, or fresh ones.

  Where settings say so, those of a file are shrunk and perturbed: each becomes
  shrink * its value + perturb * that of fresh parameters, biases, norms and
  the head included. Ash & Adams (arXiv:1910.08475, section 4) add normal noise
  of one deviation instead; scaled fresh parameters, as their code has it, give
  each layer noise of the size of its own initialisation. A head is worth
  shrinking only with `head='keep'`, as one made anew is zero.

  Returns:
    A tree of host arrays.

  Raises:
    ValueError: the file is no weights file, or does not fit the model.
    OSError: it is not there.
  """
  if not settings.pretrained_dir:
    return _fresh(settings, model, image_size)
  path = pretrained_path(settings)
  try:
    params = weights.adapt(
      weights.load(path), model, image_size=image_size, head=settings.head
    )
  except ValueError as error:
    text = str(error)
    raise ValueError(text if path in text else f'{path}: {text}') from error
  if settings.shrink == 1 and not settings.perturb:
    return params

  def mixed(old, new):
    value = settings.shrink * old + settings.perturb * new
    return value.astype(old.dtype)

  return jax.tree.map(mixed, params, _fresh(settings, model, image_size))


def _fresh(settings, model, image_size):
  key = jax.random.fold_in(jax.random.key(settings.seed), 1)
  images = jnp.zeros((1, *image_size, 3))
  return jax.device_get(jax.jit(model.init)(key, images)['params'])
