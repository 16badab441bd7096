"""Few-shot linear evaluation: least squares on the features of a frozen model.

The ViT paper (arXiv:2010.11929, section 4.1) maps the representation of a few
training images to targets in {-1, 1}^K by regularised least squares, which has
a closed form. Details that the paper omits are taken from the authors' code,
google-research/big_vision, evaluators/fewshot_lsr.py: each feature is whitened
separately, a large constant feature serves as the bias, and the prediction is
the class with the largest output.

Shapes: N images, D features (including the constant), K classes.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.sharding import Mesh

from vit_jax_repro.data import batches as batch_form
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import waiting
from vit_jax_repro.parallel import mesh as meshes

# Constants of big_vision's fewshot_lsr.py and configs/common_fewshot.py.
# The constant feature. It is large, so that l2 hardly restricts the bias.
BIAS = 100.0
STD_FLOOR = 1e-5  # added to the deviation by which a feature is divided
L2 = 2.0**10
SHOTS = (1, 5, 10, 25)
SEEDS = 3

_ROWS = 4096  # images that are predicted at a time; limits float64 memory


@dataclasses.dataclass(frozen=True)
class Head:
  """A linear classifier of features."""

  mean: np.ndarray  # [D - 1] float64, of the training images
  scale: np.ndarray  # [D - 1] float64, their deviation and STD_FLOOR
  weights: np.ndarray  # [D, K] float64, the constant's row last

  def predict(self, features: np.ndarray) -> np.ndarray:
    """Returns the classes [N] with the largest output for features [N, D - 1].

    If two classes have equal outputs, the first one counts.
    """
    parts = (
      features[start : start + _ROWS]
      for start in range(0, len(features), _ROWS)
    )
    found = [
      (_whitened(part, self.mean, self.scale) @ self.weights).argmax(axis=1)
      for part in parts
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def fit(
  features: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  l2: float = L2,
) -> Head:
  """Fits a linear classifier to the features of a few images, in float64.

  Args:
    features: [N, D - 1] floats.
    labels: [N] integers in 0..num_classes - 1.
    num_classes: K; the targets of a class without an image are all -1.
    l2: factor of the squared weights in the loss, including the constant's.

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


def solve(x: np.ndarray, y: np.ndarray, l2: float) -> np.ndarray:
  """Returns the w that minimises |x w - y|^2 + l2 |w|^2.

  The solution has two equivalent forms. The one with the smaller matrix is
  used: (x'x + l2)^-1 x'y if N >= D, else x'(x x' + l2)^-1 y.

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


def features(
  model: Any,
  params: Mapping[str, Any],
  batches: Iterable[dict[str, Any]],
  mesh: Mesh | None = None,
  *,
  num_examples: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features of images: a frozen model's output before its head.

  For a ViT or a hybrid this is the pooled token, after the tanh layer if there
  is one; with the classifier `token_and_gap` the class token and the mean of
  the patches, concatenated; for a BiT or a Mixer the mean over positions; for a
  distilled DeiT both of its tokens, concatenated. Batches are divided over the
  devices as in `classify.evaluate`.

  Args:
    model: a linen module with a field `num_classes`.
    params: its parameters, host or device arrays; those of a head are unused.
    batches: batches of this process, the same number in every process; image
      [B, H, W, 3] float32, label [B] int32, mask [B] bool (all True if absent).
    mesh: the mesh that divides the examples; by default of all devices.
    num_examples: expected number of unmasked rows over all processes; None: not
      checked.

  Returns:
    [N, D - 1] float32 features and [N] int32 labels of all processes, in every
    process; their order depends on the number of processes.

  Raises:
    InputError: the number of images differs from `num_examples` or is 0; the
      model does not pool; a feature is not finite.
  """
  mesh = meshes.create_mesh() if mesh is None else mesh
  model = model.clone(num_classes=None)
  params = {k: v for k, v in params.items() if k not in ('head', 'head_dist')}
  params = meshes.replicate(params, mesh)
  multiple = meshes.local_batch_multiple(mesh)
  step = _compiled(model, mesh)
  found, pending = [], None  # fetched one step late, as in `classify`
  done = 0  # images of this process
  with waiting.doing('computing features'):
    for batch in batches:
      num_rows = -(-len(batch['label']) // multiple) * multiple
      if pending is None:
        _require_pooling(model, params, batch['image'])
      padded = batch_form.pad(batch, num_rows)
      result = step(params, meshes.to_global(padded, mesh))
      found += _rows(pending)
      pending = result
      done += len(batch['label'])
      waiting.now_doing(f'computing features: {done:,} images done')
    found += _rows(pending)
  number = sum(len(labels) for _, labels in found)
  if num_examples is not None and number != num_examples:
    raise InputError(f'read {number} images instead of {num_examples}')
  if not number:
    raise InputError('there was no image to compute features of')
  values, labels = map(np.concatenate, zip(*found, strict=True))
  finite = np.isfinite(values).all(axis=1)
  if not finite.all():
    raise InputError(
      f'the features of {(~finite).sum()} of {number} images are not finite'
    )
  return values, labels


def feature_step(
  params: Mapping[str, Any], batch: Mapping[str, Any], *, model: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns (features [B, D - 1] float32, labels, mask) of a batch."""
  values = _features(params, batch['image'], model=model)
  return values, batch['label'], batch['mask']


def _features(params, images, *, model):
  values = model.apply({'params': params}, images, train=False)
  if values.ndim == 3 and getattr(model, 'distilled', False):
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
  """Returns [(features, labels)] of a step's output without padding rows."""
  if result is None:
    return []
  values, labels, mask = (np.asarray(array) for array in result)
  return [(values[mask], labels[mask])]


def _whitened(features, mean, scale):  # [N, D - 1] -> [N, D]
  white = (features.astype(np.float64) - mean) / scale
  return np.pad(white, ((0, 0), (0, 1)), constant_values=BIAS)
