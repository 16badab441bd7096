"""Scores of several labels an image, compared with scikit-learn and numpy."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from vit_jax_repro.data import batches as batch_form
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import multi_label

pytestmark = pytest.mark.quick

NAMES = ('some', 'empty', 'every', 'never found', 'rare', 'often')


@pytest.fixture(scope='module')
def drawn():
  """Random scores with ties, also at the threshold, and labels."""
  generator = np.random.default_rng(0)
  scores = generator.integers(0, 11, (90, len(NAMES))) / 10
  truth = generator.random(scores.shape) < [0.4, 0, 1, 0.3, 0.03, 0.8]
  truth[0, 4] = True
  scores[:, 3] *= 0.4
  assert (scores == 0.5).any() and not truth[:, 1].any()
  return scores, truth


def average_precision(scores, truth):
  """Computes the sum of (R_n - R_n-1) P_n over the thresholds, by hand."""
  total, before = 0.0, 0.0
  for threshold in sorted(set(scores.tolist()), reverse=True):
    found = scores >= threshold
    recall = (found & truth).sum() / truth.sum()
    total += (recall - before) * (found & truth).sum() / found.sum()
    before = recall
  return total


def test_measure_equals_scikit_learn_and_the_definition(drawn):
  scores, truth = drawn
  result = multi_label.measure(scores, truth, NAMES)
  filled = [0, 2, 3, 4, 5]
  wanted = metrics.average_precision_score(
    truth[:, filled], scores[:, filled], average='macro'
  )
  np.testing.assert_allclose(result.mean_average_precision, wanted, rtol=1e-12)
  assert result.empty_classes == ('empty',)
  assert result.num_examples == 90
  found = scores >= 0.5
  functions = dict(
    precision=metrics.precision_score,
    recall=metrics.recall_score,
    f1=metrics.f1_score,
  )
  for name, function in functions.items():
    micro = function(truth, found, average='micro', zero_division=0)
    macro = function(
      truth[:, filled], found[:, filled], average='macro', zero_division=0
    )
    assert getattr(result.micro, name) == pytest.approx(micro, rel=1e-12)
    assert getattr(result.macro, name) == pytest.approx(macro, rel=1e-12)
    each = function(truth, found, average=None, zero_division=0)
    np.testing.assert_allclose(
      [getattr(x, name) for x in result.classes], each, rtol=1e-12
    )
  for k, entry in enumerate(result.classes):
    assert (entry.name, entry.images) == (NAMES[k], truth[:, k].sum())
    if entry.images:
      by_hand = average_precision(scores[:, k], truth[:, k])
      assert entry.average_precision == pytest.approx(by_hand, rel=1e-12)
    else:
      assert entry.average_precision is None


def test_measure_of_one_class_is_that_of_the_column(drawn):
  scores, truth = drawn
  result = multi_label.measure(scores[:, :1], truth[:, :1], NAMES[:1])
  whole = multi_label.measure(scores, truth, NAMES)
  assert result.classes == whole.classes[:1]
  (entry,) = result.classes
  assert result.micro == result.macro
  assert result.micro.f1 == entry.f1
  assert result.mean_average_precision == entry.average_precision


def test_measure_refuses_images_without_labels(drawn):
  scores, truth = drawn
  with pytest.raises(InputError, match='none of 90 images has one of the 6'):
    multi_label.measure(scores, np.zeros_like(truth), NAMES)


class Linear(nn.Module):
  """A linear classifier with the interface of the package's models."""

  num_classes: int = 4

  @nn.compact
  def __call__(self, images, *, train):
    assert not train
    return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


@pytest.mark.parametrize('batch_size', [30, 7])
def test_evaluate_counts_each_image_once(batch_size):
  """Also padded batches on several devices, and images that are damaged."""
  generator = np.random.default_rng(1)
  images = generator.normal(size=(30, 4, 4, 3)).astype(np.float32)
  labels = (generator.random((30, 3)) < 0.4).astype(np.int32)
  labels[:2] = [[1, 0, 1], [0, 0, 0]]
  damaged = labels.copy()
  damaged[0] *= -1
  damaged[1] = batch_form.NO_CLASS
  params = Linear().init(jax.random.key(0), images, train=False)['params']
  table = np.array([2, batch_form.NO_CLASS, 0])  # the model lacks class 1

  def in_batches():
    for start in range(0, 30, batch_size):
      rows = slice(start, start + batch_size)
      part = {'image': images[rows], 'label': damaged[rows]}
      yield batch_form.pad(part, batch_size)

  made = multi_label.with_truth(in_batches(), table, 4)
  translated = ({**b, 'label': (b['truth'] == 1).astype(int)} for b in made)
  result = multi_label.evaluate(
    Linear(), params, translated, names='abcd', classes=[0, 2],
    num_examples=30, loss='sigmoid',
  )['multi_label']  # fmt: skip
  scores = special.expit(
    np.float64(Linear().apply({'params': params}, images, train=False))
  )[:, [0, 2]]
  scores[:2] = 0
  wanted = multi_label.measure(scores, labels[:, [2, 0]] == 1, 'ac')
  assert result.num_examples == 30
  assert [x.images for x in result.classes] == [
    x.images for x in wanted.classes
  ]
  assert result.micro == wanted.micro and result.macro == wanted.macro
  assert result.mean_average_precision == pytest.approx(
    wanted.mean_average_precision, rel=1e-6
  )
