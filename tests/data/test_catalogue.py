"""The table, compared with the protocol's numbers and with TFDS."""

import itertools

import pytest
import tfds_fixtures

from vit_jax_repro.data import catalogue, vtab
from vit_jax_repro.data.tf_host import tensorflow

quick = pytest.mark.quick

# From the protocol's publication of each task: the number of examples in
# `train`, `val` and `test`, and the TFDS split and first example of `val200`.
PROTOCOL = {
  'caltech101': (2754, 306, 6084, 'train', 2754),
  'cifar100': (45_000, 5000, 10_000, 'train', 45_000),
  'dtd': (1880, 1880, 1880, 'validation', 0),
  'oxford_flowers102': (1020, 1020, 6149, 'validation', 0),
  'oxford_iiit_pet': (2944, 736, 3669, 'train', 2944),
  'sun397': (76_128, 10_875, 21_750, 'validation', 0),
  'svhn': (65_931, 7326, 26_032, 'train', 65_931),
  'patch_camelyon': (262_144, 32_768, 32_768, 'validation', 0),
  'eurosat': (16_200, 5400, 5400, 'train', 16_200),
  'resisc45': (18_900, 6300, 6300, 'train', 18_900),
  'diabetic_retinopathy': (35_126, 10_906, 42_670, 'validation', 0),
  'clevr-count': (63_000, 7000, 15_000, 'train', 63_000),
  'clevr-distance': (63_000, 7000, 15_000, 'train', 63_000),
  'dmlab': (65_550, 22_628, 22_735, 'validation', 0),
  'dsprites-xpos': (589_824, 73_728, 73_728, 'train', 589_824),
  'dsprites-orientation': (589_824, 73_728, 73_728, 'train', 589_824),
  'kitti-distance': (6347, 423, 711, 'validation', 0),
  'smallnorb-azimuth': (24_300, 12_150, 12_150, 'test', 0),
  'smallnorb-elevation': (24_300, 12_150, 12_150, 'test', 0),
}


def absolute(row, split):
  """Resolves a split to [(TFDS's split, first, last + 1)]."""
  tensorflow()
  import tensorflow_datasets as tfds

  infos = {
    name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
    for name, size in row.sizes.items()
  }
  split = catalogue.split_of(row.name, split)
  terms = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
  return [
    (
      term.splitname,
      term.from_ or 0,
      row.sizes[term.splitname] if term.to is None else term.to,
    )
    for term in terms
  ]


def size(row, split):
  return sum(stop - start for _, start, stop in absolute(row, split))


@pytest.mark.parametrize('task', vtab.TASKS)
def test_splits_of_vtab_have_the_sizes_of_the_protocol(task):
  row = catalogue.DATA_SETS[f'vtab/{task}']
  train, val, test, held_in, first = PROTOCOL[task]
  assert size(row, 'train') == train
  assert size(row, 'val') == val
  assert size(row, 'test') == test == size(row, row.test)
  assert size(row, 'trainval') == train + val
  assert absolute(row, 'train800') == [('train', 0, 800)]
  assert absolute(row, 'val200') == [(held_in, first, first + 200)]
  assert absolute(row, 'train800val200') == [
    ('train', 0, 800),
    (held_in, first, first + 200),
  ]
  parts = [absolute(row, name)[0] for name in ('train', 'val', 'test')]
  for part, after in itertools.combinations(parts, 2):
    assert part[0] != after[0] or part[2] <= after[1]


@pytest.mark.parametrize(
  'name, train, held_out',
  [
    ('imagenet2012', 1_268_355, 12_812),  # 1 % of 1 281 167, rounded
    ('cifar10', 49_000, 1000),
    ('cifar100', 49_000, 1000),
    ('oxford_iiit_pet', 3312, 368),
    ('oxford_flowers102', 918, 102),
  ],
)
def test_minitrain_and_minival_divide_train(name, train, held_out):
  row = catalogue.DATA_SETS[name]
  whole = row.sizes['train']
  assert absolute(row, 'minitrain') == [('train', 0, train)]
  assert absolute(row, 'minival') == [('train', train, train + held_out)]
  assert train + held_out == whole
  if row.train:  # the released code's training split
    assert absolute(row, row.train) == absolute(row, 'minitrain')


@pytest.mark.parametrize('name', catalogue.DATA_SETS)
def test_installed_tfds_has_the_data_set(name, tmp_path):
  row = catalogue.DATA_SETS[name]
  tensorflow()
  import tensorflow_datasets as tfds

  builder = tfds.builder(row.tfds, data_dir=tmp_path, try_gcs=False)
  assert str(builder.version) == row.version
  features = builder.info.features
  if 'label' in features:
    assert features['label'].num_classes == row.num_classes
  assert (builder.MANUAL_DOWNLOAD_INSTRUCTIONS is not None) == bool(row.manual)
  for file in row.manual.files + row.manual.train_files if row.manual else ():
    module = tfds_fixtures.source_of(builder)
    assert file in module, f'{file} is not in the code of {builder.name}'


@quick
def test_versions_match_the_protocol_except_for_pets():
  differ = {
    row.name: (row.version, row.protocol)
    for row in catalogue.DATA_SETS.values()
    if row.protocol and not _matches(row.version, row.protocol)
  }
  assert differ == {'vtab/oxford_iiit_pet': ('4.0.0', '3.*.*')}
  assert catalogue.find('vtab/kitti-distance').tfds == 'kitti:3.1.0'


def _matches(version, pattern):
  pairs = zip(version.split('.'), pattern.split('.'), strict=True)
  return all(wanted in ('*', number) for number, wanted in pairs)


@quick
def test_vtab_has_each_column_of_table_9_once():
  rows = [row for row in catalogue.DATA_SETS.values() if row.group]
  assert len({row.column for row in rows}) == len(rows) == 19
  groups = [row.group for row in rows]
  counts = {group: groups.count(group) for group in groups}
  assert counts == {'natural': 7, 'specialized': 4, 'structured': 8}


@quick
def test_vtab_tasks_without_random_crop_or_flip():
  rows = [row for row in catalogue.DATA_SETS.values() if row.group]
  names = {row.name.removeprefix('vtab/'): row for row in rows}
  assert {n for n, row in names.items() if not row.random_crop} == {
    'clevr-count', 'clevr-distance', 'dmlab', 'dsprites-xpos', 'kitti-distance',
  }  # fmt: skip
  assert {n for n, row in names.items() if not row.random_flip} == {
    'dsprites-xpos', 'dsprites-orientation', 'smallnorb-azimuth',
  }  # fmt: skip


@quick
@pytest.mark.parametrize(
  'name, split, wanted',
  [
    ('cifar10', 'minival', 'train[98%:]'),
    ('cifar10:3.0.2', 'minitrain + test', 'train[:98%]+test'),
    ('cifar10', 'train', 'train'),
    ('oxford_iiit_pet', 'minival', 'train[90%:]'),
    ('oxford_iiit_pet', 'val', 'val'),  # a named split of the VTAB task only
    ('vtab/oxford_iiit_pet', 'val', 'train[2944:]'),
    ('vtab/oxford_iiit_pet', 'train', 'train[:2944]'),
    ('vtab/oxford_iiit_pet', 'train[:50%]', 'train[:50%]'),
    ('vtab/eurosat', 'train800+val200', 'train[:800]+train[16200:16400]'),
    ('mnist', 'minival', 'minival'),
    ('./photos', 'train', 'train'),
  ],
)
def test_split_of_translates_named_splits(name, split, wanted):
  assert catalogue.split_of(name, split) == wanted


@quick
def test_find_returns_rows_by_name():
  assert catalogue.find('imagenet_v2').name == 'imagenet_v2/matched-frequency'
  assert catalogue.find('imagenet2012:5.0.0').test == 'validation'
  assert catalogue.find('vtab/dtd').sizes['test'] == 1880
  for name in ('mnist', 'vtab/', 'vtab', 'vtab/dtd:3.0.1', './cifar10', ''):
    assert catalogue.find(name) is None
