"""The published weights files: official paths, sizes, copies elsewhere.

`catalogue.csv` has a line for each. Official paths are those of the READMEs of
google-research/vision_transformer and big_transfer and of the addresses that
timm 1.0.31 records; sizes are computed from the names and shapes in a file,
once for either form of a zip entry that NumPy has written. The copies on the
Hub are timm's (from its registry) and transformers' (as public code names
them); those of DeiT are also at the address in facebookresearch/deit's README.
"""

import csv
import dataclasses
import difflib
import fnmatch
import functools
import importlib.resources
import re
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import variants

# Where a file without an .npz of its authors goes instead of a bucket.
NO_BUCKETS = ('deit', 'timm')
MOST_CANDIDATES = 12  # that a message lists

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
  """One published file; None, '' or () for what is not known of it."""

  path: str  # bucket/folder/NAME.npz; of NO_BUCKETS where there is no official
  model: str | None = None  # for models.create
  num_classes: int | None = None
  image_size: int | None = None  # pixels
  sizes: tuple[int, ...] = ()  # bytes of the official file, any of them
  timm: str = ''  # repository on the Hub
  transformers: str = ''
  url: str = ''  # of the authors' own PyTorch file
  card: str = ''  # preprocessing, where the model.json must say it
  note: str = ''

  @property
  def file_name(self) -> str:
    """'ViT-B_16.npz'."""
    return self.path.rpartition('/')[2]

  @property
  def name(self) -> str:
    """'imagenet21k/ViT-B_16': below the bucket, unique in the table."""
    return self.path.partition('/')[2].removesuffix('.npz')

  @property
  def is_official(self) -> bool:
    """Whether the authors published an .npz in a bucket."""
    return self.path.partition('/')[0] not in NO_BUCKETS


@functools.cache
def table() -> tuple[Published, ...]:
  """All files of catalogue.csv."""
  source = importlib.resources.files(__package__).joinpath('catalogue.csv')
  return tuple(
    Published(
      **{
        **row,
        'num_classes': int(row['num_classes']),
        'image_size': int(row['image_size']),
        'sizes': tuple(map(int, row['sizes'].split())),
      }
    )
    for row in csv.DictReader(source.read_text('utf-8').splitlines())
  )


def matching(pattern: str = '') -> list[Published]:
  """The files whose name, model or Hub copy fits, whatever the letter case.

  Args:
    pattern: a glob ('*ViT-B_16*'), or else a part of the name; '' fits all.

  Raises:
    InputError: nothing fits.
  """
  if not set('*?[') & set(pattern):
    pattern = f'*{pattern}*'
  found = [
    entry
    for entry in table()
    if any(
      fnmatch.fnmatchcase(name.lower(), pattern.lower())
      for name in (entry.path, entry.name, entry.model, *_hub(entry))
    )
  ]
  if not found:
    raise InputError(
      f'no published file fits {pattern!r}; --list without a pattern has all'
    )
  return found


def find(name: str) -> Published:
  """The file of a name.

  Args:
    name: below the bucket ('imagenet21k/ViT-B_16'), with or without bucket,
      'gs://' and '.npz'; its last part where that is unique ('BiT-M-R50x1');
      a model that has one file; a repository on the Hub; the name of any
      AugReg file; any gs://BUCKET/PATH.npz.

  Raises:
    InputError: unknown name, with the nearest ones; or several files have it,
      with their names.
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


def check_fits(entry: Published, spec: Mapping[str, Any]) -> None:
  """Checks that a file holds the model that the table says.

  What `spec` leaves open (a missing head, an unknown size) is not compared.

  Args:
    entry: the published file.
    spec: what `weights.describe` says of the parameters.

  Raises:
    InputError: it is another model, of other classes or another size.
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
    wrong = ', '.join(
      f'{field} {is_} instead of {value}'
      for field, (is_, value) in sorted(wrong.items())
    )
    raise InputError(f'it is not {entry.name}: {wrong}')


def lacking(entry: Published, spec: Mapping[str, Any]) -> list[str]:
  """What the official file has and a copy has not: 'head', 'pre_logits'.

  The second only in imagenet21k/ (google-research/vision_transformer, README).
  """
  official = {'num_classes': 'head'}
  if entry.path.startswith('vit_models/imagenet21k/'):
    official['representation_size'] = 'pre_logits'
  return [part for field, part in official.items() if spec.get(field) is None]


# Fields that names and shapes tell, and that a name fixes.
_COMPARED = {
  'model', 'patch_size', 'hidden_size', 'num_layers', 'mlp_dim', 'num_heads',
  'resnet', 'num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim',
  'block_units', 'width_factor', 'distilled',
}  # fmt: skip


def _fields(spec):
  defaults = {'resnet': None, 'distilled': False} if spec else {}
  return {**defaults, **spec, **spec.get('transformer', {})}


def _key(name):
  """A name without what may be left out, in small letters."""
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
  """An AugReg file that the table may not have; None for another name."""
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
  """Says which files go by a name; those of the same model are meant, too."""
  models = {entry.model for entry in found}
  names = [entry.name for entry in table() if entry.model in models]
  shown = sorted(names, key=lambda each: (len(each), each))[:MOST_CANDIDATES]
  shown = [each for each in shown if not each.startswith('augreg/')] or shown
  more = len(names) - len(shown)
  more = f' and {more} more (--list {min(models)})' if more else ''
  return (
    f'{name!r} may be any of {", ".join(shown)}{more}; give one of these names'
  )


def _unknown(name):
  names = {}
  for entry in table():
    for each in (entry.name, *_hub(entry), entry.file_name, entry.model):
      names.setdefault(_key(each), each.removesuffix('.npz'))
  near = difflib.get_close_matches(_key(name), names, n=3, cutoff=0.5)
  near = ' or '.join(repr(names[key]) for key in near)
  near = f'did you mean {near}? ' if near else ''
  return f'no published file {name!r}; {near}--list has all names'
