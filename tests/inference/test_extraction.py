"""Features of many image files."""

import csv

import jax
import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS

from vit_jax_repro import jobs, models, weights
from vit_jax_repro.data import preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import extraction

pytestmark = pytest.mark.quick

CHINA, FLOWER = map(str, PHOTOGRAPHS.values())


@pytest.fixture(scope='module')
def activations(tiny_vit):
  """All activations of the two photographs."""
  params = weights.load(tiny_vit)
  model = models.create(weights.describe(params))
  images = np.stack(
    [
      preprocess.read_image(path, preprocessing='vit_jax', image_size=8)
      for path in (CHINA, FLOWER)
    ]
  )
  _, state = jax.jit(
    lambda params, images: model.apply(
      {'params': params}, images, train=False, mutable=['intermediates']
    )
  )(params, images)
  return {name: value[0] for name, value in state['intermediates'].items()}


@pytest.mark.parametrize(
  'name', ['pre_logits', 'Transformer/encoderblock_0/attention_weights']
)
def test_extract_writes_rows_in_the_order_of_the_images(
  name, tiny_vit, activations, tmp_path
):
  images = [CHINA, 'no.jpg', FLOWER, CHINA]
  found = jobs.extract(
    tiny_vit, images, tmp_path / 'x.npy', features=name, batch_size=2
  )
  array = np.load(tmp_path / 'x.npy', mmap_mode='r')
  wanted = np.asarray(activations[name])[[0, 1, 0]]
  assert array.dtype == np.float32 and array.shape == found.shape
  np.testing.assert_allclose(array, wanted, atol=1e-6)
  with open(found.names, newline='', encoding='utf-8') as file:
    assert [*csv.reader(file)] == [['image'], [CHINA], [FLOWER], [CHINA]]
  with pytest.raises(InputError, match=r'no such image: no\.jpg; the other 3'):
    found.unreadable.finish()


def test_extract_takes_weights_with_a_head_of_zeros(tmp_path):
  params = tiny_models.params_of(tiny_models.spec(10))
  weights.save(tmp_path / 'm.npz', tiny_models.with_head(params, kernel=0))
  found = jobs.extract(tmp_path / 'm.npz', [CHINA], tmp_path / 'x.npy')
  assert found.shape == (1, 16)


def test_extract_leaves_no_file_without_a_readable_image(tiny_vit, tmp_path):
  with pytest.raises(InputError, match='none of the 2 images can be read'):
    jobs.extract(tiny_vit, ['a.jpg', 'b.jpg'], tmp_path / 'x.npy')
  assert not [*tmp_path.iterdir()]


def test_extract_lists_the_activations_of_the_model(tiny_vit, tmp_path):
  with pytest.raises(InputError) as caught:
    jobs.extract(tiny_vit, [CHINA], tmp_path / 'x.npy', features='pre_logit')
  for text in (
    "vit has no features 'pre_logit'; did you mean 'pre_logits'? choose from",
    'Transformer/encoderblock_0...1/LayerNorm_1, ',
    ', embedding, pre_logits',
  ):
    assert text in str(caught.value)


def test_extract_replaces_names_but_no_other_table(tiny_vit, tmp_path):
  table = tmp_path / 'x.csv'
  table.write_text('image,label_1,class_1\n')
  with pytest.raises(FileExistsError, match='is no list of the images'):
    jobs.extract(tiny_vit, [CHINA], tmp_path / 'x.npy')
  assert [*tmp_path.iterdir()] == [table] and 'class_1' in table.read_text()
  table.write_text('image\nold.jpg\n')
  jobs.extract(tiny_vit, [CHINA], tmp_path / 'x.npy')
  assert table.read_text() == f'image\n{CHINA}\n'


def test_names_file_refuses_other_endings():
  assert extraction.names_file('a/b.npy') == 'a/b.csv'
  with pytest.raises(InputError, match=r"'b\.csv' must end in \.npy"):
    extraction.names_file('b.csv')
