import hashlib
import importlib.util
import pathlib

import pytest

from vit_jax_repro.data import labels

pytestmark = pytest.mark.quick


@pytest.mark.parametrize('num_classes', [1000, 21843])
def test_class_lists_have_one_sorted_row_per_class(num_classes):
  ids = labels.wordnet_ids(num_classes)
  names = labels.class_names(num_classes)
  assert len(ids) == len(names) == num_classes
  assert all(len(i) == 9 and i[0] == 'n' and i[1:].isdigit() for i in ids)
  assert list(ids) == sorted(set(ids))
  assert all(name and name == name.strip() for name in names)


def test_class_names_have_known_labels():
  names, ids = labels.class_names(), labels.wordnet_ids()
  assert ids[0] == 'n01440764' and names[0].startswith('tench')
  assert names[207] == 'golden retriever'
  assert names[281] == 'tabby, tabby cat'
  assert names[483] == 'castle'
  assert names[985] == 'daisy'
  assert ids[999] == 'n15075141' and names[999].startswith('toilet tissue')


def test_class_names_of_imagenet21k_have_known_labels():
  names = labels.class_names(21843)
  ids = labels.wordnet_ids(21843)
  assert ids[0] == 'n00004475' and names[0] == 'organism, being'
  assert ids[-1] == 'n15102894'
  # Two classes of the published heads that the 2011 release lacks.
  assert {'n03931044', 'n09859684'} <= set(ids)


def test_imagenet21k_has_all_of_imagenet_but_the_teddy_bear():
  large = dict(
    zip(labels.wordnet_ids(21843), labels.class_names(21843), strict=True)
  )
  small = dict(zip(labels.wordnet_ids(), labels.class_names(), strict=True))
  assert small.keys() - large.keys() == {'n04399382'}
  assert all(large[i] == small[i] for i in small.keys() & large.keys())


def test_class_order_equals_tfds():
  spec = importlib.util.find_spec('tensorflow_datasets')
  folder = pathlib.Path(spec.origin).parent
  listed = folder / 'datasets' / 'imagenet2012' / 'labels.txt'
  assert listed.read_text().split() == list(labels.wordnet_ids())


def test_wordnet_ids_have_the_recorded_hash():
  digest = hashlib.sha256('\n'.join(labels.wordnet_ids(21843)).encode())
  assert digest.hexdigest().startswith('c03345e3490e010d')


def test_class_names_rejects_another_number_of_classes():
  with pytest.raises(ValueError, match=r'num_classes=10; choose from \[1000'):
    labels.class_names(10)
