"""Few-shot linear evaluation: least squares on the features of a frozen model.

The ViT paper (arXiv:2010.11929, section 4.1) maps the representation of a few
training images to targets in {-1, 1}^K by regularised least squares, which has
a closed form. What the paper leaves open is as in the authors' code,
google-research/big_vision, evaluators/fewshot_lsr.py: features are whitened
one by one, a large constant stands for the bias, and the class with the
largest output is the prediction.

Shapes: N images, D features (the constant included), K classes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from vit_jax_repro.data import batches as batch_form
from vit_jax_repro.errors import InputError
from vit_jax_repro.parallel import mesh as meshes

# Constants of fewshot_lsr.py and of configs/common_fewshot.py there.
BIAS = 100.0  # the constant feature; so large that its weight is nearly free
STD_FLOOR = 1e-5  # added to the deviation that a feature is divided by
L2 = 2.0**10
SHOTS = (1, 5, 10, 25)
SEEDS = 3

_ROWS = 4096  # images that are predicted at a time, in float64


@dataclasses.dataclass(frozen=True)
class Head:
  """A linear classifier of features."""

  mean: np.ndarray  # [D - 1] float64, of the training images
  scale: np.ndarray  # [D - 1] float64, their deviation and STD_FLOOR
  weights: np.ndarray  # [D, K] float64, those of the constant last

  def predict(self, features):  # [N, D - 1] -> [N] classes
    """The class with the largest output, the first of equal ones."""
    parts = (
      features[start : start + _ROWS]
      for start in range(0, len(features), _ROWS)
    )
    found = [
      (_whitened(part, self.mean, self.scale) @ self.weights).argmax(axis=1)
      for part in parts
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def fit(features, labels, num_classes, *, l2=L2):
  """The head that a few images give; computed in float64.

  Args:
    features: [N, D - 1] floats.
    labels: [N] integers in 0..num_classes - 1.
    num_classes: K; the targets of a class without an image are all -1.
    l2: what the squared weights are multiplied by, that of the constant's too.

  Returns:
    Head.

  Raises:
    InputError: there is no image, a feature is not finite, or l2 is not
      positive.
  """
  if not l2 > 0:
    raise InputError(f'{l2=} must be a positive number')
  if not len(features):
    raise InputError('there is no image to learn from')
  if not np.isfinite(features).all():
    raise InputError('the features are not finite')
  features = np.asarray(features, np.float64)
  mean, scale = features.mean(axis=0), features.std(axis=0) + STD_FLOOR
  targets = np.where(np.arange(num_classes) == labels[:, None], 1.0, -1.0)
  return Head(mean, scale, solve(_whitened(features, mean, scale), targets, l2))


def solve(x, y, l2):
  """The w that makes |x w - y|^2 + l2 |w|^2 smallest.

  Of the two forms of the same solution the one with the smaller matrix is
  taken: (x'x + l2)^-1 x'y where N >= D, else x'(x x' + l2)^-1 y.

  Args:
    x: [N, D] float64.
    y: [N, K] float64.
    l2: a positive number.

  Returns:
    [D, K] float64.
  """
  num_rows, num_columns = x.shape
  solved = functools.partial(scipy.linalg.solve, assume_a='pos')
  if num_rows >= num_columns:
    return solved(x.T @ x + l2 * np.eye(num_columns), x.T @ y)
  return x.T @ solved(x @ x.T + l2 * np.eye(num_rows), y)


def features(model, params, batches, mesh=None, *, num_examples=None):
  """What a frozen model says of images before its head.

  Of a ViT or a hybrid that is the pooled token, behind the tanh layer where
  there is one; of a BiT and a Mixer the mean over places; of a distilled DeiT
  both of its tokens side by side. Batches are divided over the devices as in
  `classify.evaluate`.

  Args:
    model: a linen module with a field `num_classes`.
    params: its parameters, host or device arrays; those of a head are unused.
    batches: this process's batches, as many in every process; image
      [B, H, W, 3] float32, label [B] int32, mask [B] bool (all True if left
      out).
    mesh: all devices, examples divided, by default.
    num_examples: how many unmasked rows there must be over all processes.

  Returns:
    [N, D - 1] float32 features and [N] int32 labels of all processes, in every
    process; their order depends on the number of processes.

  Raises:
    InputError: another number of images, or none; a model that does not pool;
      features that are not finite.
  """
  mesh = meshes.create_mesh() if mesh is None else mesh
  model = model.clone(num_classes=None)
  params = {k: v for k, v in params.items() if k not in ('head', 'head_dist')}
  params = meshes.replicate(params, mesh)
  multiple = meshes.local_batch_multiple(mesh)
  step = _compiled(model, mesh)
  found, pending = [], None  # fetched one step late, as in `classify`
  for batch in batches:
    num_rows = -(-len(batch['label']) // multiple) * multiple
    if pending is None:
      _require_pooling(model, params, batch['image'])
    padded = batch_form.pad(batch, num_rows)
    result = step(params, meshes.to_global(padded, mesh))
    found += _rows(pending)
    pending = result
  found += _rows(pending)
  number = sum(len(labels) for _, labels in found)
  if num_examples is not None and number != num_examples:
    raise InputError(f'read {number} images instead of {num_examples}')
  if not number:
    raise InputError('there was no image to take features of')
  values, labels = map(np.concatenate, zip(*found, strict=True))
  finite = np.isfinite(values).all(axis=1)
  if not finite.all():
    raise InputError(
      f'the features of {(~finite).sum()} of {number} images are not finite'
    )
  return values, labels


def feature_step(params, batch, *, model):
  """(features [B, D - 1] float32, labels, mask) of a batch."""
  values = _features(params, batch['image'], model=model)
  return values, batch['label'], batch['mask']


def _features(params, images, *, model):
  values = model.apply({'params': params}, images, train=False)
  if getattr(model, 'distilled', False):
    values = values.reshape(values.shape[0], -1)  # [B, 2, C] -> [B, 2 C]
  return values.astype(jnp.float32)


def _require_pooling(model, params, images):
  shape = jax.eval_shape(
    functools.partial(_features, model=model), params, images
  ).shape
  if len(shape) != 2:
    raise InputError(
      f'the model gives features of shape {shape[1:]} for an image instead of '
      'one vector; use a classifier that pools'
    )


@functools.lru_cache(maxsize=8)
def _compiled(model, mesh):
  step = functools.partial(feature_step, model=model)
  return jax.jit(step, out_shardings=meshes.replicated(mesh))


def _rows(result):
  """[(features, labels)] of what a step gave, without what only fills up."""
  if result is None:
    return []
  values, labels, mask = (np.asarray(array) for array in result)
  return [(values[mask], labels[mask])]


def _whitened(features, mean, scale):  # [N, D - 1] -> [N, D]
  white = (features.astype(np.float64) - mean) / scale
  return np.pad(white, ((0, 0), (0, 1)), constant_values=BIAS)
