"""Sources of a published file: the authors' bucket and copies.

Since February 2026 the bucket answers anonymous readers with 403
(google-research/vision_transformer, issue 321). The copies do not.

According to their documentation, Cloud Storage serves the object
gs://BUCKET/PATH at STORAGE/BUCKET/PATH, and the Hub serves a file of a
repository at HUB/REPOSITORY/resolve/REVISION/FILE.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re
import urllib.parse

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.published import augreg, catalogue

# Addresses of the sources, and the environment variables that replace them.
STORAGE = 'https://storage.googleapis.com'
RELEASES = 'https://github.com/faustomorales/vit-keras/releases/download/dl'
HUB = 'https://huggingface.co'
STORAGE_VARIABLE = 'VIT_JAX_REPRO_STORAGE'
RELEASES_VARIABLE = 'VIT_JAX_REPRO_RELEASES'
HUB_VARIABLE = 'HF_ENDPOINT'
TOKEN_VARIABLE = 'HF_TOKEN'
# All of timm's repositories have the first. Some of transformers' have only the
# second (facebook/deit-base-distilled-patch16-224).
HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
_MOST_ALIKE = 3  # names of other files that `by_hand` suggests
_READ_BY = {'.safetensors': 'safetensors', '.pth': 'torch', '.bin': 'torch'}


@dataclasses.dataclass(frozen=True)
class DownloadSource:
  """One address of a published file or of a copy of it."""

  url: str
  copy_of: str = ''  # layout of a copy: 'timm', ...; '' for an .npz
  hashes: tuple[str, ...] = ()  # known before the download, 'sha256:DIGITS'
  is_others: bool = False  # an .npz that others offer as the authors' own file
  token: str | None = dataclasses.field(default=None, repr=False)

  @property
  def shown(self) -> str:
    """Returns the address without user, password and query."""
    return messages.without_secrets(self.url)

  @property
  def host(self) -> str:
    """Returns the start of the address: 'https://huggingface.co'."""
    return urllib.parse.urljoin(self.shown, '/').rstrip('/')

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

  The environment variables VIT_JAX_REPRO_STORAGE, VIT_JAX_REPRO_RELEASES and
  HF_ENDPOINT replace `STORAGE`, `RELEASES` and `HUB`. HF_TOKEN is sent to the
  Hub only.

  Args:
    entry: the file.
    mirror: an address that serves the buckets' files under their official
      paths; tried first.
  """
  found = []
  if entry.is_official:
    found += [_official(entry.path, base) for base in _bases(mirror)]
  if entry.release:
    base = _address(RELEASES_VARIABLE, RELEASES)
    url = f'{base}/{urllib.parse.quote(entry.release)}'
    found.append(DownloadSource(url, is_others=True))
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


def hub() -> str:
  """Returns the address of the Hub, without a slash at its end."""
  return _address(HUB_VARIABLE, HUB)


def shown_hub() -> str:
  """Returns the address of the Hub for messages, without secrets."""
  return messages.without_secrets(hub())


def token() -> str | None:
  """Returns HF_TOKEN, which is sent to the Hub only; None if it is not set.

  Raises:
    InputError: it has characters that no token has. They are not printed.
  """
  found = os.environ.get(TOKEN_VARIABLE)
  if not found:
    return None
  if not re.fullmatch('[!-~]+', found):
    raise InputError(
      f'{TOKEN_VARIABLE} holds a space, a line break or another character that '
      'no token has; set it again'
    )
  return found


def by_hand(entry: catalogue.Published, path: str) -> str:
  """Returns instructions to get the file to `path` without `fetch`."""
  ways = []
  if entry.is_official:
    ways.append(
      f'copy gs://{entry.path} to {path} (with gcloud storage cp, if you have '
      'access)'
    )
  if entry.url or entry.timm or entry.transformers or not ways:
    model = f' --model={entry.model}' if entry.card else ''
    ways.append(
      'download a copy and run: python -m vit_jax_repro.convert '
      f'model.safetensors {path}{model}'
    )
  alike = [
    other.name
    for other in catalogue.table()
    if other.has_copy
    and (other.model, other.num_classes) == (entry.model, entry.num_classes)
  ]
  if alike and not entry.has_copy:
    ways.append(
      f'take a file that has a copy: {", ".join(alike[:_MOST_ALIKE])}'
    )
  return ', or '.join(ways)


def _bases(mirror):
  return ([mirror] if mirror else []) + [_address(STORAGE_VARIABLE, STORAGE)]


def _address(variable, default):
  return (os.environ.get(variable) or default).rstrip('/')


def _official(path, base):
  return DownloadSource(f'{base.rstrip("/")}/{urllib.parse.quote(path)}')


def _on_hub(repository, name, copy_of):
  return DownloadSource(
    f'{hub()}/{repository}/resolve/main/{name}',
    copy_of,
    token=token(),
  )


def _torch_hub_hash(url):
  """Returns the first digits of the SHA-256 from torch.hub's NAME-HEX.pth."""
  digits = pathlib.PurePosixPath(url).stem.rpartition('-')[2]
  return (f'sha256:{digits}',)
