"""Few-shot accuracy of weights files, compared with a dense solution."""

import dataclasses
import functools
import json
import statistics

import jax
import numpy as np
import pytest
import tiny_models
from training_sets import write_folder

from vit_jax_repro import jobs, models, weights
from vit_jax_repro.data import datasets, preprocess, subsets

CLASSES = 10


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """A ViT for 8x8 pixels with a head of zeros, like published ones."""
  path = tmp_path_factory.mktemp('weights') / 'tiny.npz'
  params = tiny_models.params_of(tiny_models.spec(CLASSES))
  weights.save(path, tiny_models.with_head(params, kernel=0))
  return path


@pytest.fixture(scope='module')
def of_split(tiny):
  """A function to the features and labels of a split, computed unbatched."""
  params = weights.load(tiny)
  spec = weights.describe(params) | {'num_classes': None}
  model = models.create(spec)
  apply = jax.jit(lambda x: model.apply({'params': params}, x, train=False))
  read = preprocess.PREPROCESSINGS['big_vision']

  @functools.cache
  def of(split):
    records = datasets.open_split('digits', split).records()
    records = sorted(records.as_numpy_iterator(), key=lambda r: r['id'])
    images = np.stack([read(r['image'], (8, 8)).numpy() for r in records])
    labels = np.array([record['label'] for record in records])
    return np.asarray(apply(images), np.float64), labels

  return of


def by_hand(train, test, l2):
  """Returns the number of correct test images from a dense solution."""
  (features, labels), (new, wanted) = train, test
  mean, std = features.mean(0), features.std(0) + 1e-5

  def white(x):
    return np.pad((x - mean) / std, ((0, 0), (0, 1)), constant_values=100)

  x, y = white(features), 2 * np.eye(CLASSES)[labels] - 1
  size = x.shape[1]
  weight = np.linalg.lstsq(
    np.concatenate([x, np.sqrt(l2) * np.eye(size)]),
    np.concatenate([y, np.zeros((size, CLASSES))]),
    rcond=None,
  )[0]
  return int(((white(new) @ weight).argmax(1) == wanted).sum())


@pytest.mark.parametrize('batch_size', [64, 7])
def test_fewshot_counts_every_digit_for_each_seed(tiny, of_split, batch_size):
  # Ten images are fewer than the 17 features with the bias, fifty are more.
  result = jobs.fewshot(
    tiny,
    'digits',
    shots=(1, 5),
    seeds=2,
    l2=4.0,
    batch_size=batch_size,
    train_split='train[:250]',
    split='test[:150]',
  )
  test, (features, labels) = of_split('test[:150]'), of_split('train[:250]')
  for row in result.results:
    wanted = []
    for seed in range(2):
      chosen = subsets.balanced(labels, CLASSES, row.shots, seed)
      train = features[chosen], labels[chosen]
      wanted.append(by_hand(train, test, 4.0))
    assert row.correct == tuple(wanted)
    assert row.accuracies == tuple(count / 150 for count in wanted)
    assert row.mean == statistics.mean(row.accuracies)
    assert row.spread == statistics.stdev(row.accuracies)
  one, five = result.results
  assert (one.shots, five.shots) == (1, 5)
  assert 0.15 < one.mean < five.mean  # even a random ViT beats chance
  assert one.correct[0] != one.correct[1]
  assert (result.num_examples, result.num_classes) == (150, CLASSES)
  assert (result.feature_size, result.image_size) == (16, (8, 8))
  assert result.preprocessing == 'big_vision' and not result.unreadable


def test_fewshot_notes_default_preprocessing_and_image_size(
  tiny, tmp_path, capfd
):
  path = tmp_path / 'sizeless.npz'
  spec = tiny_models.spec(
    3, classifier='gap', position_embedding='sincos2d', patch_size=[32, 32]
  )
  params = tiny_models.params_of(spec, (64, 64))
  weights.save(path, params, layout='big_vision')
  options = dict(shots=[1], seeds=1, split='test[:8]', train_split='train[:50]')
  result = jobs.fewshot(path, 'digits', **options)
  assert result.image_size == (224, 224)
  assert result.preprocessing == 'big_vision'
  assert 'using 224x224' in capfd.readouterr().err
  result = jobs.fewshot(tiny, 'digits', **options)
  assert result.preprocessing == 'big_vision'
  assert "not by 'vit_jax'" in capfd.readouterr().err
  result = jobs.fewshot(tiny, 'digits', **options, preprocessing='vit_jax')
  assert result.preprocessing == 'vit_jax'
  assert capfd.readouterr().err == ''


def test_fewshot_skips_unreadable_images_and_counts_them_as_wrong(
  tiny, tmp_path
):
  write_folder(tmp_path, 40)
  options = dict(shots=[2], seeds=1, split='train', batch_size=8)
  (whole,) = jobs.fewshot(tiny, str(tmp_path), **options).results
  broken = sorted(tmp_path.rglob('*.png'))[::2]
  for path in broken:
    path.write_bytes(path.read_bytes()[:40])
  result = jobs.fewshot(tiny, str(tmp_path), **options)
  assert result.num_examples == 40
  assert 0 < result.results[0].correct[0] <= 20 < whole.correct[0]
  listed = [line.split(' is not')[0] for line in result.unreadable]
  assert sorted(listed) == [str(path) for path in broken]


@pytest.mark.parametrize(
  'options, message',
  [
    ({'dataset': 'digitz'}, "unknown data set 'digitz'"),
    ({'shots': ()}, r'shots=\[\] must be'),
    ({'shots': (0, 1)}, r'shots=\[0, 1\] must be'),
    ({'shots': (1, 1)}, r'shots=\[1, 1\] must be'),
    ({'shots': (1, 5000)}, r'class \d has \d+ images, fewer than the 5000'),
    ({'seeds': 0}, 'seeds=0 must be'),
    ({'l2': 0.0}, 'l2=0.0 must be'),
    ({'batch_size': 0}, 'batch_size=0 must be'),
    ({'train_split': 'tarin'}, "no split 'tarin'"),
    ({'train_split': 'train@3'}, "split 'train@3' of 'digits': class"),
    ({'preprocessing': 'caffe'}, "unknown preprocessing 'caffe'"),
  ],
)
def test_fewshot_refuses_wrong_arguments_in_one_line(tiny, options, message):
  given = dict(dataset='digits', shots=(1, 4), seeds=1) | options
  with pytest.raises(ValueError, match=message) as caught:
    jobs.fewshot(tiny, **given)
  assert '\n' not in str(caught.value)


def test_fewshot_result_can_be_written_as_json(tiny):
  result = jobs.fewshot(tiny, 'digits', shots=[3], seeds=1, split='test[:9]')
  written = json.loads(json.dumps(dataclasses.asdict(result)))
  assert written['results'][0]['shots'] == 3
  assert written['results'][0]['spread'] == 0.0
  assert written['weights'] == str(tiny) and written['l2'] == 1024.0
