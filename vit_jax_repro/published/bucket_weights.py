"""Weights in a bucket of the user's, copied into the cache.

A copy has a folder of its own for each version of the files in the bucket, so
that a file that was replaced there is copied again.
"""

import functools
import hashlib
import os
import pathlib

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import buckets, files
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import configs, file_kinds
from vit_jax_repro.published import catalogue
from vit_jax_repro.weights import model_card

MODEL = 'model.npz'  # of a finished run
# The configuration of a library, and how a run has divided its images.
_BESIDE = (configs.CONFIG, 'image_splits.json')
RUN = 'manifest.json'  # only the folder of a run has it
# The files of a finished run that nothing can make again but the run.
RUN_FILES = (MODEL, model_card.card_path(MODEL), RUN, 'result.json', *_BESIDE)
_OF_LIBRARIES = ('.safetensors', '.bin', '.json')


def is_own(text: str | os.PathLike) -> bool:
  """Returns whether a text is an address outside of the authors' buckets."""
  text = os.fspath(text)
  if not buckets.is_url(text):
    return False
  bucket = text.removeprefix(buckets.PREFIX).partition('/')[0]
  return bucket not in catalogue.buckets()


def holds_model(folder: str) -> bool:
  """Returns whether a folder in a bucket has a run or a library's model."""
  return bool({MODEL, RUN, *file_kinds.FILES} & _names(buckets.clean(folder)))


def find(url: str) -> str:
  """Copies weights into the cache; returns the path of the file or folder.

  Args:
    url: of a weights file, of the folder of a run, or of a folder that a
      library saved.

  Raises:
    InputError: gcsfs is not installed, or the folder has no weights.
    FileNotFoundError: there is no such file.
    BucketError: the bucket refuses, or does not answer.
  """
  return _found(buckets.clean(url), files.cache_folder('buckets'))


@functools.cache  # a run asks several times
def _found(url, cache):
  buckets.require(url, writable=False)
  folder, _, name = url.rpartition('/')
  if buckets.info(url) is not None:
    beside = {os.path.basename(model_card.card_path(name)), *_BESIDE}
    return os.path.join(_copied(folder, {name}, beside, cache), name)
  names = _names(url)
  if MODEL in names:
    return find(f'{url}/{MODEL}')
  if RUN in names:
    raise InputError(
      f'{url} holds a run that has not written {MODEL} yet; repeat its command '
      'to finish it'
    )
  if not names & set(file_kinds.FILES):
    raise FileNotFoundError(
      f'no weights {url}: there is no such file, nor {MODEL} in such a folder; '
      'check the address'
    )
  wanted = {each for each in names if each.endswith(_OF_LIBRARIES)}
  return _copied(url, wanted, set(), cache)


def _names(url):
  return set(buckets.names(url))


def _copied(url, wanted, optional, cache):
  """Copies files of a folder of a bucket; returns the folder of the copies."""
  found = {
    name: entry
    for name in sorted(wanted | optional)
    if (entry := buckets.info(f'{url}/{name}')) is not None
  }
  digest = hashlib.sha256()
  for name, entry in found.items():
    digest.update(f'{name} {entry["generation"]}\n'.encode())
  parts = url.removeprefix(buckets.PREFIX).split('/')
  folder = pathlib.Path(cache, *parts, digest.hexdigest()[:16])
  folder.mkdir(parents=True, exist_ok=True)
  missing = [name for name in found if not (folder / name).exists()]
  for name in sorted(missing, key=lambda name: name in wanted):
    with files.replacing(folder / name) as temporary:
      buckets.download(f'{url}/{name}', temporary)
  what = 'copied from the bucket' if missing else 'from the cache'
  note(f'{url}/{min(wanted)}: {folder / min(wanted)}, {what}')
  return str(folder)
