import numpy as np
import pytest

from vit_jax_repro.data import labels
from vit_jax_repro.data.batches import NO_CLASS

pytestmark = pytest.mark.quick


def test_align_reorders_a_subset_of_classes():
  model = ('cat', 'dog', 'eel')
  assert labels.align(('cat', 'dog', 'eel'), model, 3).tolist() == [0, 1, 2]
  assert labels.align(('eel', 'cat'), model, 3).tolist() == [2, 0]
  assert labels.align(('eel', 'cat'), model, 3).dtype == np.int32


def test_align_returns_none_for_other_names():
  assert labels.align(('cat', 'fox'), ('cat', 'dog'), 2) is None
  assert labels.align(('cat',), None, 2) is None
  assert labels.align(('n01440764',), ('cat', 'dog'), 2) is None


@pytest.mark.parametrize('num_classes', [1000, 21843])
def test_align_matches_imagenet_by_id_and_by_name(num_classes):
  ids = labels.wordnet_ids(num_classes)
  names = labels.class_names(num_classes)
  chosen = [991, 2, 207]
  by_id = [ids[i] for i in chosen]
  for model_names in (None, names, list(ids)):
    assert labels.align(by_id, model_names, num_classes).tolist() == chosen
  assert labels.align(ids, None, num_classes).tolist() == [*range(num_classes)]


def test_align_gives_no_class_for_imagenet_21ks_teddy_bear():
  ids = labels.wordnet_ids(1000)
  table = labels.align(ids, None, 21843)
  lacking = [ids[i] for i in np.flatnonzero(table == NO_CLASS)]
  assert lacking == ['n04399382']
  of_21k = labels.wordnet_ids(21843)
  assert [of_21k[i] for i in table[:3]] == list(ids[:3])


def test_align_returns_none_if_two_of_a_hundred_are_missing():
  names = [str(i) for i in range(100)]
  table = labels.align(names, names[1:], 99)
  assert table.tolist() == [NO_CLASS, *range(99)]
  assert labels.align(names, names[2:], 98) is None


def test_align_accepts_readable_imagenet_names():
  names = labels.class_names()
  chosen = [names[991], names[207]]
  assert labels.align(chosen, None, 1000).tolist() == [991, 207]


def test_align_ignores_a_name_of_two_classes():
  assert labels.align(('crane',), None, 1000) is None  # a bird and a machine
  assert labels.align(('b', 'a'), ('a', 'a', 'b'), 3) is None
  assert labels.align(('b',), ('a', 'a', 'b'), 3).tolist() == [2]


def test_align_prefers_the_names_of_a_model_with_1000_classes():
  own = tuple(f'x{i}' for i in range(1000))
  assert labels.align(('x5',), own, 1000).tolist() == [5]
  assert labels.align(('n01440764',), own, 1000) is None


def test_class_names_of_published_heads():
  assert labels.class_names_of(1000) == labels.class_names()
  assert labels.class_names_of(10) is None
  assert labels.readable(1, ('cat', 'dog')) == 'dog'
  assert labels.readable(17, None) == 'class 17'


def batch_of(*values, mask=True):
  label = np.array(values, np.int32)
  return {'label': label, 'mask': np.full(label.shape, mask), 'image': 'kept'}


def test_translated_maps_labels():
  table = np.array([7, 3], np.int32)
  batches = [batch_of(0, 1, 1), batch_of(1)]
  translated = list(labels.translated(batches, table, 9))
  assert [b['label'].tolist() for b in translated] == [[7, 3, 3], [3]]
  assert translated[0]['image'] == 'kept'
  assert batches[0]['label'].tolist() == [0, 1, 1]
  same = list(labels.translated(batches, None, 9))
  assert same[0] is batches[0]


def test_translated_keeps_no_class():
  table = np.array([7, NO_CLASS], np.int32)
  batch = batch_of(0, NO_CLASS, 1)
  (found,) = labels.translated([batch], table, 9)
  assert found['label'].tolist() == [7, NO_CLASS, NO_CLASS]
  assert found['label'].dtype == np.int32
  (same,) = labels.translated([batch], None, 9)
  assert same is batch


@pytest.mark.parametrize('label', [-1, 2])
def test_translated_rejects_a_label_outside_the_classes(label):
  for table in (None, np.array([1, 0], np.int32)):
    with pytest.raises(ValueError, match=f'label {label} .* the 2 classes'):
      list(labels.translated([batch_of(0, label)], table, 2))
  if label == -1:
    assert list(labels.translated([batch_of(0, label, mask=False)], None, 2))


@pytest.mark.parametrize(
  'table, num_classes, expected',
  [
    ([2, 0, 1], 3, [[0, 1, 1], [0, 0, 0]]),
    ([4, 0, 1], 5, [[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]),
    (None, 3, [[1, 0, 1], [0, 0, 0]]),
    (None, 5, [[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]),
    ([2, 0, NO_CLASS], 3, [[0, 0, 1], [0, 0, 0]]),
    ([NO_CLASS, 0, NO_CLASS], 3, [[-1, -1, -1], [0, 0, 0]]),
  ],
)
def test_translated_reorders_columns_of_several_labels(
  table, num_classes, expected
):
  table = None if table is None else np.array(table, np.int32)
  label = np.array([[1, 0, 1], [0, 0, 0]], np.int32)
  batch = {'label': label, 'mask': np.ones(2, bool), 'image': 'kept'}
  (found,) = labels.translated([batch], table, num_classes)
  assert found['label'].tolist() == expected
  assert found['label'].dtype == np.int32 and found['image'] == 'kept'
  assert label.tolist() == [[1, 0, 1], [0, 0, 0]]
