"""Which published file a run starts from."""

import os

from vit_jax_repro.published import augreg, parts
from vit_jax_repro.runs.settings import Settings


def pretrained_path(settings: Settings) -> str:
  """The published file that a run starts from.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: no name is given, or no file of that AugReg model is listed.
  """
  folder = os.path.expanduser(settings.pretrained_dir)
  if '://' in folder:
    raise ValueError(
      f'config.pretrained_dir={folder!r} must be a folder on this machine; '
      'get the file first: python -m vit_jax_repro.fetch NAME --dir=FOLDER'
    )
  name = settings.model_or_filename or settings.model.get('model_name')
  if name is None:
    raise ValueError(
      'config.model.model_name is not set, so no file of config.pretrained_dir='
      f'{settings.pretrained_dir!r} is chosen; set config.model_or_filename'
    )
  path = os.path.join(folder, f'{name.removesuffix(".npz")}.npz')
  is_model = settings.model_or_filename and '-' not in name
  if is_model and not os.path.exists(path):
    name = best_augreg_file(folder, name).removesuffix('.npz')
    path = os.path.join(folder, f'{name}.npz')
  if not os.path.exists(path):
    raise FileNotFoundError(
      f'no weights file {path}; put it there (python -m vit_jax_repro.fetch '
      f'{name} --dir={folder}), or set --config.pretrained_dir to the folder '
      'that has it'
    )
  return path


def fingerprint(settings: Settings) -> str | None:
  """16 hex digits of the contents of the file that a run starts from.

  None for a run from fresh parameters, and where the file is not there any
  more, as one that goes on has no need of it.
  """
  if not settings.pretrained_dir:
    return None
  try:
    return parts.file_hash(pretrained_path(settings))[:16]
  except FileNotFoundError:
    return None


def best_augreg_file(folder: str, model: str) -> str:
  """The ImageNet-21k file with the best upstream accuracy (`final_val`).

  From `index.csv` of the AugReg bucket (vit_jax/train.py); a folder with just
  one such file needs no index.
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
