"""Attention, positions and filters of a weights file as arrays, for `figures`.

The argument `path` is the path of a weights file. All functions but `filters`
pass further keywords to `restoring.restore`: `model`, `image_size` and
`preprocessing`. Errors are InputErrors and OSErrors with one-line messages.

Shapes: B images, H W pixels, (h, w) grid of patches, L layers, A heads.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax_repro import models, weights
from vit_jax_repro.analysis import attention, embeddings, saved_results
from vit_jax_repro.data import preprocess
from vit_jax_repro.errors import InputError, line_of
from vit_jax_repro.inference import restoring
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note_unapplied
from vit_jax_repro.output.unreadable import Unreadable
from vit_jax_repro.published import weight_names

# Data sets whose images are equal in red, green and blue.
GREY_DATASETS = ('digits', 'emnist', 'fashion_mnist', 'kmnist', 'mnist')


@dataclasses.dataclass(frozen=True)
class Rollouts:
  """Attention rollout from one query token to the patches."""

  model: str
  token: str  # 'the class token', ...
  combined: str  # a key of `attention.COMBINED`
  names: tuple[str, ...]  # names of the images
  images: np.ndarray  # [B, H, W, 3] in [0, 1], as preprocessed for the model
  maps: np.ndarray  # [B, h, w], parts of 1
  patch: tuple[int, int]  # pixels between adjacent patches: down, right
  source: str = ''  # name of the weights file, or 'untrained'

  @property
  def image_size(self) -> tuple[int, int]:
    """Returns H and W."""
    return self.images.shape[1:3]


@dataclasses.dataclass(frozen=True)
class HeadMaps:
  """Attention weights of heads from one query token to the patches."""

  model: str
  token: str
  layers: tuple[int, ...]
  heads: tuple[int, ...]
  names: tuple[str, ...]
  images: np.ndarray  # [B, H, W, 3] in [0, 1]
  maps: np.ndarray  # [B, layers, heads, h, w], parts of 1
  patch: tuple[int, int]  # pixels between adjacent patches: down, right


@dataclasses.dataclass(frozen=True)
class Distances:
  """Mean attention distance, see `attention.mean_distance`."""

  model: str
  image_size: tuple[int, int]
  patch: tuple[int, int]  # pixels between adjacent patches: down, right
  even: float  # pixels; distance of uniform attention to all patches
  distances: np.ndarray  # [B, L, A], pixels
  source: str = ''  # name of the weights file, or 'untrained'


@dataclasses.dataclass(frozen=True)
class PositionSimilarity:
  """Cosine similarity of position embeddings."""

  model: str
  similarity: np.ndarray  # [h, w, h, w]
  source: str = ''  # name of the weights file, or 'untrained'


@dataclasses.dataclass(frozen=True)
class Filters:
  """Principal components of the filters of the first layer."""

  model: str
  components: np.ndarray  # [n, p, q, 3], or [n, p, q, 1] if `grey`
  shares: np.ndarray  # [n], parts of the variance
  grey: bool = False  # summed over red, green and blue
  source: str = ''  # name of the weights file, or 'untrained'


def rollouts(
  path: str | os.PathLike,
  images: Sequence[str | os.PathLike] | np.ndarray,
  *,
  token: str | tuple[int, int] | None = None,
  combined: str = 'mean',
  unreadable: Unreadable | None = None,
  untrained: bool = False,
  **reading: Any,
) -> Rollouts:
  """Returns attention rollout for each image.

  Args:
    path: path of a weights file.
    images: paths, or an array [B, H, W, 3] of preprocessed images.
    token: see `AttentionMaps.seen_from`; by default the class token, or the
      average over patches if there is no class token.
    combined: see `attention.rollout`.
    unreadable: gets the images that cannot be read, which are left out; None:
      such an image raises an InputError or OSError.
    untrained: replaces the weights by random ones, as training begins.
    **reading: keywords of `restoring.restore`.
  """
  restored = _restore(path, images, reading, unreadable, untrained)
  token = _token(restored, token)
  names, shown, maps = [], [], []
  for name, image, seen in _attend(restored, images, unreadable):
    names.append(name)
    shown.append(_shown(image, restored))
    mixed = attention.rollout(seen.weights, combined=combined)
    maps.append(seen.seen_from(mixed, token))
  return Rollouts(
    _called_model(restored.model),
    _called(token),
    combined,
    tuple(names),
    np.stack(shown),
    np.stack(maps),
    seen.patch,
    _source(path, untrained),
  )


def head_maps(
  path: str | os.PathLike,
  images: Sequence[str | os.PathLike] | np.ndarray,
  *,
  layers: Sequence[int] | None = None,
  heads: Sequence[int] | None = None,
  token: str | tuple[int, int] | None = None,
  unreadable: Unreadable | None = None,
  **reading: Any,
) -> HeadMaps:
  """Returns attention weights of layers and heads for each image.

  Args:
    path: path of a weights file.
    images: see `rollouts`.
    layers: indices of layers; None for all.
    heads: indices of heads; None for all.
    token, unreadable: see `rollouts`.
    **reading: keywords of `restoring.restore`.
  """
  restored = _restore(path, images, reading, unreadable)
  attention.require_vit(restored.model)
  token = _token(restored, token)
  layers = _numbers('layer', layers, restored.model.num_layers)
  heads = _numbers('head', heads, restored.model.num_heads)
  names, shown, maps = [], [], []
  for name, image, seen in _attend(restored, images, unreadable):
    names.append(name)
    shown.append(_shown(image, restored))
    maps.append(seen.seen_from(seen.weights[list(layers)][:, heads], token))
  return HeadMaps(
    _called_model(restored.model),
    _called(token),
    layers,
    heads,
    tuple(names),
    np.stack(shown),
    np.stack(maps),
    seen.patch,
  )


def distances(
  path: str | os.PathLike,
  images: Sequence[str | os.PathLike] | np.ndarray,
  *,
  unreadable: Unreadable | None = None,
  untrained: bool = False,
  **reading: Any,
) -> Distances:
  """Returns the mean attention distance of each layer, head and image.

  For the arguments see `rollouts`.
  """
  restored = _restore(path, images, reading, unreadable, untrained)
  found = []
  for _, _, seen in _attend(restored, images, unreadable):
    found.append(attention.mean_distance(seen))
  return Distances(
    _called_model(restored.model),
    restored.image_size,
    seen.patch,
    attention.patch_distances(seen.grid, seen.patch).mean(),
    np.stack(found),
    _source(path, untrained),
  )


def positions(
  path: str | os.PathLike,
  *,
  layer: int = 0,
  untrained: bool = False,
  **reading: Any,
) -> PositionSimilarity:
  """Returns cosine similarities of the position embeddings.

  Args:
    path: path of a weights file.
    layer: the layer, for a model with embeddings in every layer.
    untrained: see `rollouts`.
    **reading: keywords of `restoring.restore`.
  """
  restored = restoring.restore(path, **reading)
  model, params = restored.model, restored.params
  attention.require_vit(model)
  if untrained:
    params = _random(model, restored.image_size)
  grid = attention.grid_of(model, params, restored.image_size)
  table = embeddings.position_table(model, params, grid, layer)
  return PositionSimilarity(
    _called_model(model),
    embeddings.similarity(table),
    _source(path, untrained),
  )


def filters(
  path: str | os.PathLike,
  *,
  number: int = 28,
  grey: bool | None = None,
  untrained: bool = False,
) -> Filters:
  """Returns at most `number` principal components of the first filters.

  Args:
    path: path of a weights file.
    number: largest number of components.
    grey: whether the filters are summed over red, green and blue, which is all
      that a grey image meets; None: if the run's config.json, next to the file,
      names one of `GREY_DATASETS`.
    untrained: see `rollouts`.
  """
  params = weight_names.load(path).params
  model = models.create(weights.describe(params))
  if untrained:
    params = _random(model, (224, 224))
  if grey is None:
    dataset = saved_results.dataset_of(_workdir(path))
    grey = dataset.split(':')[0] in GREY_DATASETS
  try:
    kernel = embeddings.rgb_filters(params)
    if grey:
      kernel = kernel.sum(axis=2, keepdims=True)
    components, shares = embeddings.principal_components(kernel, number)
  except InputError as error:
    raise InputError(f'{path}: {error}') from None
  return Filters(
    _called_model(model), components, shares, grey, _source(path, untrained)
  )


def _random(model, image_size):
  """Returns random parameters of a model, as at the start of training."""
  image = np.zeros((1, *image_size, 3), np.float32)
  return jax.jit(model.init)(jax.random.key(0), image)['params']


def _workdir(path):
  """Returns the folder of a weights file, or the folder that was given."""
  path = os.fspath(path)
  return path if os.path.isdir(path) else os.path.dirname(path)


def _source(path, untrained):
  """Returns the name of a weights file for titles; of a run, its workdir's."""
  if untrained:
    return 'untrained'
  path = os.path.abspath(path)
  if os.path.basename(path) == 'model.npz':
    path = os.path.dirname(path)
  return os.path.basename(path)


def _restore(path, images, reading, unreadable, untrained=False):
  if not len(images):
    raise InputError('no image; give at least one path')
  if isinstance(images, np.ndarray):
    reading = dict(image_size=images.shape[1:3]) | reading
  elif unreadable is None:
    for image in images:
      if not os.path.exists(image):
        raise FileNotFoundError(f'no such image: {image}')
      if os.path.isdir(image):
        raise IsADirectoryError(
          f'{image} is a folder; give the image files in it'
        )
  restored = restoring.restore(path, **reading)
  if not isinstance(images, np.ndarray):
    preprocess.require_decoder(restored.preprocessing)
  if untrained:
    params = _random(restored.model, restored.image_size)
    restored = dataclasses.replace(restored, params=params)
  return restored


def _attend(restored, images, unreadable) -> Iterator:
  """Yields the name of each image, the preprocessed image and its attention."""
  params, turned = jax.device_put(restored.params), set()
  for number, image in enumerate(images):
    with waiting.doing(f'computing the attention of image {number + 1}'):
      if isinstance(image, np.ndarray):
        name, pixels = f'image {number}', image
      else:
        name = os.path.basename(image)
        pixels = _read(restored, image, turned, unreadable)
        if pixels is None:
          continue
      maps = attention.attention_maps(restored.model, params, pixels)
    yield name, pixels, maps
  note_unapplied(turned)
  if unreadable is not None:
    unreadable.require_some()


def _read(restored, path, turned, unreadable):
  """Returns an image; None if it cannot be read and `unreadable` is given."""
  try:
    if not os.path.exists(path):
      raise FileNotFoundError(f'no such image: {path}')
    return restored.read_image(path, turned)
  except (InputError, OSError) as error:
    if unreadable is None:
      raise
    unreadable.add(line_of(error))
    return None


def _shown(image, restored):
  """Returns a preprocessed image as RGB values [H, W, 3] in [0, 1]."""
  read = preprocess.pick_preprocessing(restored.preprocessing)
  pixels = image * np.asarray(read.std) + np.asarray(read.mean)
  return np.clip(pixels / 255, 0, 1).astype(np.float32)


def _token(restored, token):
  if token is not None:
    return token
  return 'class' if 'cls' in restored.params else 'mean'


def _called_model(model):
  """Returns the published name of a model, else the name of its class."""
  return models.name_of(model) or type(model).__name__


def _called(token):
  if token in ('class', 'mean'):
    return {'class': 'the class token', 'mean': 'all patches'}[token]
  return f'the patch in row {token[0]}, column {token[1]}'


def _numbers(what, wanted, number):
  wanted = tuple(range(number) if wanted is None else wanted)
  for each in wanted:
    if not 0 <= each < number:
      raise InputError(
        f'there is no {what} {each}; the model has {what}s 0 to {number - 1}'
      )
  return wanted
