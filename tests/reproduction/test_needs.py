"""What checks need, counted by hand for a few rows."""

import glob
import importlib.util

import pytest

from vit_jax_repro.data import catalogue
from vit_jax_repro.paper import table
from vit_jax_repro.published import catalogue as published
from vit_jax_repro.reproduction import checks, needs, views
from vit_jax_repro.reproduction.options import Options

pytestmark = pytest.mark.quick

CIFAR = 'vit-table-5-vit-b-16-imagenet-21k-90ep-cifar-10'
IMAGENET = 'vit-table-5-vit-b-16-imagenet-21k-90ep-imagenet'
# Parts of archives that are not used here.
PARTS = {'imagenet_v2': 'matched-frequency', 'eurosat': 'EuroSAT.zip'}


@pytest.fixture
def options(tmp_path):
  return Options(results=str(tmp_path), weights_dir=str(tmp_path))


def check(row):
  return checks.resolve(table.find(row))


def test_archives_are_those_of_tfds():
  (root,) = importlib.util.find_spec(
    'tensorflow_datasets'
  ).submodule_search_locations
  for builder, size in needs.ARCHIVES.items():
    (path,) = glob.glob(
      f'{root}/datasets/{builder}/checksums.tsv'
    ) or glob.glob(f'{root}/url_checksums/{builder}.txt')
    with open(path) as file:
      lines = [line.replace('\t', ' ').split(' ') for line in file]
    part = PARTS.get(builder, '')
    assert size == sum(int(x[1]) for x in lines if part in x[0]), builder
  builders = {row.tfds.split(':')[0].split('/')[0] for row in
              catalogue.DATA_SETS.values()}  # fmt: skip
  assert builders - needs.ARCHIVES.keys() == {
    'resisc45', 'diabetic_retinopathy_detection',
  }  # fmt: skip


def test_of_counts_weights_data_and_trainings(options):
  size = published.find('imagenet21k/ViT-B_16').sizes[0]
  found = needs.of(check(CIFAR), options)
  assert found.weights == {'imagenet21k/ViT-B_16': size}
  assert found.archives == {'cifar10': 170_052_171}
  assert set(found.trainings.values()) == {3 * size}
  assert found.download == size + 170_052_171
  assert found.disk == found.download + 170_052_171 + sum(
    found.trainings.values()
  )
  assert found.hours(100) == pytest.approx(2 * found.hours(200))


def test_of_evaluation_needs_only_the_validation_archive(options):
  found = needs.of(check(IMAGENET), options)
  assert found.archives == {'ILSVRC2012_img_val.tar': 6_744_924_160}
  assert not found.trainings and found.is_known


def test_of_leaves_out_weights_that_exist(options, tmp_path):
  path = tmp_path / 'imagenet21k' / 'ViT-B_16.npz'
  path.parent.mkdir()
  path.write_bytes(b'')
  assert needs.of(check(CIFAR), options).weights == {}


def test_total_counts_shared_parts_once(options):
  one, two = (needs.of(check(row), options) for row in (CIFAR, IMAGENET))
  real = needs.of(check(f'{IMAGENET}-real'), options)
  assert needs.total([two, real]).download == two.download + 388_478
  whole = needs.total([one, two, one])
  assert whole.download == one.download + two.download
  assert whole.hours(1) == pytest.approx(one.hours(1) + two.hours(1))


def test_plan_shows_amounts_and_their_total(options):
  found = [check(CIFAR), check(IMAGENET)]
  listed, files = views.plan(found, options).sections
  assert listed.columns[3:] == ('>hours', '>GB to download', '>GB of disk')
  assert [row[0] for row in listed.rows] == [CIFAR[12:], IMAGENET[12:], 'total']
  assert listed.text[1] == 'Ids begin with vit-table-5-'
  whole = needs.total(needs.of(each, options) for each in found)
  assert listed.rows[-1][3:] == (
    f'{whole.hours(100):.2f}',
    f'{whole.download / 1e9:.2f}',
    f'{whole.disk / 1e9:.2f}',
  )
  assert ('cifar10', '0.17') in files.rows
  (alone,) = views.plan(found[:1], options).sections
  assert dict(alone.rows)['hours'] == listed.rows[0][3]
