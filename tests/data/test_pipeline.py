import numpy as np
import pytest
from photographs import PHOTOGRAPHS

from vit_jax_repro.data import datasets, pipeline, preprocess

pytestmark = pytest.mark.quick

SIZE = (4, 6)
OPTIONS = {'preprocessing': 'vit_jax', 'image_size': SIZE}


@pytest.fixture(scope='module')
def digits_test():
  return datasets.open_split('digits', 'test')


@pytest.fixture
def photos(tmp_path):
  for name, path in PHOTOGRAPHS.items():
    target = tmp_path / 'test' / name / path.name.upper()
    target.parent.mkdir(parents=True)
    target.write_bytes(path.read_bytes())
  return tmp_path


def open_folder(path):
  return datasets.open_split(str(path), 'test')


def real(batches):
  """Returns (images, labels) of all rows that are not masked."""
  batches = list(batches)
  images = [b['image'][b['mask']] for b in batches]
  labels = [b['label'][b['mask']] for b in batches]
  return np.concatenate(images), np.concatenate(labels)


def batches_of(split, batch_size, *part):
  index, count = part or (0, 1)
  return list(
    pipeline.evaluation_batches(
      split,
      batch_size=batch_size,
      process_index=index,
      process_count=count,
      **OPTIONS,
    )
  )


@pytest.fixture(scope='module')
def one_by_one(digits_test):
  function = preprocess.PREPROCESSINGS['vit_jax']
  records = list(digits_test.records().as_numpy_iterator())
  images = [function(record['image'], SIZE).numpy() for record in records]
  return np.stack(images), np.array([record['label'] for record in records])


@pytest.mark.parametrize('batch_size', [1, 7, 64, 360, 1000])
def test_evaluation_yields_each_image_once_at_any_batch_size(
  digits_test, one_by_one, batch_size
):
  batches = batches_of(digits_test, batch_size)
  assert len(batches) == -(-360 // batch_size)
  for batch in batches:
    shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
    assert shapes == {
      'image': ((batch_size, *SIZE, 3), np.float32),
      'label': ((batch_size,), np.int32),
      'mask': ((batch_size,), bool),
    }
    assert not batch['image'][~batch['mask']].any()
  images, labels = real(batches)
  np.testing.assert_array_equal(images, one_by_one[0])
  np.testing.assert_array_equal(labels, one_by_one[1])


@pytest.mark.slow
@pytest.mark.parametrize('process_count', [2, 3, 7])
def test_processes_yield_equally_many_batches_and_disjoint_rows(
  digits_test, one_by_one, process_count
):
  parts = [
    batches_of(digits_test, 13, i, process_count) for i in range(process_count)
  ]
  assert len({len(part) for part in parts}) == 1
  labels = np.concatenate([real(part)[1] for part in parts])
  np.testing.assert_array_equal(labels, one_by_one[1])  # parts are contiguous


def test_a_process_without_examples_yields_masked_batches(photos):
  split = open_folder(photos)
  parts = [batches_of(split, 1, i, 3) for i in range(3)]
  assert [[b['mask'].sum() for b in part] for part in parts] == [[1], [1], [0]]


def test_evaluation_batches_equal_read_image(photos):
  images, labels = real(batches_of(open_folder(photos), 7))
  assert labels.tolist() == [0, 1]
  for image, path in zip(images, PHOTOGRAPHS.values(), strict=True):
    alone = preprocess.read_image(path, **OPTIONS)
    np.testing.assert_allclose(image, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize('batch_size', [1, 2, 64])
def test_error_names_a_damaged_image(photos, batch_size):
  path = photos / 'test' / 'flower' / 'broken.png'
  path.write_bytes(PHOTOGRAPHS['china'].read_bytes()[:5000])
  with pytest.raises(ValueError, match=r'flower/broken\.png is not') as caught:
    batches_of(open_folder(photos), batch_size)
  assert '\n' not in str(caught.value)


def test_error_names_a_deleted_file(photos):
  split = open_folder(photos)
  (photos / 'test' / 'china' / 'CHINA.JPG').unlink()
  with pytest.raises(ValueError, match=r'CHINA\.JPG') as caught:
    batches_of(split, 2)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'batch_size': 0}, 'batch_size=0 must be at least 1'),
    ({'preprocessing': 'x'}, "unknown preprocessing 'x'"),
    ({'image_size': (0, 3)}, 'must be a positive number'),
    ({'process_index': 1}, 'process_index=1 must lie in'),
  ],
)
def test_evaluation_batches_rejects_wrong_arguments_at_once(
  digits_test, change, message
):
  with pytest.raises(ValueError, match=message):
    pipeline.evaluation_batches(
      digits_test, **{'batch_size': 2, **OPTIONS, **change}
    )
