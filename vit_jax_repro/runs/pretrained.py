"""The published file and the parameters that a run starts from."""

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro import weights
from vit_jax_repro.data import class_matching, labels
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import buckets, files, weight_texts
from vit_jax_repro.output.messages import note
from vit_jax_repro.published import augreg, catalogue, weight_names
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.weights import model_card, positions


def pretrained_path(settings: Settings) -> str:
  """Returns the file or folder of the weights that a run starts from.

  `pretrained_dir` is a local folder of published files or a folder of the
  authors' bucket, in which the name of the model or `model_or_filename` is
  looked for, or one weights file by any text of published/weight_names.py.

  Args:
    settings: the settings of the run, with `pretrained_dir`.

  Raises:
    FileNotFoundError: the file does not exist.
    InputError: no name is given, or the index has no file of the AugReg model.
    OSError: the file cannot be fetched.
  """
  assert settings.pretrained_dir is not None
  folder = os.path.expanduser(settings.pretrained_dir)
  if not os.path.isdir(folder) and not _is_bucket_folder(folder):
    return _named(settings.pretrained_dir)
  name = settings.model_or_filename or settings.model.get('model_name')
  path = os.path.join(folder, f'{(name or "").removesuffix(".npz")}.npz')
  if not os.path.exists(path) and weight_names.holds_model(folder):
    return weight_names.find(folder)
  if name is None:
    raise InputError(
      'config.model.model_name is not set, so no file of config.pretrained_dir='
      f'{settings.pretrained_dir!r} is chosen; set config.model_or_filename'
    )
  if _is_bucket_folder(folder):
    return weight_names.find_in_bucket(folder, name)
  is_model = settings.model_or_filename and '-' not in name
  if is_model and not os.path.exists(path):
    name = best_augreg_file(folder, name).removesuffix('.npz')
    path = os.path.join(folder, f'{name}.npz')
  if not os.path.exists(path):
    raise FileNotFoundError(
      f'no weights file {path}; put it there (python -m vit_jax_repro.fetch '
      f'{_published_name(name)} --dir={folder}), or set '
      '--config.pretrained_dir to the folder that has it, or to a name of '
      '`fetch --list`'
    )
  return path


def _is_bucket_folder(text):
  return buckets.is_url(text) and not text.endswith('.npz')


def _named(text):
  """Returns the path of one file or repository by its name."""
  try:
    path = weight_names.find(text)
  except InputError as error:
    raise InputError(f'config.pretrained_dir: {error}') from None
  if not os.path.exists(weight_texts.split_base(path)[0]):
    raise FileNotFoundError(
      f'no weights file config.pretrained_dir={text}; check the path'
    )
  return path


def _published_name(name):
  """Returns a name that `fetch` knows: several files may have the last part."""
  pretrained = f'imagenet21k/{name.removesuffix(".npz")}'
  known = any(entry.name == pretrained for entry in catalogue.table())
  return pretrained if known else name


def fingerprint(settings: Settings) -> str | None:
  """Returns 16 hex digits of the contents of the files that a run starts from.

  Returns None for a run from fresh parameters. Returns None also for a missing
  file, because a continued run does not need it.
  """
  if not settings.pretrained_dir:
    return None
  try:
    paths = weight_names.files_in(pretrained_path(settings))
    found = [files.file_hash(path) for path in paths]
  except (OSError, InputError):  # it is gone, or cannot be fetched again
    return None
  if len(found) > 1:
    found = [hashlib.sha256('\n'.join(found).encode()).hexdigest()]
  return found[0][:16]


def best_augreg_file(folder: str, model: str) -> str:
  """Returns the ImageNet-21k file with the best upstream accuracy.

  This is the `final_val` in the index.csv of the AugReg bucket, as in
  vit_jax/train.py. A folder with only one such file needs no index.

  Args:
    folder: folder of the files and the index.
    model: AugReg name of the model, such as 'B_16'.

  Raises:
    FileNotFoundError: there is no index, and none or several files.
    InputError: the index has no such file.
  """
  index = os.path.join(folder, 'index.csv')
  start = f'{model}-i21k-'
  if os.path.exists(index):
    return augreg.ranked(augreg.read_index(index), model=model)[0].filename
  found = []
  if os.path.isdir(folder):
    found = [
      name
      for name in os.listdir(folder)
      if name.startswith(start) and '--' not in name and name.endswith('.npz')
    ]
  if len(found) == 1:
    return found[0]
  raise FileNotFoundError(
    f'{len(found)} files {start}*.npz and no index.csv in {folder}; get the '
    f'best: python -m vit_jax_repro.fetch --augreg --model={model} --best '
    f'--dir={folder}, or name one: --config.model_or_filename={start}...'
  )


def load(settings: Settings) -> model_card.DescribedWeights | None:
  """Reads the file that a run starts from; None for fresh parameters.

  The file of a PyTorch port is converted in memory.

  Raises:
    InputError: the file is no weights file.
    OSError: the file does not exist or cannot be read.
  """
  if not settings.pretrained_dir:
    return None
  path = pretrained_path(settings)
  return weight_names.load(
    weight_texts.averaged(path) if settings.pretrained_ema else path
  )


def parameters(
  settings: Settings,
  model: nn.Module,
  image_size: tuple[int, int],
  class_names: Sequence[str] | None,
  source: model_card.DescribedWeights | None,
) -> Any:
  """Returns a file's parameters, fitted to the task, or fresh ones.

  Position embeddings are resized from the image size in the file's card. A kept
  head keeps its rows of the data set's classes, which are found by name.

  The settings may shrink and perturb the parameters of a file. Then each value
  becomes shrink * value + perturb * fresh value, also in biases, norms and the
  head. Ash & Adams (arXiv:1910.08475, section 4) add normal noise of one
  deviation instead. Their code adds scaled fresh parameters, which is noise of
  the size of each layer's own initialisation. Shrinking the head has an effect
  only with `head='keep'`, because a reset head is zero.

  Args:
    settings: the settings of the run.
    model: the model of the run.
    image_size: (height, width) in pixels.
    class_names: the data set's classes; None if the outputs are no classes.
    source: result of `load`.

  Returns:
    A tree of host arrays.

  Raises:
    InputError: the file does not fit the model or the classes.
  """
  if source is None:
    return _fresh(settings, model, image_size)
  path = pretrained_path(settings)
  try:
    params = source.params
    if settings.head == 'keep' and class_names is not None:
      params = _with_classes(params, source, class_names, settings.labels)
    params = weights.adapt(
      params,
      model,
      image_size=image_size,
      source_image_size=source.card.image_size,
      head=settings.head,
    )
  except InputError as error:
    text = str(error)
    raise InputError(text if path in text else f'{path}: {text}') from error
  line = positions.note_on_slot(source.params, params)
  if line and not source.has_card:
    note(line)
  if settings.shrink == 1 and not settings.perturb:
    return params

  def mixed(old, new):
    value = settings.shrink * old + settings.perturb * new
    return value.astype(old.dtype)

  return jax.tree.map(mixed, params, _fresh(settings, model, image_size))


def _with_classes(params, source, class_names, how):
  """Returns parameters whose heads have the rows of the data set's classes."""
  heads = [name for name in ('head', 'head_dist') if name in params]
  if not heads:
    return params
  number = len(params[heads[0]]['bias'])
  names = source.card.class_names or labels.class_names_of(number)
  try:
    match = class_matching.rows(class_names, names, number, how=how)
  except InputError as error:
    raise InputError(f"config.head='keep': {error}") from None
  for line in match.notes('the data set'):
    note(line)
  rows = {
    name: {
      'kernel': params[name]['kernel'][:, match.labels],
      'bias': params[name]['bias'][match.labels],
    }
    for name in heads
  }
  return {**params, **rows}


def _fresh(settings, model, image_size):
  """Draws initial parameters, on the CPU if JAX may use it.

  So a seed gives the same parameters on every machine, and a GPU need not
  compile the program: one that was tried took half a minute for ViT-B/16.
  """
  if hasattr(model, 'attention'):
    model = model.clone(attention='plain')  # which runs everywhere
  try:
    [device, *_] = jax.local_devices(backend='cpu')
  except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
    device = None
  with jax.default_device(device):
    key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    images = jnp.zeros((1, *image_size, 3))
    return jax.device_get(_initializer(model)(key, images)['params'])


@functools.lru_cache(maxsize=8)  # runs of a study have few models
def _initializer(model):
  return jax.jit(model.init)
