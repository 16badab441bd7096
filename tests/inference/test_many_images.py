"""A model applied to many files, some of which are damaged."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import many_images

pytestmark = pytest.mark.quick


@pytest.fixture
def paths(tmp_path):
  """Files whose text is a number; the third of them is missing."""
  found = [tmp_path / str(number) for number in range(40)]
  for number, path in enumerate(found):
    path.write_text(str(number))
  found[2].unlink()
  (tmp_path / 'folder').mkdir()
  return [str(path) for path in found]


def read(path):
  with open(path, encoding='utf-8') as file:
    number = int(file.read())
  if number == 11:
    raise InputError(f'{path} is damaged')
  return np.full((2, 2, 3), number, np.float32)


def test_apply_gives_each_image_its_own_row(paths, tmp_path):
  compiled = []

  def mean(params, images):
    compiled.append(images.shape)
    return params['scale'] * images.mean((1, 2, 3))

  paths.append(str(tmp_path / 'folder'))
  params = {'scale': np.float32(2)}
  for size in (1, 7, 64):
    outcomes = [*many_images.apply(mean, params, read, paths, batch_size=size)]
    assert [outcome.path for outcome in outcomes] == paths
    for number, (_, value, error) in enumerate(outcomes):
      if number in (2, 11, 40):
        assert value is None
      else:
        assert error is None and value == 2 * number
    assert 'no such image' in str(outcomes[2].error)
    assert 'is damaged' in str(outcomes[11].error)
    assert 'is a folder' in str(outcomes[40].error)
  assert len(compiled) == 3  # one program for each size


def test_apply_reads_two_batches_ahead(paths):
  started, lock = [], threading.Lock()

  def reading(path):
    with lock:
      started.append(path)
    return read(path)

  outcomes = many_images.apply(
    lambda _, images: jnp.sum(images, (1, 2, 3)), {}, reading, paths * 9,
    batch_size=8,
  )  # fmt: skip
  next(outcomes)
  # Two batches are computed or waiting, and two more are read.
  assert 8 <= len(started) <= 4 * 8
  outcomes.close()
  number = len(started)
  assert number < 9 * 40 and len(started) == number


def test_apply_refuses_a_wrong_batch_size(paths):
  with pytest.raises(InputError, match='batch_size=0 must be at least 1'):
    next(many_images.apply(None, {}, read, paths, batch_size=0))
