"""Accuracy and probabilities of classifiers, compared with numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.data import batches
from vit_jax_repro.data import batches as batch_form
from vit_jax_repro.inference import classify
from vit_jax_repro.parallel import mesh as meshes

pytestmark = pytest.mark.quick

NUM_CLASSES = 9
NUM_IMAGES = 50


class Linear(nn.Module):
  """A linear classifier with the interface of the package's models."""

  num_classes: int = NUM_CLASSES
  per_token: bool = False
  factor: float = 1.0

  @nn.compact
  def __call__(self, images, *, train):
    assert not train
    x = images.reshape(images.shape[0], -1)  # [B, H*W*3]
    x = nn.Dense(self.num_classes, name='head')(x) * self.factor
    return x[:, None] if self.per_token else x


@pytest.fixture(scope='module')
def examples():
  """A batch of synthetic images with labels."""
  (batch,) = batches.synthetic(
    image_size=4, num_classes=NUM_CLASSES, batch_size=NUM_IMAGES, num_batches=1
  )
  return batch


@pytest.fixture(scope='module')
def params():
  """Random parameters of Linear."""
  images = jnp.zeros((1, 4, 4, 3))
  return Linear().init(jax.random.key(0), images, train=False)['params']


def in_batches(examples, batch_size):
  """Yields the examples in batches, the last one padded."""
  for start in range(0, len(examples['label']), batch_size):
    rows = slice(start, start + batch_size)
    part = {key: value[rows] for key, value in examples.items()}
    yield batch_form.pad(part, batch_size)


def by_hand(examples, params):
  """Returns the images correct in the top 1 and top 5, counted with numpy."""
  images = examples['image'].reshape(NUM_IMAGES, -1)
  logits = images @ params['head']['kernel'] + params['head']['bias'][None]
  order = np.argsort(-np.asarray(logits), axis=-1)
  hits = order == examples['label'][:, None]
  return int(hits[:, 0].sum()), int(hits[:, :5].sum())


def loss_by_hand(examples, params, loss='softmax'):
  """Returns the mean loss in float64, computed with numpy."""
  images = examples['image'].reshape(len(examples['label']), -1)
  kernel, bias = (
    np.asarray(params['head'][n], 'f8') for n in ('kernel', 'bias')
  )
  logits = images.astype('f8') @ kernel + bias
  right = np.eye(NUM_CLASSES)[examples['label']]
  if loss == 'softmax':
    each = np.log(np.exp(logits).sum(-1)) - (right * logits).sum(-1)
  else:
    each = (np.log1p(np.exp(logits)) - right * logits).sum(-1)
  return each.mean()


@pytest.mark.parametrize('num_devices', [1, 8])
@pytest.mark.parametrize('batch_size', [1, 7, 64])
def test_evaluate_counts_every_image_once(
  examples, params, batch_size, num_devices
):
  mesh = meshes.create_mesh(devices=jax.devices()[:num_devices])
  result = classify.evaluate(
    Linear(),
    params,
    in_batches(examples, batch_size),
    mesh,
    num_examples=NUM_IMAGES,
  )
  correct, top5 = by_hand(examples, params)
  assert 0 < correct < top5 < NUM_IMAGES
  assert result == {
    'accuracy': correct / NUM_IMAGES,
    'top5_accuracy': top5 / NUM_IMAGES,
    'correct': correct,
    'correct_top5': top5,
    'num_examples': NUM_IMAGES,
    'skipped': 0,
    'loss': pytest.approx(loss_by_hand(examples, params), rel=1e-6),
  }
  assert type(result['correct']) is int
  assert type(result['accuracy']) is float


@pytest.mark.parametrize('sizes', [{'fsdp': 4}, {'model': 2}])
def test_evaluate_counts_the_same_on_other_meshes(examples, params, sizes):
  result = classify.evaluate(
    Linear(), params, in_batches(examples, 7), meshes.create_mesh(**sizes)
  )
  assert (result['correct'], result['correct_top5']) == by_hand(
    examples, params
  )


def test_evaluate_never_counts_masked_rows(examples, params):
  mask = np.arange(NUM_IMAGES) % 3 == 0
  part = {key: value[mask] for key, value in examples.items()}
  masked = classify.evaluate(Linear(), params, [{**examples, 'mask': mask}])
  found = classify.evaluate(Linear(), params, in_batches(part, 7))
  assert masked == pytest.approx(found, rel=1e-6)
  assert masked['num_examples'] == mask.sum()


@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
def test_evaluate_averages_the_loss_of_images_with_a_class(
  examples, params, loss
):
  """A loss of padding or of unreadable images, or the wrong denominator."""
  label = examples['label'].copy()
  label[::4] = batches.NO_CLASS
  part = {k: v[label != batches.NO_CLASS] for k, v in examples.items()}
  given = {**examples, 'label': label}
  for size in (7, NUM_IMAGES):
    result = classify.evaluate(
      Linear(), params, in_batches(given, size), loss=loss
    )
    assert result['loss'] == pytest.approx(
      loss_by_hand(part, params, loss), rel=1e-6
    )
    assert result['num_examples'] == NUM_IMAGES
  label[:] = batches.NO_CLASS
  result = classify.evaluate(Linear(), params, [given], loss=loss)
  assert result['loss'] is None and result['accuracy'] == 0


def several_labels(examples):
  """Returns labels: none for each fifth image, one more for each third."""
  label = np.eye(NUM_CLASSES, dtype=np.int32)[examples['label']]  # [B, K]
  label[::5] = 0
  label[1::3, 4] = 1
  return label


@pytest.mark.parametrize('num_devices', [1, 8])
@pytest.mark.parametrize('batch_size', [1, 7, 64])
def test_evaluate_takes_any_of_several_labels_as_correct(
  examples, params, batch_size, num_devices
):
  label = several_labels(examples)
  images = examples['image'].reshape(NUM_IMAGES, -1)
  logits = images @ params['head']['kernel'] + params['head']['bias'][None]
  order = np.argsort(-np.asarray(logits), axis=-1)
  correct = top5 = skipped = 0
  for row, ranked in zip(label, order, strict=True):
    right = {k for k in range(NUM_CLASSES) if row[k]}
    skipped += not right
    correct += ranked[0] in right
    top5 += bool(right & set(ranked[:5].tolist()))
  result = classify.evaluate(
    Linear(),
    params,
    in_batches({**examples, 'label': label}, batch_size),
    meshes.create_mesh(devices=jax.devices()[:num_devices]),
    num_examples=NUM_IMAGES,
  )
  assert 0 < skipped < 10 and 0 < correct < top5 < NUM_IMAGES - skipped
  counts = {key: value for key, value in result.items() if type(value) is int}
  assert counts == {
    'correct': correct,
    'correct_top5': top5,
    'num_examples': NUM_IMAGES - skipped,
    'skipped': skipped,
  }
  assert result['accuracy'] == correct / (NUM_IMAGES - skipped)


def test_evaluate_counts_one_hot_labels_as_single_labels(examples, params):
  one_hot = np.eye(NUM_CLASSES, dtype=np.int32)[examples['label']]
  several = in_batches({**examples, 'label': one_hot}, 7)
  single = in_batches(examples, 7)
  found = classify.evaluate(Linear(), params, single)
  assert found['loss'] > 0
  found['loss'] = None  # several labels are no probabilities
  assert classify.evaluate(Linear(), params, several) == found


def test_evaluate_requires_reading_skipped_images_too(examples, params):
  batch = {**examples, 'label': several_labels(examples)}
  with pytest.raises(ValueError, match='counted 50 images instead of 51'):
    classify.evaluate(
      Linear(), params, in_batches(batch, 7), num_examples=NUM_IMAGES + 1
    )
  batch['label'] = np.zeros_like(batch['label'])
  with pytest.raises(
    ValueError, match='no image to evaluate; 50 have no label'
  ):
    classify.evaluate(Linear(), params, in_batches(batch, 7))


def test_evaluate_top_5_of_fewer_classes_is_1(examples):
  model = Linear(num_classes=3)
  params = model.init(jax.random.key(0), examples['image'], train=False)
  batch = {**examples, 'label': examples['label'] % 3}
  result = classify.evaluate(model, params['params'], [batch])
  assert result['top5_accuracy'] == 1.0 and result['accuracy'] < 1


def test_evaluate_does_not_donate_parameters(examples, params):
  on_mesh = meshes.replicate(params, meshes.create_mesh())
  first = classify.evaluate(Linear(), on_mesh, in_batches(examples, 16))
  again = classify.evaluate(Linear(), on_mesh, in_batches(examples, 7))
  assert first == pytest.approx(again, rel=1e-6)


def test_evaluate_compiles_once_for_all_batches(examples, params):
  step = classify.compiled_step(
    Linear(), meshes.create_mesh(), classify.LOSS, None
  )
  step.clear_cache()
  for _ in range(2):
    classify.evaluate(Linear(), params, in_batches(examples, 7))
  assert step._cache_size() == 1


def test_evaluate_refuses_a_wrong_number_of_images(examples, params):
  with pytest.raises(ValueError, match='counted 50 images instead of 51'):
    classify.evaluate(
      Linear(), params, in_batches(examples, 7), num_examples=51
    )
  with pytest.raises(ValueError, match='no image'):
    classify.evaluate(Linear(), params, [])


def test_classify_refuses_logits_not_finite(examples, params):
  broken = jax.tree.map(np.array, params)
  broken['head']['bias'][2] = np.nan
  message = 'logits of 50 of 50 images are not finite'
  with pytest.raises(ValueError, match=message):
    classify.evaluate(Linear(), broken, in_batches(examples, 7))
  with pytest.raises(ValueError, match='not finite'):
    classify.probabilities(Linear(), broken, examples['image'])


def test_classify_refuses_logits_of_another_shape(examples, params):
  model = Linear(per_token=True)
  for call in (
    lambda: classify.evaluate(model, params, in_batches(examples, 7)),
    lambda: classify.probabilities(model, params, examples['image']),
  ):
    with pytest.raises(
      ValueError, match=r'outputs of shape \(1, 9\)'
    ) as caught:
      call()
    assert not getattr(caught.value, '__notes__', [])  # raised outside jit


def test_probabilities_sum_to_1_and_agree_with_the_counts(examples, params):
  values = classify.probabilities(Linear(), params, examples['image'])
  assert values.shape == (NUM_IMAGES, NUM_CLASSES)
  assert values.dtype == np.float32
  np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-6)
  correct = (values.argmax(-1) == examples['label']).sum()
  assert correct == by_hand(examples, params)[0]
