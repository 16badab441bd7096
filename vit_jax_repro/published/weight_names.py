"""What `--weights` accepts, as a file on this machine or as parameters.

A text is, in this order: a path that exists; an address in the authors'
buckets or in another one; a published name, timm's or transformers' name; a
repository on the Hub (hf://USER/REPO, or USER/REPO). A text that ends in
`weight_texts.EMA` means the averaged weights of a training checkpoint, and
ADAPTER#base=BASE a PEFT adapter with the model that it changes. Files are
fetched into the cache folder of `files.cache_folder`. A repository that the
table of published files does not have keeps the constants of its own library,
as the folder of a port does.
"""

import functools
import os
import pathlib
import re
import time

from vit_jax_repro import weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, locations, locks, waiting, weight_texts
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import (
  configs,
  file_kinds,
  jax_checkpoints,
  peft_adapters,
  weight_sources,
)
from vit_jax_repro.published import (
  augreg,
  augreg_index,
  bucket_weights,
  catalogue,
  fetching,
  hub,
)
from vit_jax_repro.weights import model_card, part_index

_BUCKET = re.compile(r'(?:gs://|https?://storage\.googleapis\.com/)(.+)')
_WAIT = 1.0  # seconds between two looks at a file that another process fetches
_ENDING = re.compile(
  r'\.(npz|safetensors|pth|pt|pt2|bin|ckpt|msgpack|h5|keras|pb|onnx|stablehlo'
  r'|gguf|json|pkl|pickle|tar|zip|gz)$',
  re.IGNORECASE,
)


def find(text: str | os.PathLike) -> str:
  """Returns the path of weights; fetches a published file into the cache.

  A line on standard error reports what a name became. A path that does not
  exist is returned unchanged, for the error of whoever reads it. The endings
  of `weight_texts` are kept.

  Args:
    text: see the top of this file.

  Raises:
    InputError: nothing is published under this name; the message has the
      nearest names. Or a run has not written its model yet.
    NoSourceError: no source gives the file.
    OSError: the Hub does not answer, or the cache folder cannot be written.
  """
  text, ema = weight_texts.split(text)
  text, base = weight_texts.split_base(text)
  path = _found(text)
  if base is not None:
    path = weight_texts.on_base(path, _found(base))
  return path + (weight_texts.EMA if ema else '')


def _found(text):
  if bucket_weights.is_own(text):
    return bucket_weights.find(text)
  path = os.path.expanduser(text)
  if os.path.isdir(path):
    return _of_run(path)
  if os.path.exists(path):
    return path
  address = _BUCKET.fullmatch(text)
  if address:
    name = f'gs://{address[1]}'
  elif _is_path(text):
    return path
  elif locations.is_address(text) and not text.startswith(hub.PREFIXES):
    raise InputError(
      f'{text!r} cannot be fetched; give a file, a folder, a name of `fetch '
      '--list`, gs://BUCKET/PATH or hf://USER/REPO'
    )
  else:
    name = text.removeprefix(hub.PREFIX)
  try:
    entry = catalogue.find(name)
  except InputError as error:
    repository = None if address else hub.unpublished(text)
    if repository is None:
      raise InputError(f'no file or folder {text!r}; {error}') from None
    return _from_hub(repository)
  return _fetched(text, entry)


def files_of(text: str | os.PathLike) -> list[str]:
  """Returns the paths of weights and of the files that belong to them.

  No output of a command may replace them. Some may be missing. Nothing is
  fetched.

  Args:
    text: see the top of this file.
  """
  text, base = weight_texts.split_base(weight_texts.split(text)[0])
  if base is not None:
    return files_of(text) + files_of(base)
  path = os.path.expanduser(text)
  if not os.path.isdir(path):
    return [path, model_card.card_path(path)]
  names = (
    *bucket_weights.RUN_FILES,
    *file_kinds.FILES,
    file_kinds.ADAPTER,
    *file_kinds.ADAPTER_FILES,
  )
  return [os.path.join(path, name) for name in names]


def _is_path(text):
  """Returns whether a text can only be a path, though it does not exist."""
  first, _, rest = text.partition('/')
  return (
    _ENDING.search(text) is not None
    or locations.is_path(text)
    or bool(rest and os.path.isdir(first))
  )


def load(text: str | os.PathLike) -> model_card.DescribedWeights:
  """Reads weights of any kind, with their card.

  Args:
    text: see the top of this file. A port's file or folder is converted in
      memory.

  Raises:
    InputError, OSError: see `find`; or the file cannot be read.
  """
  path, ema = weight_texts.split(find(text))
  path, base = weight_texts.split_base(path)
  kind = file_kinds.kind_of(path)
  if kind == 'npz' and not ema and base is None:
    return model_card.load(path)
  with waiting.doing(f'converting {path}'):
    read = weight_sources.read(path, ema=ema, base=base)
  spec = weights.describe(read.params)
  note(f'{path}: read as {spec["model"]} from {file_kinds.NAMES[kind]}')
  return model_card.DescribedWeights(
    params=read.params,
    spec=spec,
    card=read.card,
    card_file=(_config_of(path) or path) if read.is_described else None,
  )


def on_disk(text: str | os.PathLike) -> str:
  """Returns a text, or the path of the copy if it is in another bucket."""
  text, _ = weight_texts.split_base(weight_texts.split(text)[0])
  return bucket_weights.find(text) if bucket_weights.is_own(text) else text


def holds_model(folder: str) -> bool:
  """Returns whether a folder is that of a run or of a library's model."""
  if bucket_weights.is_own(folder):
    return bucket_weights.holds_model(folder)
  names = (
    bucket_weights.MODEL,
    bucket_weights.RUN,
    *file_kinds.FILES,
    file_kinds.ADAPTER,
  )
  return any(
    os.path.exists(os.path.join(folder, name)) for name in names
  ) or file_kinds.is_checkpoint(folder)


def files_in(path: str) -> list[str]:
  """Returns the files whose contents tell weights from any others.

  They are a weights file itself, with the parts that it lists, or the list of
  the arrays of a checkpoint; for an adapter also its settings and its base.

  Args:
    path: result of `find`.

  Raises:
    InputError, OSError: a file is missing, or the base of an adapter.
  """
  path, base = weight_texts.split_base(weight_texts.split(path)[0])
  try:
    kind = file_kinds.kind_of(path)
  except InputError:  # whoever reads it names it
    return [path]
  if kind == 'peft':
    adapter = file_kinds.weights_in(path, file_kinds.ADAPTER_FILES) or path
    settings = os.path.join(path, file_kinds.ADAPTER)
    return [
      adapter, settings, *files_in(peft_adapters.find_base(path, base))
    ]  # fmt: skip
  if kind in jax_checkpoints.KINDS:
    path = jax_checkpoints.identity(path)
  elif kind == 'tensorflow':
    return file_kinds.tensorflow_files(path)
  elif os.path.isdir(path):
    path = file_kinds.weights_in(path) or path
  if kind != 'index' and not path.endswith('.index.json'):
    return [path]
  return [path, *map(str, part_index.paths(pathlib.Path(path)))]


def _config_of(path):
  """Returns the path of the config.json of weights, or the weights' own."""
  folder = weight_sources.config_folder(path)
  config = os.path.join(folder or '', configs.CONFIG)
  return config if folder is not None and os.path.exists(config) else path


def find_in_bucket(folder: str, name: str) -> str:
  """Fetches a file of a folder of a bucket; returns its path.

  Args:
    folder: such as 'gs://vit_models/imagenet21k'.
    name: of the file, with or without '.npz'; or in AugReg's folder a model
      such as 'B_16', of which the best ImageNet-21k file is taken.

  Raises:
    InputError, OSError: see `find`.
  """
  return _in_bucket(
    folder.rstrip('/'), name.removesuffix('.npz'), files.cache_folder('weights')
  )


@functools.cache  # a run asks several times
def _in_bucket(folder, name, cache):
  if folder.endswith('/augreg') and '-' not in name:
    rows = augreg_index.rows(cache / 'augreg', adapted=False)
    best = augreg.ranked(
      (row for row in rows if row.filename.startswith(f'{name}-i21k')),
      model=name,
    )[0]
    note(f'{name}: the best ImageNet-21k file is {best.filename}')
    name = best.filename.removesuffix('.npz')
  return find(f'{folder}/{name}.npz')


def _of_run(folder):
  """Returns the model of a run's folder, and any other folder unchanged."""
  model = os.path.join(folder, bucket_weights.MODEL)
  if os.path.exists(model):
    return model
  if os.path.exists(os.path.join(folder, bucket_weights.RUN)):
    checkpoints = os.path.join(folder, 'checkpoints')
    newest = os.path.isdir(checkpoints) and file_kinds.newest_step(checkpoints)
    raise InputError(
      f'{folder} holds a run that has not written {bucket_weights.MODEL} yet; '
      'repeat its command to finish it'
      + (f', or give its newest checkpoint, {newest}' if newest else '')
    )
  return folder


def _fetched(text, entry):
  folder = files.cache_folder('weights', os.path.dirname(entry.name))
  found = _in_turn(entry.name, fetching.fetch, entry, folder)
  what = 'from the cache' if found.was_there else f'fetched from {found.source}'
  note(f'{text}: {found.file}, {what}')
  return found.file


def _from_hub(repository):
  folder = _in_turn(repository, hub.download_repository, repository)
  note(f'{repository}: {folder}, from the Hub')
  return folder


def _in_turn(name, fetch, *arguments):
  """Calls `fetch` when no other process of a job fetches the same file."""
  while True:
    try:
      with waiting.doing(f'fetching {name}'):
        return fetch(*arguments)
    except locks.InUseError as error:
      with waiting.doing(f'{error}'):
        time.sleep(_WAIT)
