"""Classification: top-1 and top-5 accuracy, probabilities, heads of DeiT.

Every image counts exactly once. If an image has several classes, as in
ImageNet-ReaL, a prediction of any of them is correct, and an image without a
class is skipped (arXiv:2006.07159, and the code in
google-research/reassessed-imagenet).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vit_jax_repro.data import batches as batch_form
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import waiting
from vit_jax_repro.parallel import mesh as meshes
from vit_jax_repro.training import dividing, objectives

TOP = 5
LOSS = 'softmax'  # by default
HEADS = ('both', 'class', 'distillation')  # of a distilled model
_SUMS = (
  'correct', 'correct_top5', 'count', 'skipped', 'not_finite', 'loss',
  'labelled',
)  # fmt: skip


class NotFiniteError(InputError):
  """The logits of an evaluation are not finite."""


def eval_step(
  params: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  model: Any,
  loss: str = LOSS,
  among: tuple[int, ...] | None = None,
) -> dict[str, Any]:
  """Counts correct predictions over the unmasked rows of a batch.

  Args:
    params: parameters for `model.apply`.
    batch: image [B, H, W, 3], mask [B] bool, and label, [B] int32 or [B, K]
      integers with 1 for each class of the image and 0 elsewhere.
    model: a linen module with logits [B, K].
    loss: see `objectives.classification`.
    among: the classes that compete; None: all.

  Returns:
    int32 scalars: correct, correct_top5 (a label among the min(5, K) largest
    logits), count, skipped (rows without a label, which the former counts
    exclude), not_finite (rows with a NaN or infinity, skipped or not), and
    labelled (rows with a loss: those with a class of the model; for labels
    [B, K] the readable ones, or none if the loss is softmax); float32 scalar:
    loss, summed over the latter rows. If the batch has `truth` (see
    multi_label.py), also its rows of logits, truth and mask. If it has `place`
    (see each_image.py), also these rows of it, with predicted, probability and
    right [B].
  """
  label, mask = batch['label'], batch['mask']
  logits = logits_of(params, batch['image'], model=model)  # [B, K]
  finite = jnp.isfinite(logits).all(axis=-1)  # [B]
  competing = logits
  if among is not None:
    competes = np.zeros(logits.shape[-1], bool)
    competes[list(among)] = True
    competing = jnp.where(competes, logits, -jnp.inf)
  _, top = jax.lax.top_k(competing, min(TOP, logits.shape[-1]))  # [B, 5]
  if label.ndim == 2:
    right = jnp.take_along_axis(label, top, axis=-1) > 0  # [B, 5]
    counted = mask & (jnp.abs(label) == 1).any(axis=-1)  # [B]
  else:
    right, counted = top == label[:, None], mask
  losses, labelled = _losses(logits, label, mask, loss)
  hits = right & counted[:, None]  # [B, 5]
  rows = {}
  if 'truth' in batch:
    rows = {'logits': logits, 'truth': batch['truth'], 'mask': mask}
  if 'place' in batch:
    rows |= {name: batch[name] for name in ('place', 'own_label', 'readable')}
    rows |= {
      'counted': counted,
      'predicted': top[:, 0],
      'probability': _largest(competing, loss),
      'right': hits[:, 0],
    }
  return rows | {
    'correct': hits[:, 0].sum(),
    'correct_top5': hits.any(axis=-1).sum(),
    'count': counted.sum(),
    'skipped': (mask & ~counted).sum(),
    'not_finite': (mask & ~finite).sum(),
    'loss': losses.sum(where=labelled),
    'labelled': labelled.sum(),
  }


def _largest(logits, loss):
  """Returns the probability of the most probable class, [B]."""
  if loss == 'sigmoid':
    return jax.nn.sigmoid(logits.max(axis=-1))
  return jax.nn.softmax(logits, axis=-1).max(axis=-1)


def _losses(logits, label, mask, loss):
  """Returns the loss of each row, [B], and which rows have one."""
  if label.ndim == 2 and loss == 'sigmoid':
    losses = objectives.sigmoid_loss(logits, label.astype(jnp.float32))
    return losses, mask & (label >= 0).all(axis=-1)
  if label.ndim == 2:  # several classes, without a probability for each
    return jnp.zeros(mask.shape), jnp.zeros_like(mask)
  targets = objectives.probabilities(label, logits.shape[-1])
  losses = objectives.loss_per_example(loss)(logits, targets)
  return losses, mask & (label >= 0)


def evaluate(
  model: Any,
  params: Mapping[str, Any],
  batches: Iterable[dict[str, Any]],
  mesh: Mesh | None = None,
  *,
  num_examples: int | None = None,
  loss: str = LOSS,
  among: tuple[int, ...] | None = None,
  keep: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
  """Evaluates a classifier on batches of numpy arrays.

  A batch whose rows do not divide over the devices is padded with masked rows,
  so any batch size works on any number of devices.

  Args:
    model: a linen module with logits [B, K].
    params: its parameters, host or device arrays; they are not donated.
    batches: batches of this process, the same number in every process; image
      [B, H, W, 3] float32, label [B] int32 or [B, K] integers (see
      `eval_step`), mask [B] bool (all True if absent).
    mesh: the mesh that divides the examples; by default of all devices.
    num_examples: expected number of unmasked rows over all processes, including
      those without a label; None: not checked.
    loss: see `objectives.classification`.
    among: the classes that compete; None: all.
    keep: called with the rows of each batch (see `eval_step`) of all processes,
      with padding, if the batches have `truth` or `place`.

  Returns:
    dict of accuracy and top5_accuracy (fractions of num_examples, float),
    correct, correct_top5, num_examples and skipped (images without a label,
    not in num_examples), int, and loss: the mean over the images with a class
    of the model, float, or None if there is no such image.

  Raises:
    InputError: the number of images differs from `num_examples` or is 0; the
      logits are not [B, K] or not finite.
  """
  mesh = meshes.create_mesh() if mesh is None else mesh
  params = meshes.replicate(params, mesh)
  multiple = meshes.local_batch_multiple(mesh)
  step = compiled_step(model, mesh, loss, among)
  totals = dict.fromkeys(_SUMS, 0)
  pending = None  # fetched one step late, so that the devices never wait
  done = 0  # images of this process
  with waiting.doing('evaluating'):
    for batch in batches:
      num_rows = -(-len(batch['label']) // multiple) * multiple
      if pending is None:
        require_classifier(model, params, batch['image'])
      padded = batch_form.pad(batch, num_rows)
      sums = step(params, meshes.to_global(padded, mesh))
      _add(totals, pending, keep)
      pending = sums
      done += len(batch['label'])
      waiting.now_doing(f'evaluating: {done:,} images done')
    _add(totals, pending, keep)
  return _result(totals, num_examples)


def probabilities(
  model: Any, params: Mapping[str, Any], images: np.ndarray
) -> np.ndarray:
  """Returns the softmax of the logits over the classes.

  Args:
    model, params: see `evaluate`.
    images: [B, H, W, 3] float32.

  Returns:
    [B, K] float32 numpy array.

  Raises:
    InputError: the logits are not [B, K], or not finite.
  """
  require_classifier(model, params, images)
  logits = np.asarray(_compiled_logits(model)(params, images))
  if not np.isfinite(logits).all():
    raise InputError('the logits of the model are not finite')
  return np.asarray(jax.nn.softmax(logits, axis=-1))


@functools.lru_cache(maxsize=8)
def compiled_step(
  model: Any,
  mesh: Mesh,
  loss: str = LOSS,
  among: tuple[int, ...] | None = None,
) -> Callable[..., Any]:
  """Returns the jitted `eval_step` of a model: (params, batch) -> sums."""
  step = functools.partial(eval_step, model=model, loss=loss, among=among)
  step = dividing.divide_work(step, mesh)
  return jax.jit(step, out_shardings=meshes.replicated(mesh))


@dataclasses.dataclass(frozen=True)
class OneHead:
  """A distilled ViT with the logits of one of its heads (DeiT paper, Table 3).

  Fields:
    model: a `models.vit.ViT` with two heads, without dropout.
    head: 'class' or 'distillation'.
  """

  model: Any
  head: str

  @property
  def num_classes(self) -> int:
    """Returns the number of classes."""
    return self.model.num_classes

  def apply(
    self, variables: Mapping[str, Any], images: jax.Array, *, train: bool
  ) -> jax.Array:
    """Returns the head's logits [B, K] for images [B, H, W, 3]."""
    del train
    # With train=True the model returns the logits of both heads. As it has no
    # dropout, this is the only difference.
    logits = self.model.apply(variables, images, train=True)
    return logits[HEADS.index(self.head) - 1]


def pick_head(model: Any, head: str) -> Any:
  """Returns a model with the logits of the chosen head.

  Args:
    model: a linen module.
    head: one of `HEADS`. 'both' returns the model itself, whose logits are the
      mean of both heads.

  Raises:
    InputError: the head is unknown, or the model does not have two heads.
  """
  if head not in HEADS:
    raise InputError(f'unknown {head=}; choose from {list(HEADS)}')
  if head == 'both':
    return model
  if not (getattr(model, 'distilled', False) and model.distillation_head):
    raise InputError(
      f'head={head!r} is only for distilled models (DeiT) with two heads; use '
      'head=both'
    )
  without = dict(
    dropout_rate=0.0, attention_dropout_rate=0.0, stochastic_depth_rate=0.0
  )
  return OneHead(model.clone(**without), head)


def logits_of(
  params: Mapping[str, Any], images: jax.Array, *, model: Any
) -> jax.Array:
  """Returns the logits [B, K] of images [B, H, W, 3] in float32."""
  logits = model.apply({'params': params}, images, train=False)
  return logits.astype(jnp.float32)  # [B, K]


def require_classifier(
  model: Any, params: Mapping[str, Any], images: Any
) -> None:
  """Raises an InputError if the outputs of a model are not logits [B, K].

  Args:
    model, params: see `evaluate`.
    images: [B, H, W, 3], or their shape (jax.ShapeDtypeStruct).
  """
  # Only the first evaluation traces the model.
  logits = _compiled_logits(model).eval_shape(params, images)
  if logits.ndim != 2:
    raise InputError(
      f'the model gives outputs of shape {logits.shape[1:]} for an image '
      'instead of one number for each class; use a classifier that pools'
    )


@functools.lru_cache(maxsize=8)
def _compiled_logits(model):
  return jax.jit(functools.partial(logits_of, model=model))


def _add(totals, sums, keep):
  if sums is not None:
    for key in totals:
      totals[key] += sums[key].item()  # an int, or a float
    if keep is not None:
      keep(sums)


def _result(totals, num_examples):
  count, skipped = totals['count'], totals['skipped']
  seen = count + skipped
  if num_examples is not None and seen != num_examples:
    raise InputError(f'counted {seen} images instead of {num_examples}')
  if not count:
    without = f'; {skipped} have no label' if skipped else ''
    raise InputError(f'there was no image to evaluate{without}')
  if totals['not_finite']:
    raise NotFiniteError(
      f'the logits of {totals["not_finite"]} of {seen} images are not finite'
    )
  return {
    'accuracy': totals['correct'] / count,
    'top5_accuracy': totals['correct_top5'] / count,
    'correct': totals['correct'],
    'correct_top5': totals['correct_top5'],
    'num_examples': count,
    'skipped': skipped,
    'loss': totals['loss'] / totals['labelled'] if totals['labelled'] else None,
  }
