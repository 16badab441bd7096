"""Which published file weights are, or were trained from, for a model card."""

import dataclasses
import os
import re

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import buckets
from vit_jax_repro.ports import hub_card
from vit_jax_repro.published import catalogue

# Of google-research/vision_transformer and big_transfer, facebookresearch/deit,
# and timm's cards on the Hub.
LICENSE = 'apache-2.0'
_SMALL, _LARGE = 'imagenet-1k', 'imagenet-21k'  # names on the Hub
# Parts of the paths of files that were pre-trained on ImageNet-21k.
_LARGE_MARKS = ('21k', 'BiT-M', 'R152x2_T')
_ADAPTED = re.compile(r'--(?P<dataset>.+)-steps_')  # AugReg's fine-tuned files
_REPOSITORY = re.compile(r'(?:hf://)?([\w-][\w.-]*/[\w-][\w.-]*)')


def find(text: str, path: str, library: str) -> hub_card.Origin:
  """Returns the origin of weights, as far as it is known.

  Args:
    text: what the user named, see `weight_names.find`.
    path: the file or folder that this text means.
    library: 'timm' or 'transformers'; its copy on the Hub is preferred.
  """
  origin = hub_card.read_origin(path)
  if origin.run is not None:
    start = _start(origin.run.config)
    base = _of_file(start) if start else None
    name = None if base is None else _on_hub(base, library)
    return dataclasses.replace(origin, base_model=name)
  if os.path.exists(os.path.expanduser(text)):
    entry = _of_file(path)
  else:
    entry = _of_name(text.removeprefix('hf://'))
    repository = _REPOSITORY.fullmatch(text)
    if entry is None and repository:
      return hub_card.Origin(base_model=repository[1])
  if entry is None:
    return hub_card.Origin()
  return hub_card.Origin(_on_hub(entry, library), _datasets(entry), LICENSE)


def _start(config):
  """Returns the path or address of the file that a run started from, or ''."""
  folder = config.get('pretrained_dir') or ''
  if not folder or folder.endswith('.npz'):
    return folder
  model = config.get('model') or {}
  name = config.get('model_or_filename') or model.get('model_name') or ''
  return f'{folder.rstrip("/")}/{name.removesuffix(".npz")}.npz'


def _of_file(path):
  """Returns the table's row of a file, by its name and folder or size."""
  if buckets.is_url(path):
    return _of_name(path)
  path = os.path.abspath(os.path.expanduser(path))
  size = os.path.getsize(path) if os.path.isfile(path) else None
  folder, name = os.path.split(path)
  found = [
    entry
    for entry in catalogue.table()
    if entry.file_name == name
    and (
      size in entry.sizes
      or entry.name == f'{os.path.basename(folder)}/{name[:-4]}'
    )
  ]
  if len(found) == 1:
    return found[0]
  # The names of AugReg's files have all their settings.
  return _of_name(name) if '-lr_' in name else None


def _of_name(name):
  try:
    entry = catalogue.find(name)
  except InputError:
    return None
  return entry if entry.num_classes is not None or entry.model else None


def _on_hub(entry, library):
  own, other = entry.timm, entry.transformers
  if library != 'timm':
    own, other = other, own
  return own or other or None


def _datasets(entry):
  is_large = any(mark in entry.path for mark in _LARGE_MARKS)
  found = [_LARGE] if is_large else []
  adapted = _ADAPTED.search(entry.path)
  if adapted and adapted['dataset'] != 'imagenet2012':
    return (*(found or [_SMALL]), adapted['dataset'])
  if entry.num_classes == 1000 or not is_large:
    found.insert(0, _SMALL)
  return tuple(found)
