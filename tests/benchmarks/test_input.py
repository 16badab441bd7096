"""The contenders of `benchmark data`: the files and batches that they read."""

import itertools

import numpy as np
import pytest

from vit_jax_repro.benchmarks import input as input_benchmark
from vit_jax_repro.data import photographs
from vit_jax_repro.data.tf_host import tensorflow


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('photographs')
  return str(folder), photographs.write_photographs(folder, 6)


def first(files, name, number=3):
  found = input_benchmark.batches(name, files[0], 32, 4)
  return list(itertools.islice(found, number))


@pytest.mark.parametrize(
  'name, dtype',
  [
    ('training', np.float32),
    ('training, exact', np.float32),
    ('training, uint8', np.uint8),
    ('evaluation', np.float32),
    (input_benchmark.USUAL, np.float32),
  ],
)
def test_batches_have_the_shape_and_dtype_of_the_contender(files, name, dtype):
  for batch in first(files, name):
    assert batch['image'].shape == (4, 32, 32, 3)
    assert batch['image'].dtype == dtype
    if dtype == np.float32:
      assert -1 <= batch['image'].min() < 0 < batch['image'].max() <= 1


def test_limits_decode_the_boxes_of_training(files):
  """Boxes of the same sizes, whose pixels resize to the same images."""
  sizes = np.concatenate(first(files, input_benchmark.DECODED))
  boxes = list(itertools.chain(*first(files, input_benchmark.HANDED)))
  assert [box.shape for box in boxes] == [tuple(size) for size in sizes]
  images = np.concatenate([b['image'] for b in first(files, 'training')])
  for box, image in zip(boxes, images, strict=True):
    wanted = tensorflow().image.resize(box, (32, 32)).numpy() / 127.5 - 1
    mirrored = image[:, ::-1]
    assert min(np.abs(wanted - x).max() for x in (image, mirrored)) < 1e-5
