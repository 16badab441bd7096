import numpy as np
import pytest

from vit_jax_repro.data import imagenet, labels

pytestmark = pytest.mark.quick


def test_order_and_subset():
  model = ('cat', 'dog', 'eel')
  assert labels.align(('cat', 'dog', 'eel'), model, 3).tolist() == [0, 1, 2]
  assert labels.align(('eel', 'cat'), model, 3).tolist() == [2, 0]
  assert labels.align(('eel', 'cat'), model, 3).dtype == np.int32


def test_names_that_do_not_match_are_left_alone():
  assert labels.align(('cat', 'fox'), ('cat', 'dog'), 2) is None
  assert labels.align(('cat',), None, 2) is None
  assert labels.align(('n01440764',), ('cat', 'dog'), 2) is None


@pytest.mark.parametrize('num_classes', [1000, 21843])
def test_imagenet_by_id_and_by_name(num_classes):
  ids = imagenet.wordnet_ids(num_classes)
  names = imagenet.class_names(num_classes)
  chosen = [991, 2, 207]
  by_id = [ids[i] for i in chosen]
  for model_names in (None, names, list(ids)):
    assert labels.align(by_id, model_names, num_classes).tolist() == chosen
  assert labels.align(ids, None, num_classes).tolist() == [*range(num_classes)]


def test_readable_imagenet_names():
  names = imagenet.class_names()
  chosen = [names[991], names[207]]
  assert labels.align(chosen, None, 1000).tolist() == [991, 207]


def test_a_name_of_two_classes_says_nothing():
  assert labels.align(('crane',), None, 1000) is None  # a bird and a machine
  assert labels.align(('b', 'a'), ('a', 'a', 'b'), 3) is None
  assert labels.align(('b',), ('a', 'a', 'b'), 3).tolist() == [2]


def test_own_names_of_a_model_with_1000_classes_win():
  own = tuple(f'x{i}' for i in range(1000))
  assert labels.align(('x5',), own, 1000).tolist() == [5]
  assert labels.align(('n01440764',), own, 1000) is None


def test_names_of_published_heads():
  assert labels.class_names_of(1000) == imagenet.class_names()
  assert labels.class_names_of(10) is None
  assert labels.readable(1, ('cat', 'dog')) == 'dog'
  assert labels.readable(17, None) == 'class 17'


def batch_of(*values, mask=True):
  label = np.array(values, np.int32)
  return {'label': label, 'mask': np.full(label.shape, mask), 'image': 'kept'}


def test_translated():
  table = np.array([7, 3], np.int32)
  batches = [batch_of(0, 1, 1), batch_of(1)]
  translated = list(labels.translated(batches, table, 9))
  assert [b['label'].tolist() for b in translated] == [[7, 3, 3], [3]]
  assert translated[0]['image'] == 'kept'
  assert batches[0]['label'].tolist() == [0, 1, 1]
  same = list(labels.translated(batches, None, 9))
  assert same[0] is batches[0]


@pytest.mark.parametrize('label', [-1, 2])
def test_a_label_outside_the_classes_is_refused(label):
  for table in (None, np.array([1, 0], np.int32)):
    with pytest.raises(ValueError, match=f'label {label} .* the 2 classes'):
      list(labels.translated([batch_of(0, label)], table, 2))
  if label == -1:
    assert list(labels.translated([batch_of(0, label, mask=False)], None, 2))
