"""A table of the papers' data sets: names, splits, sizes and required files.

Names and versions are those of TFDS 4.9.10. Sizes come from its public
catalogue and, for VTAB, from the protocol (google-research/task_adaptation,
data/*.py). The key of a row is the name that `datasets.open_split` takes.

The ViT paper (arXiv:2010.11929, B.1.1) tunes on a development part of the
training images (1 % of ImageNet, 2 % of CIFAR, 10 % of Pets and Flowers) and
then trains on all of `train`. The paper does not state which images these are.
Here they are the last ones, as in the released code
(vit_jax/configs/common.py), which always trains on train[:98%] of CIFAR and
train[:99%] of ImageNet. The two parts are called `minitrain` and `minival`.
"""

import dataclasses
import re
from collections.abc import Mapping

from vit_jax_repro.errors import InputError

# Side in pixels at which the ViT paper fine-tunes (Table 4 and B.1.1, also for
# VTAB) and to which vit_jax/configs/common.py crops. Table 2 has ImageNet at
# 512 for ViT-L/16 and at 518 for ViT-H/14.
CROP = 384

VTAB = 'vtab/'  # prefix of the names of VTAB tasks


@dataclasses.dataclass(frozen=True)
class Manual:
  """Files that TFDS expects in its manual folder and cannot download."""

  files: tuple[str, ...]  # files and folders in it that are always needed
  train_files: tuple[str, ...] = ()  # without them there is no split `train`
  fetched: str = ''  # TFDS downloads this file unless it is already there
  origin: str = ''  # where a person can get the files


@dataclasses.dataclass(frozen=True)
class DataSet:
  """A data set: one row of the table."""

  name: str  # for datasets.open_split
  tfds: str  # for tfds.builder; includes a version only if that is fixed
  version: str  # opened by TFDS 4.9.10
  num_classes: int
  sizes: Mapping[str, int]  # TFDS's split: number of examples
  test: str  # TFDS's split that results are reported on
  splits: Mapping[str, str]  # named split: the same in TFDS's notation
  source: str
  train: str | None = None  # split the released code trains on, if any
  crop: int | None = CROP  # None: the papers do not train on it
  group: str = ''  # VTAB group: natural, specialized or structured
  column: str = ''  # in the ViT paper's Table 9
  protocol: str = ''  # version that VTAB's protocol requires
  # Whether VTAB's training crops and flips at random; None: not a VTAB task.
  random_crop: bool | None = None
  random_flip: bool | None = None
  manual: Manual | None = None
  note: str = ''


_IMAGENET = Manual(
  files=('ILSVRC2012_img_val.tar',),
  train_files=('ILSVRC2012_img_train.tar',),
  origin='https://image-net.org/download-images, after registering',
)
# By TFDS builder. Sources: its MANUAL_DOWNLOAD_INSTRUCTIONS and its code.
_MANUAL = {
  'imagenet2012': _IMAGENET,
  'imagenet2012_real': dataclasses.replace(
    _IMAGENET, train_files=(), fetched='real.json'
  ),
  'resisc45': Manual(
    files=('NWPU-RESISC45',),
    origin='https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs, extracted',
  ),
  'diabetic_retinopathy_detection': Manual(
    files=('sample', 'train', 'test', 'trainLabels.csv'),
    fetched='retinopathy_solution.csv',
    origin='https://www.kaggle.com/c/diabetic-retinopathy-detection/data',
  ),
}


def _plain(name, version, num_classes, sizes, test, held_out=0, **fields):
  """Returns a row without VTAB fields; held_out: per cent in `minival`."""
  splits = {}
  if held_out:
    splits = {
      'minitrain': f'train[:{100 - held_out}%]',
      'minival': f'train[{100 - held_out}%:]',
    }
  return DataSet(
    name=name,
    tfds=name,
    version=version,
    num_classes=num_classes,
    sizes=sizes,
    test=test,
    splits=splits,
    manual=_MANUAL.get(name),
    **fields,
  )


_PAPER = 'ViT paper, Table 4 and B.1.1'
_V2 = dict(
  version='3.0.0',
  num_classes=1000,
  sizes=dict(test=10_000),
  test='test',
  crop=None,
  source='arXiv:1902.10811; AugReg paper (arXiv:2106.10270), 3.5',
)
_CIFAR = dict(
  version='3.0.2',
  sizes=dict(train=50_000, test=10_000),
  test='test',
  held_out=2,
  train='train[:98%]',
  source=f'{_PAPER}; vit_jax/configs/common.py',
)

_PLAIN = [
  _plain(
    'imagenet2012',
    '5.1.0',
    1000,
    dict(train=1_281_167, validation=50_000),
    'validation',
    held_out=1,
    train='train[:99%]',
    source=f'{_PAPER}; vit_jax/configs/common.py',
    note="TFDS's own `test` needs one more archive and has no labels",
  ),
  _plain(
    'imagenet2012_real',
    '1.0.0',
    1000,
    dict(validation=50_000),
    'validation',
    crop=None,
    source='arXiv:2006.07159',
    note='an image has any number of labels; images without one do not count',
  ),
  _plain('imagenet_v2/matched-frequency', **_V2),
  _plain('imagenet_v2/threshold-0.7', **_V2),
  _plain('imagenet_v2/topimages', **_V2),
  _plain('cifar10', num_classes=10, **_CIFAR),
  _plain('cifar100', num_classes=100, **_CIFAR),
  _plain(
    'oxford_iiit_pet',
    '4.0.0',
    37,
    dict(train=3680, test=3669),
    'test',
    held_out=10,
    source=_PAPER,
  ),
  _plain(
    'oxford_flowers102',
    '2.1.1',
    102,
    dict(train=1020, validation=1020, test=6149),
    'test',
    held_out=10,
    source=_PAPER,
    note='the paper does not state whether its training images include '
    '`validation`',
  ),
]


def _official():
  """Returns the splits of a task whose data set has a validation split."""
  return _splits(
    'train', 'validation', 'train+validation', 'test', 'validation[:200]'
  )


def _held_out(n, test='test'):
  """Returns splits that validate on all but the first n examples of `train`."""
  val200 = f'train[{n}:{n + 200}]'
  return _splits(f'train[:{n}]', f'train[{n}:]', 'train', test, val200)


def _cut(n, m):
  """Returns splits that cut `train`, the only split, after n and m examples."""
  parts = f'train[:{n}]', f'train[{n}:{m}]', f'train[:{m}]', f'train[{m}:]'
  return _splits(*parts, f'train[{n}:{n + 200}]')


def _splits(train, val, trainval, test, val200):
  return dict(
    train=train,
    val=val,
    trainval=trainval,
    test=test,
    train800='train[:800]',
    val200=val200,
    train800val200=f'train[:800]+{val200}',
  )


_NORB = _splits(  # no validation split: it is half of the test images
  'train', 'test[:50%]', 'train+test[:50%]', 'test[50%:]', 'test[:200]'
)
_EQUAL = dict.fromkeys(('train', 'validation', 'test'), 1880)
_CLEVR = dict(train=70_000, validation=15_000)  # `test` has no labels

# Each task: name, column, TFDS's data set, its version, the protocol's version,
# number of classes, sizes, splits, random crop, random flip, note.
_VTAB_TASKS = {
  'natural': [
    ('caltech101', 'Caltech101', 'caltech101', '3.0.2', '3.*.*', 102,
     dict(train=3060, test=6084), _held_out(2754), True, True,
     "sizes are the protocol's; some versions of TFDS count 3059 training "
     'images, which would move its cut at 90 % one example earlier'),
    ('cifar100', 'CIFAR-100', 'cifar100', '3.0.2', '3.*.*', 100,
     dict(train=50_000, test=10_000), _held_out(45_000), True, True, ''),
    ('dtd', 'DTD', 'dtd', '3.0.1', '3.*.*', 47,
     _EQUAL, _official(), True, True, 'the first of its ten partitions'),
    ('oxford_flowers102', 'Flowers102', 'oxford_flowers102', '2.1.1', '2.*.*',
     102, dict(train=1020, validation=1020, test=6149), _official(), True,
     True, ''),
    ('oxford_iiit_pet', 'Pets', 'oxford_iiit_pet', '4.0.0', '3.*.*', 37,
     dict(train=3680, test=3669), _held_out(2944), True, True,
     'TFDS has dropped 3.*.*; 4.0.0 re-encodes twelve damaged images'),
    ('sun397', 'Sun397', 'sun397/tfds', '4.0.0', '4.*.*', 397,
     dict(train=76_128, validation=10_875, test=21_750), _official(), True,
     True, ''),
    ('svhn', 'SVHN', 'svhn_cropped', '3.1.0', '3.*.*', 10,
     dict(train=73_257, test=26_032), _held_out(65_931), True, True, ''),
  ],
  'specialized': [
    ('patch_camelyon', 'Camelyon', 'patch_camelyon', '2.0.0', '2.*.*', 2,
     dict(train=262_144, validation=32_768, test=32_768), _official(), True,
     True, ''),
    ('eurosat', 'EuroSAT', 'eurosat/rgb', '2.0.0', '2.*.*', 10,
     dict(train=27_000), _cut(16_200, 21_600), True, True, ''),
    ('resisc45', 'Resisc45', 'resisc45', '3.0.0', '3.*.*', 45,
     dict(train=31_500), _cut(18_900, 25_200), True, True, ''),
    ('diabetic_retinopathy', 'Retinopathy',
     'diabetic_retinopathy_detection/btgraham-300', '3.0.0', '3.*.*', 5,
     dict(train=35_126, validation=10_906, test=42_670), _official(), True,
     True, ''),
  ],
  'structured': [
    ('clevr-count', 'Clevr-Count', 'clevr', '3.1.0', '3.*.*', 8, _CLEVR,
     _held_out(63_000, 'validation'), False, True,
     "scenic's configuration trains on train[:1000] and 200 more"),
    ('clevr-distance', 'Clevr-Dist', 'clevr', '3.1.0', '3.*.*', 6, _CLEVR,
     _held_out(63_000, 'validation'), False, True, ''),
    ('dmlab', 'DMLab', 'dmlab', '2.0.1', '2.0.1', 6,
     dict(train=65_550, validation=22_628, test=22_735), _official(), False,
     True, ''),
    ('dsprites-xpos', 'dSpr-Loc', 'dsprites', '2.0.0', '2.*.*', 16,
     dict(train=737_280), _cut(589_824, 663_552), False, False, ''),
    ('dsprites-orientation', 'dSpr-Ori', 'dsprites', '2.0.0', '2.*.*', 16,
     dict(train=737_280), _cut(589_824, 663_552), True, False, ''),
    ('kitti-distance', 'KITTI-Dist', 'kitti:3.1.0', '3.1.0', '3.1.0', 4,
     dict(train=6347, validation=423, test=711), _official(), False, True,
     "TFDS's newest is 3.3.0; the protocol fixes 3.1.0, still available"),
    ('smallnorb-azimuth', 'sNORB-Azim', 'smallnorb', '2.0.0', '2.*.*', 18,
     dict(train=24_300, test=24_300), _NORB, True, False, ''),
    ('smallnorb-elevation', 'sNORB-Elev', 'smallnorb', '2.0.0', '2.*.*', 9,
     dict(train=24_300, test=24_300), _NORB, True, True, ''),
  ],
}  # fmt: skip


def _vtab(group, task, column, tfds, version, protocol, num_classes, *rest):
  sizes, splits, random_crop, random_flip, note = rest
  return DataSet(
    name=VTAB + task,
    tfds=tfds,
    version=version,
    num_classes=num_classes,
    sizes=sizes,
    test=splits['test'],
    splits=splits,
    source='google-research/task_adaptation, data/*.py; ViT paper, B.1.1',
    group=group,
    column=column,
    protocol=protocol,
    random_crop=random_crop,
    random_flip=random_flip,
    manual=_MANUAL.get(tfds.split('/')[0]),
    note=note,
  )


DATA_SETS = {row.name: row for row in _PLAIN}
DATA_SETS |= {
  VTAB + row[0]: _vtab(group, *row)
  for group, rows in _VTAB_TASKS.items()
  for row in rows
}


def find(name: str) -> DataSet | None:
  """Returns the row of 'cifar10', 'cifar10:3.0.2' or 'vtab/dtd', for example.

  None if the table has no such data set.
  """
  if not name.startswith(VTAB):  # a VTAB row fixes its own version
    name = name.partition(':')[0]
  if name == 'imagenet_v2':  # TFDS opens its first configuration
    name = 'imagenet_v2/matched-frequency'
  return DATA_SETS.get(name)


def split_of(name: str, split: str) -> str:
  """Translates a split into TFDS's notation.

  The data set's named splits are replaced, alone or in a sum such as
  'train800+val200'. Other terms are already in TFDS's notation and are kept.
  The name of a split followed by a slice always means TFDS's own split.
  """
  row = find(name)
  if row is None:
    return split
  terms = (term.strip() for term in split.split('+'))
  return '+'.join(row.splits.get(term, term) for term in terms)


def num_examples(sizes: Mapping[str, int], split: str) -> int:
  """Counts the examples of a split in TFDS's notation.

  Args:
    sizes: number of examples of each whole split.
    split: for example 'train[:98%]+validation[10:20]'. Percentages are rounded
      to the nearest example, as TFDS does by default.

  Raises:
    InputError: the split is not in `sizes`, or not in TFDS's notation.
  """
  total = 0
  for term in split.split('+'):
    match = _SLICE.fullmatch(term.strip())
    if match is None or match['split'] not in sizes:
      raise InputError(
        f'unknown split {split!r}; choose from {", ".join(sizes)}, or a part '
        'such as train[:98%]'
      )
    size = sizes[match['split']]
    first, last = (
      _place(match[name], size, default)
      for name, default in (('first', 0), ('last', size))
    )
    total += max(0, last - first)
  return total


_SLICE = re.compile(
  r'(?P<split>\w+)(\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\])?'
)


def _place(text, size, default):
  """Returns the position of a slice's bound, from 0 to `size`."""
  if not text:
    return default
  number = int(text.rstrip('%'))
  if text.endswith('%'):
    number = round(size * number / 100)
  if number < 0:
    number += size
  return min(max(number, 0), size)


def manual_of(builder: str) -> Manual | None:
  """Returns the manual files of a TFDS builder; None if it downloads all."""
  return _MANUAL.get(builder)
