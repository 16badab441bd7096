"""Sources of a published file: the authors' bucket and copies.

According to their documentation, Cloud Storage serves the object
gs://BUCKET/PATH at STORAGE/BUCKET/PATH, and the Hub serves a file of a
repository at HUB/REPOSITORY/resolve/REVISION/FILE.
"""

import dataclasses
import importlib.util
import os
import pathlib
import urllib.parse

from vit_jax_repro.published import augreg, catalogue

STORAGE = 'https://storage.googleapis.com'
HUB = 'https://huggingface.co'
# All of timm's repositories have the first. Some of transformers' have only the
# second (facebook/deit-base-distilled-patch16-224).
HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
_READ_BY = {'.safetensors': 'safetensors', '.pth': 'torch', '.bin': 'torch'}


@dataclasses.dataclass(frozen=True)
class DownloadSource:
  """One address of a published file or of a copy of it."""

  url: str
  copy_of: str = ''  # layout of a copy: 'timm', ...; '' for an .npz
  hashes: tuple[str, ...] = ()  # known before the download, 'sha256:DIGITS'
  token: str | None = dataclasses.field(default=None, repr=False)

  @property
  def suffix(self) -> str:
    """Returns the suffix of the file: '.npz', '.safetensors', ..."""
    return pathlib.PurePosixPath(urllib.parse.urlsplit(self.url).path).suffix

  @property
  def needs(self) -> str | None:
    """Returns the library needed to read the file if it is missing, or None."""
    library = _READ_BY.get(self.suffix)
    missing = library and importlib.util.find_spec(library) is None
    return library if missing else None


def sources(
  entry: catalogue.Published, *, mirror: str | None = None
) -> list[DownloadSource]:
  """Returns the addresses of a published file, in the order to try them.

  The environment variable HF_ENDPOINT replaces `HUB`, HF_TOKEN is its token.

  Args:
    entry: the file.
    mirror: an address that serves the buckets' files under their official
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
  """Returns instructions to get the file to `path` without `fetch`."""
  ways = []
  if entry.is_official:
    ways.append(
      f'copy gs://{entry.path} to {path} (with one of these addresses in a '
      'browser, or with gsutil cp)'
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
  """Returns the first digits of the SHA-256 from torch.hub's NAME-HEX.pth."""
  digits = pathlib.PurePosixPath(url).stem.rpartition('-')[2]
  return (f'sha256:{digits}',)
