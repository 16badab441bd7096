"""Addresses, paths and names."""

import pathlib
import re

import pytest

import vit_jax_repro
from vit_jax_repro.data import datasets
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import locations
from vit_jax_repro.published import weight_names
from vit_jax_repro.weights import npz

pytestmark = pytest.mark.quick

ADDRESSES = (
  'gs://a/b',
  'gs:/a',
  's3://a',
  'HTTPS://a/b',
  pathlib.Path('gs://a'),
)
PATHS = ('/a', './a', '../a', '~/a', '\\a', 'C:\\a', 'c:/a', 'c://a')
NAMES = (
  '',
  'cifar10',
  'cifar10:3.0.2',
  'vtab/dtd',
  'a/b://c',
  'a:b:c',
  'timm:x/y',
)


def test_is_address_and_is_path_divide_texts():
  assert all(map(locations.is_address, ADDRESSES))
  assert not any(map(locations.is_address, PATHS + NAMES))
  assert all(map(locations.is_path, PATHS))
  assert not any(map(locations.is_path, ADDRESSES + NAMES))


def test_only_this_module_decides():
  root = pathlib.Path(vit_jax_repro.__file__).parent
  other = re.compile(r"'://' (?:not )?in |startswith\((?:'gs:|.*'~')")
  found = [
    path.name for path in root.rglob('*.py') if other.search(path.read_text())
  ]
  assert not found


@pytest.mark.parametrize('text', [r'C:\missing', 'c://missing'])
def test_drive_letters_begin_paths(text):
  with pytest.raises(FileNotFoundError, match='missing') as error:
    datasets.open_split(text, 'test')
  assert 'did you mean' not in str(error.value)
  assert weight_names.find(text) == text
  assert npz.local(text) == pathlib.Path(text)


def test_addresses_outside_of_buckets_are_no_folders():
  with pytest.raises(InputError, match="'s3://a' is no address in a bucket"):
    datasets.open_split('s3://a', 'test')
