"""Accuracy of masked patch prediction on the colours of corrupted patches."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vit_jax_repro.data import batches as batch_form
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference.classify import TOP, NotFiniteError
from vit_jax_repro.parallel import mesh as meshes
from vit_jax_repro.training import masked_patches


def eval_step(
  params: Mapping[str, Any],
  batch: Mapping[str, Any],
  key: jax.Array,
  first: int | jax.Array,
  *,
  model: Any,
  mean: float | Sequence[float],
  std: float | Sequence[float],
) -> dict[str, jax.Array]:
  """Counts correct predictions over the corrupted patches of unmasked rows.

  Args:
    params: parameters for `model.apply`.
    batch: image [B, H, W, 3], mask [B] bool.
    key: random key. The number of an image is folded in for its own key.
    first: number of the first image of the batch.
    model, mean, std: see `masked_patches.objective`.

  Returns:
    int32 scalars: correct, correct_top5, count (of patches), images; float32
    scalar: loss, summed over these patches.
  """
  images, mask = batch['image'], batch['mask']
  numbers = first + jnp.arange(images.shape[0])
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
  logits, corrupted = masked_patches.predict(
    model, params, images, keys, train=False
  )
  labels = masked_patches.targets(images, model.patch_size, mean=mean, std=std)
  _, top = jax.lax.top_k(logits, TOP)  # [B, N, 5]
  counted = corrupted & mask[:, None]
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  hits = (top == labels[..., None]) & counted[..., None]
  return {
    'correct': hits[..., 0].sum(),
    'correct_top5': hits.any(axis=-1).sum(),
    'count': counted.sum(),
    'images': mask.sum(),
    'loss': losses.sum(where=counted),
  }


def evaluate(
  model: Any,
  params: Mapping[str, Any],
  batches: Iterable[dict[str, Any]],
  mesh: Mesh | None = None,
  *,
  num_examples: int | None = None,
  mean: float | Sequence[float] = 127.5,
  std: float | Sequence[float] = 127.5,
  seed: int = 0,
) -> dict[str, Any]:
  """Evaluates masked patch prediction on batches of numpy arrays.

  Every image is corrupted once, by its number and the seed. So the result is
  the same with any batch size, and images are corrupted in the same way at
  every evaluation of a run.

  Args:
    model, mean, std: see `masked_patches.objective`.
    params: host or device arrays; they are not donated.
    batches, mesh, num_examples: see `classify.evaluate`; labels are not used.
    seed: seed of the corruption.

  Returns:
    dict of accuracy and top5_accuracy (fractions of the num_patches corrupted
    patches), correct, correct_top5, num_patches and num_examples (images), int,
    and loss, the mean over these patches, float.

  Raises:
    InputError: the number of images differs from `num_examples` or is 0; the
      model does not predict patches; its loss is not finite.
  """
  masked_patches.check(model)
  mesh = meshes.create_mesh() if mesh is None else mesh
  params = meshes.replicate(params, mesh)
  multiple = meshes.local_batch_multiple(mesh)
  step = compiled_step(model, mesh, mean=mean, std=std)
  key = jax.random.key(seed)
  names = 'correct', 'correct_top5', 'count', 'images', 'loss'
  totals = dict.fromkeys(names, 0)
  first = 0
  for batch in batches:
    num_rows = -(-len(batch['image']) // multiple) * multiple
    padded = meshes.to_global(batch_form.pad(batch, num_rows), mesh)
    sums = step(params, padded, key, first)
    totals = {name: sums[name].item() + total for name, total in totals.items()}
    first += len(batch['image']) * jax.process_count()
  seen, count = totals['images'], totals['count']
  if not seen or num_examples not in (None, seen):
    raise InputError(f'counted {seen} images instead of {num_examples}')
  if not math.isfinite(totals['loss']):
    raise NotFiniteError(
      f'the loss over the masked patches is {totals["loss"]}'
    )
  return {
    'accuracy': totals['correct'] / count,
    'top5_accuracy': totals['correct_top5'] / count,
    'correct': totals['correct'],
    'correct_top5': totals['correct_top5'],
    'num_patches': count,
    'num_examples': seen,
    'loss': totals['loss'] / count,
  }


def compiled_step(
  model: Any,
  mesh: Mesh,
  *,
  mean: float | Sequence[float],
  std: float | Sequence[float],
) -> Callable[..., Any]:
  """Returns the jitted `eval_step`: (params, batch, key, first) -> sums."""
  return _compiled(model, mesh, _hashable(mean), _hashable(std))


def _hashable(value):
  return tuple(value) if hasattr(value, '__len__') else value


@functools.lru_cache(maxsize=8)
def _compiled(model, mesh, mean, std):
  step = functools.partial(eval_step, model=model, mean=mean, std=std)
  return jax.jit(step, out_shardings=meshes.replicated(mesh))
