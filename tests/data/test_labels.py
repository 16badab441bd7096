import numpy as np
import pytest

from vit_jax_repro.data import labels
from vit_jax_repro.data.batches import NO_CLASS

pytestmark = pytest.mark.quick


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
