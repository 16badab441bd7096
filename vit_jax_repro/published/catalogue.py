"""The table of published weights files: official paths, sizes and copies.

`catalogue.csv` has a row for each file. Official paths come from the READMEs of
google-research/vision_transformer (which recommends one AugReg file for each
model) and big_transfer, from big_vision/models/vit.py and vit_jax_augreg.ipynb
(B/8), and from the addresses that timm 1.0.31 records. Sizes are computed from
the names and shapes in a file, one for each form in which NumPy has written zip
entries. Copies on the Hub are timm's (from its registry) and transformers' (by
their names in public code). DeiT's files are also at the address in
facebookresearch/deit's README. Eight official files are also release assets of
faustomorales/vit-keras. Accuracies are those of paper/numbers/: timm's
(results-imagenet.csv) for files with a copy of timm's, else the authors'.
"""

import collections
import csv
import dataclasses
import fnmatch
import functools
import importlib.resources
import re
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import variants
from vit_jax_repro.output import messages

# First part of a path, in place of a bucket, if the authors published no .npz.
NO_BUCKETS = ('deit', 'timm')
MOST_CANDIDATES = 12  # names that an error message lists

# vit_jax/checkpoint.py get_augreg_df, and the names in vit_jax_augreg.ipynb.
_AUGREG_NAME = re.compile(
  r'(?P<model>\w+)-(?P<data>i1k|i21k)-\d+ep-lr_[^-]+-aug_[^-]+-wd_[^-]+-do_[^-]+'
  r'-sd_[^-]+(--(?P<dataset>.+)-steps_[^-]+-lr_[^-]+-res_(?P<size>\d+))?'
)
_AUGREG = 'vit_models/augreg/'
_CLASSES = {'i1k': 1000, 'imagenet2012': 1000, 'i21k': 21_843}
_PREFIXES = (
  'gs://',
  'https://storage.googleapis.com/',
  'https://huggingface.co/',
)


@dataclasses.dataclass(frozen=True)
class Published:
  """One published file; a field that is not known is None, '' or ()."""

  # bucket/folder/NAME.npz; begins with one of NO_BUCKETS if the authors
  # published no .npz.
  path: str
  model: str | None = None  # for models.create
  num_classes: int | None = None  # None for image-text models
  image_size: int | None = None  # pixels
  sizes: tuple[int, ...] = ()  # possible sizes of the official file, in bytes
  accuracy: float | None = None  # top-1 on ImageNet's validation split, in %
  images_per_sec: float | None = None  # on a V100, from the authors' README
  release: str = ''  # name of the release asset that is this file, see mirrors
  timm: str = ''  # timm's repository on the Hub
  transformers: str = ''  # transformers' repository on the Hub
  url: str = ''  # of the authors' own PyTorch file
  repository: str = ''  # on the Hub, if only its library knows the constants
  card: str = ''  # preprocessing to record in NAME.json; '': none is written
  note: str = ''

  @property
  def file_name(self) -> str:
    """Returns 'ViT-B_16.npz'."""
    return self.path.rpartition('/')[2]

  @property
  def name(self) -> str:
    """Returns 'imagenet21k/ViT-B_16': below the bucket, unique in the table."""
    return self.path.partition('/')[2].removesuffix('.npz')

  @property
  def is_official(self) -> bool:
    """Returns whether the authors published an .npz in a bucket."""
    return self.path.partition('/')[0] not in NO_BUCKETS

  @property
  def has_copy(self) -> bool:
    """Returns whether a place other than the authors' bucket has the file."""
    return any((self.release, self.timm, self.transformers, self.url))


@functools.cache
def table() -> tuple[Published, ...]:
  """Returns all files of catalogue.csv."""
  package = importlib.resources.files('vit_jax_repro.published')
  lines = package.joinpath('catalogue.csv').read_text('utf-8').splitlines()
  return tuple(map(_published, csv.DictReader(lines)))


def _published(row: dict[str, Any]) -> Published:
  row['num_classes'] = int(row['num_classes']) if row['num_classes'] else None
  row['image_size'] = int(row['image_size'])
  row['sizes'] = tuple(map(int, row['sizes'].split()))
  for name in ('accuracy', 'images_per_sec'):
    row[name] = float(row[name]) if row[name] else None
  return Published(**row)


def matching(pattern: str = '') -> list[Published]:
  """Returns the files whose name, model or Hub copy matches, ignoring case.

  Args:
    pattern: a glob ('*ViT-B_16*') or a part of the name; '' matches all files.

  Raises:
    InputError: no file matches.
  """
  if not set('*?[') & set(pattern):
    pattern = f'*{pattern}*'
  found = [
    entry
    for entry in table()
    if any(
      fnmatch.fnmatchcase(name.lower(), pattern.lower())
      for name in (entry.path, entry.name, entry.model or '', *_hub(entry))
    )
  ]
  if not found:
    raise InputError(
      f'no published file fits {pattern!r}; --list without a pattern lists all'
    )
  return found


def find(name: str) -> Published:
  """Returns the file of a name.

  Args:
    name: the path below the bucket ('imagenet21k/ViT-B_16'), with or without
      bucket, 'gs://' and '.npz'; its last part if that is unique
      ('BiT-M-R50x1'); a model with a single file; a repository on the Hub; the
      name of any AugReg file; any gs://BUCKET/PATH.npz.

  Raises:
    InputError: the name is unknown or ambiguous. The message lists the nearest
      or the possible names.
  """
  key = _key(name)
  for names_of in (_exact_names, _last_part):
    found = [entry for entry in table() if key in names_of(entry)]
    if len(found) == 1:
      return found[0]
  augreg = _augreg(name)
  if augreg:
    return augreg
  if not found:
    found = _of_model(name)
    if len(found) == 1:
      return found[0]
  if found:
    raise InputError(_ambiguous(name, found))
  bucket_path = re.fullmatch(r'gs://([^/]+/.+\.npz)', name)
  if bucket_path:
    return Published(bucket_path[1])
  raise InputError(_unknown(name))


@functools.cache
def folders() -> frozenset[str]:
  """Returns the first parts of official names and of paths in buckets."""
  official = [entry for entry in table() if entry.is_official]
  names = [name for e in official for name in (e.name, e.path) if '/' in name]
  return frozenset(name.partition('/')[0] for name in names)


@functools.cache
def buckets() -> frozenset[str]:
  """Returns the names of the authors' buckets."""
  official = [entry for entry in table() if entry.is_official]
  return frozenset(entry.path.partition('/')[0] for entry in official)


def hub_names() -> list[str]:
  """Returns the names of all copies on the Hub."""
  return [name for entry in table() for name in _hub(entry)]


def check_fits(entry: Published, spec: Mapping[str, Any]) -> None:
  """Checks that a file holds the model of its table row.

  A value that `spec` does not have (no head, unknown image size) is not
  compared.

  Args:
    entry: the published file.
    spec: the mapping that `weights.describe` returns for the parameters.

  Raises:
    InputError: the model, its number of classes or its image size differs.
  """
  wanted = variants.variant(entry.model) if entry.model else {}
  found = _fields(spec)
  wrong = {
    field: (found.get(field), value)
    for field, value in _fields(wanted).items()
    if field in _COMPARED and found.get(field) != value
  }
  for field, value in (
    ('num_classes', entry.num_classes),
    ('image_size', entry.image_size and (entry.image_size,) * 2),
  ):
    if value and found.get(field) not in (None, value):
      wrong[field] = found[field], value
  if wrong:
    text = ', '.join(
      f'{field} {actual} instead of {value}'
      for field, (actual, value) in sorted(wrong.items())
    )
    raise InputError(f'it is not {entry.name}: {text}')


def lacking(entry: Published, spec: Mapping[str, Any]) -> list[str]:
  """Returns the parts that a copy lacks: 'head', 'pre_logits'.

  Only official files in imagenet21k/ have 'pre_logits'. Source: README of
  google-research/vision_transformer.
  """
  official = {'num_classes': 'head'}
  if entry.path.startswith('vit_models/imagenet21k/'):
    official['representation_size'] = 'pre_logits'
  return [part for field, part in official.items() if spec.get(field) is None]


# Fields that follow both from names and shapes and from the model's name.
_COMPARED = {
  'model', 'patch_size', 'hidden_size', 'num_layers', 'mlp_dim', 'num_heads',
  'resnet', 'num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim',
  'block_units', 'block_channels', 'width_factor', 'text_model', 'out_dim',
  'distilled', 'num_registers',
}  # fmt: skip


def _fields(spec):
  absent = {'resnet': None, 'distilled': False, 'num_registers': 0}
  defaults = absent if spec else {}
  tower = spec.get('image', {})  # of an image-text model
  groups = (each.get('transformer', {}) for each in (tower, spec))
  return {**defaults, **tower, **spec, **dict(collections.ChainMap(*groups))}


def _key(name):
  """Returns a name in lower case, without its optional parts."""
  for prefix in _PREFIXES:
    name = name.removeprefix(prefix)
  return name.strip('/').removesuffix('.npz').lower()


def _hub(entry):
  return [name for name in (entry.timm, entry.transformers) if name]


def _exact_names(entry):
  names = [entry.path, entry.name, *_hub(entry)]
  return {_key(name) for name in names} | {_key(entry.timm.partition('/')[2])}


def _last_part(entry):
  return {_key(entry.file_name), _key(entry.url.rpartition('/')[2])} - {''}


def _of_model(name):
  try:
    model = variants.canonical_name(name)
  except InputError:
    return []
  return [entry for entry in table() if entry.model == model]


def _augreg(name):
  """Returns the AugReg file of a name; None for any other name.

  The table has only a few of the AugReg files.
  """
  last = name.removesuffix('.npz').rpartition('/')[2]
  match = _AUGREG_NAME.fullmatch(last)
  if not match:
    return None
  try:
    model = variants.canonical_name(match['model'])
  except InputError:
    return None
  classes = _CLASSES.get(match['dataset'] or match['data'])
  pixels = int(match['size'] or 224)
  alike = [
    entry.sizes
    for entry in table()
    if entry.path.startswith(_AUGREG)
    and (entry.model, entry.num_classes, entry.image_size)
    == (model, classes, pixels)
  ]
  sizes = alike[0] if alike else ()
  return Published(f'{_AUGREG}{last}.npz', model, classes, pixels, sizes)


def _ambiguous(name, found):
  """Returns the message on a name that several files have."""
  models = {entry.model for entry in found}
  names = [entry.name for entry in table() if entry.model in models]
  shown = sorted(names, key=lambda each: (len(each), each))[:MOST_CANDIDATES]
  shown = [each for each in shown if not each.startswith('augreg/')] or shown
  more = len(names) - len(shown)
  more = f' and {more} more (`fetch --list {min(models)}`)' if more else ''
  return (
    f'{name!r} may be any of {", ".join(shown)}{more}; give one of these names'
  )


def _unknown(name):
  names = {}
  for entry in table():
    known = (entry.name, *_hub(entry), entry.file_name, entry.model or '')
    for each in known:
      names.setdefault(_key(each), each.removesuffix('.npz'))
    if entry.timm:  # timm's own name has no 'timm/'
      names.setdefault(_key(entry.timm.partition('/')[2]), entry.timm)
  hint = messages.did_you_mean(_key(name), names)
  return f'no published file {name!r}; {hint}`fetch --list` shows all names'
