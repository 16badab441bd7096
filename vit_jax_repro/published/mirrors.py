"""Sources of a published file: the authors' bucket, and copies.

Addresses: Cloud Storage serves the object gs://BUCKET/PATH at
STORAGE/BUCKET/PATH, the Hub a repository's file at HUB/REPOSITORY/resolve/
REVISION/FILE (their documentation).
"""

import dataclasses
import importlib.util
import os
import pathlib
import urllib.parse

from vit_jax_repro.published import augreg, catalogue

STORAGE = 'https://storage.googleapis.com'
HUB = 'https://huggingface.co'
# timm's repositories all have the first; some of transformers' the second
# alone (facebook/deit-base-distilled-patch16-224).
HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
_READ_BY = {'.safetensors': 'safetensors', '.pth': 'torch', '.bin': 'torch'}


@dataclasses.dataclass(frozen=True)
class DownloadSource:
  """One address of a published file, or of a port's copy."""

  url: str
  copy_of: str = ''  # whose layout the copy has: 'timm', ...; '' for an .npz
  hashes: tuple[str, ...] = ()  # that are known beforehand
  token: str | None = dataclasses.field(default=None, repr=False)

  @property
  def suffix(self) -> str:
    """Returns '.npz', '.safetensors', ..."""
    return pathlib.PurePosixPath(urllib.parse.urlsplit(self.url).path).suffix

  @property
  def needs(self) -> str | None:
    """Returns the missing library that reads such files; None if none."""
    library = _READ_BY.get(self.suffix)
    missing = library and importlib.util.find_spec(library) is None
    return library if missing else None


def sources(
  entry: catalogue.Published, *, mirror: str | None = None
) -> list[DownloadSource]:
  """Returns the addresses of a published file in the order to try them.

  The environment's HF_ENDPOINT takes the place of `HUB`; HF_TOKEN is the token
  for it.

  Args:
    entry: the file.
    mirror: an address below which the buckets' files lie under their official
      paths; tried first.
  """
  found = []
  if entry.is_official:
    found += [_official(entry.path, base) for base in _bases(mirror)]
  if entry.url:
    found.append(DownloadSource(entry.url, 'deit', _torch_hub_hash(entry.url)))
  if entry.timm:
    found.append(_on_hub(entry.timm, HUB_FILES[0], 'timm'))
  if entry.transformers:
    found += [
      _on_hub(entry.transformers, name, 'transformers') for name in HUB_FILES
    ]
  return found


def index_sources(*, mirror: str | None = None) -> list[DownloadSource]:
  """Returns the addresses of the AugReg files' index.csv."""
  return [_official(augreg.INDEX, base) for base in _bases(mirror)]


def by_hand(entry: catalogue.Published, path: str) -> str:
  """Returns how to bring the file to `path` when no source answers."""
  ways = []
  if entry.is_official:
    ways.append(
      f'bring gs://{entry.path} to {path} (one of these addresses in a '
      'browser, or gsutil cp)'
    )
  if entry.url or entry.timm or entry.transformers or not ways:
    model = f' --model={entry.model}' if entry.card else ''
    ways.append(
      'download a copy and run: python -m vit_jax_repro.convert '
      f'model.safetensors {path}{model}'
    )
  return ', or '.join(ways)


def _bases(mirror):
  return ([mirror] if mirror else []) + [STORAGE]


def _official(path, base):
  return DownloadSource(f'{base.rstrip("/")}/{urllib.parse.quote(path)}')


def _on_hub(repository, name, copy_of):
  hub = os.environ.get('HF_ENDPOINT') or HUB
  return DownloadSource(
    f'{hub.rstrip("/")}/{repository}/resolve/main/{name}',
    copy_of,
    token=os.environ.get('HF_TOKEN') or None,
  )


def _torch_hub_hash(url):
  """Returns the first digits of the SHA-256 in NAME-HEX.pth (torch.hub)."""
  digits = pathlib.PurePosixPath(url).stem.rpartition('-')[2]
  return (f'sha256:{digits}',)
