"""Tests ImageNet-ReaL: any label counts, images without labels are skipped."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tfds_fixtures
from tiny_models import params_of, spec, with_head

from vit_jax_repro import evaluate, jobs, weights
from vit_jax_repro.data import class_matching, datasets, labels, pipeline
from vit_jax_repro.inference import classify
from vit_jax_repro.parallel import mesh as meshes
from vit_jax_repro.weights import model_card

# Grey values and labels of images. The model below predicts the grey value as
# the class, and the two classes on either side in its top five.
IMAGES = [
  (10, [10]),  # top 1
  (20, [19, 500]),  # top 5
  (30, []),  # skipped
  (40, [400, 40, 7]),  # top 1
  (50, [53]),  # missed
  (60, [62]),  # top 5
  (70, []),  # skipped
]
COUNTS = {'correct': 2, 'correct_top5': 4, 'num_examples': 5, 'skipped': 2}


class Grey(nn.Module):
  """Predicts the grey value of an image as its class."""

  factor: float = 1.0

  @nn.compact
  def __call__(self, images, *, train):
    grey = images.mean(axis=(1, 2, 3)) * 127.5 + 127.5  # [B]
    return -self.factor * jnp.abs(grey[:, None] - jnp.arange(1000.0)[None])


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  examples = [
    {'image': np.full((8, 8, 3), grey, np.uint8), 'real_label': some}
    for grey, some in IMAGES
  ]
  tfds_fixtures.write(
    folder, 'imagenet2012_real', {'validation': examples}, per_file=3
  )
  return folder


@pytest.mark.parametrize('num_devices', [1, 8])
@pytest.mark.parametrize('batch_size', [1, 3, 8])
def test_evaluate_counts_real_labels_exactly(data_dir, batch_size, num_devices):
  split = datasets.open_split(
    'imagenet2012_real', 'validation', data_dir=data_dir
  )
  batches = pipeline.evaluation_batches(
    split, preprocessing='vit_jax', image_size=8, batch_size=batch_size
  )
  table = class_matching.match(split.class_names, None, 1000).labels
  result = classify.evaluate(
    Grey(),
    {},
    labels.translated(batches, table, 1000),
    meshes.create_mesh(devices=jax.devices()[:num_devices]),
    num_examples=split.num_examples,
  )
  assert {key: result[key] for key in COUNTS} == COUNTS
  assert (result['accuracy'], result['top5_accuracy']) == (0.4, 0.8)


def test_evaluate_maps_real_labels_to_the_order_of_a_model(
  tmp_path, data_dir, capsys
):
  architecture = spec(1000)
  bias = np.zeros(1000)
  bias[999 - 19] = 3  # the model has ImageNet's classes in reverse order
  bias[999 - 40] = 2
  params = with_head(params_of(architecture), bias=bias)
  model_card.save_model(
    tmp_path / 'model.npz',
    params,
    architecture=architecture,
    class_names=labels.wordnet_ids()[::-1],
    image_size=(8, 8),
    preprocessing='vit_jax',
  )
  result = jobs.evaluate(
    tmp_path / 'model.npz',
    'imagenet2012_real',
    split='validation',
    batch_size=4,
    data_dir=data_dir,
    each=True,
  )
  assert (result.correct, result.num_examples, result.skipped) == (1, 5, 2)
  assert (result.accuracy, result.top5_accuracy) == (0.2, 0.4)
  assert result.num_classes == 1000
  each = result.each_image
  assert [len(each.names_of(i)) for i in range(5)] == [1, 2, 3, 1, 1]
  assert each.right.tolist() == [False, True, False, False, False]
  rows = [row for row in each.per_class() if row.num_examples]
  assert [(row.label, row.correct) for row in rows if row.label < 500] == [
    (7, 0), (10, 0), (19, 1), (40, 0), (53, 0), (62, 0), (400, 0)
  ]  # fmt: skip
  assert [(row.label, row.correct) for row in rows if row.label > 400] == [
    (500, 1)
  ]
  evaluate.show(result)
  shown = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
  assert '5, as 8x8 pixels (vit_jax); 2 without a label skipped' in shown


def test_evaluate_refuses_a_confusion_matrix_of_several_labels(
  tmp_path, data_dir
):
  weights.save(tmp_path / 'm.npz', params_of(spec(1000)))
  with pytest.raises(ValueError, match='may have several labels, so there is'):
    jobs.evaluate(
      tmp_path / 'm.npz',
      'imagenet2012_real',
      split='validation',
      data_dir=data_dir,
      one_label=True,
    )
