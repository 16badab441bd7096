"""What `--weights` accepts, as a file on this machine or as parameters.

A text is, in this order: a path that exists; an address in the authors'
bucket; a published name, timm's or transformers' name, or a repository on the
Hub. Published files are fetched into the cache folder of `files.cache_folder`.
"""

import functools
import os
import re

from vit_jax_repro import weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import state_dicts, weight_sources
from vit_jax_repro.published import augreg, augreg_index, catalogue, fetching
from vit_jax_repro.weights import model_card

_MODEL = 'model.npz'  # of a finished run
_RUN = 'manifest.json'  # only the folder of a run has it
_BUCKET = re.compile(r'(?:gs://|https?://storage\.googleapis\.com/)(.+)')
_ENDING = re.compile(
  r'\.(npz|safetensors|pth|pt|bin|ckpt|msgpack|h5|onnx)$', re.IGNORECASE
)


def find(text: str | os.PathLike) -> str:
  """Returns the path of weights; fetches a published file into the cache.

  A line on standard error reports what a name became. A path that does not
  exist is returned unchanged, for the error of whoever reads it.

  Args:
    text: see the top of this file.

  Raises:
    InputError: nothing is published under this name; the message has the
      nearest names. Or a run has not written its model yet.
    NoSourceError: no source gives the file.
    OSError: the cache folder cannot be written.
  """
  text = os.fspath(text)
  path = os.path.expanduser(text)
  if os.path.isdir(path):
    return _of_run(path)
  if os.path.exists(path):
    return path
  address = _BUCKET.fullmatch(text)
  if address:
    name = f'gs://{address[1]}'
  elif _ENDING.search(text) or text.startswith(('.', '/', '~', '\\')):
    return path
  else:
    name = text.removeprefix('hf://')
  return _fetched(text, catalogue.find(name))


def load(text: str | os.PathLike) -> model_card.DescribedWeights:
  """Reads weights of any kind, with their card.

  Args:
    text: see the top of this file. A port's file or folder is converted in
      memory.

  Raises:
    InputError, OSError: see `find`; or the file cannot be read.
  """
  path = find(text)
  if not state_dicts.is_port(path):
    return model_card.load(path)
  with waiting.doing(f'converting {path}'):
    read = weight_sources.read(path)
  note(f'{path}: read as {read.card.architecture["model"]} of a PyTorch port')
  return model_card.DescribedWeights(
    params=read.params,
    spec=weights.describe(read.params),
    card=read.card,
    has_card=read.is_described,
  )


def find_in_bucket(folder: str, name: str) -> str:
  """Fetches a file of a folder of the authors' bucket; returns its path.

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
  model = os.path.join(folder, _MODEL)
  if os.path.exists(model):
    return model
  if os.path.exists(os.path.join(folder, _RUN)):
    raise InputError(
      f'{folder} holds a run that has not written {_MODEL} yet; repeat its '
      'command to finish it'
    )
  return folder


def _fetched(text, entry):
  folder = files.cache_folder('weights', os.path.dirname(entry.name))
  with waiting.doing(f'fetching {entry.name}'):
    found = fetching.fetch(entry, folder)
  what = 'from the cache' if found.was_there else f'fetched from {found.source}'
  note(f'{text}: {found.file}, {what}')
  return found.file
