import dataclasses
import functools

import child_processes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS
from training_sets import write_folder

from vit_jax_repro import jobs, models, weights
from vit_jax_repro.data import datasets, labels, preprocess

quick = pytest.mark.quick

IDS = {'china': 'n02980441', 'flower': 'n11939491'}  # castle, daisy


@pytest.fixture(scope='module')
def tiny1000(tmp_path_factory):
  """A ViT that ranks class 985 first and 483 second for every image."""
  path = tmp_path_factory.mktemp('weights') / 'tiny1000.npz'
  params = tiny_models.params_of(tiny_models.spec(1000))
  bias = np.zeros(1000)
  bias[[985, 483]] = 9, 8
  weights.save(path, tiny_models.with_head(params, bias=bias))
  return path


def photographs(root, names):
  """Writes ROOT/test/CLASS/deep/NAME.JPG for {photograph: class}."""
  for name, class_name in names.items():
    target = root / 'test' / class_name / 'deep' / f'{name}.JPG'
    target.parent.mkdir(parents=True)
    target.write_bytes(PHOTOGRAPHS[name].read_bytes())
  return str(root)


@functools.cache
def by_hand(path):
  """Returns correct digits, top 1 and top 5, computed in one batch."""
  params = weights.load(path)
  model = models.create(weights.describe(params))
  split = datasets.open_split('digits', 'test')
  records = list(split.records().as_numpy_iterator())
  images = np.stack(
    [
      preprocess.PREPROCESSINGS['vit_jax'](record['image'], (8, 8)).numpy()
      for record in records
    ]
  )
  apply = jax.jit(lambda x: model.apply({'params': params}, x, train=False))
  order = np.argsort(-np.asarray(apply(images)), axis=-1)
  hits = order == np.array([record['label'] for record in records])[:, None]
  return int(hits[:, 0].sum()), int(hits[:, :5].sum())


@pytest.mark.slow
@quick
@pytest.mark.parametrize('batch_size', [1, 7, 512])
def test_evaluate_counts_every_digit_once(tiny_vit, batch_size):
  result = jobs.evaluate(tiny_vit, 'digits', batch_size=batch_size)
  correct, top5 = by_hand(tiny_vit)
  assert 0 < correct < top5 < 360 == result.num_examples
  assert result.correct == correct and result.accuracy == correct / 360
  assert result.top5_accuracy == top5 / 360
  assert result.seconds > 0
  assert result.images_per_sec == pytest.approx(360 / result.seconds)
  assert dataclasses.replace(result, seconds=0, images_per_sec=0) == (
    jobs.Evaluation(
      accuracy=correct / 360,
      top5_accuracy=top5 / 360,
      correct=correct,
      num_examples=360,
      seconds=0,
      images_per_sec=0,
      weights=str(tiny_vit),
      dataset='digits',
      split='test',
      model='vit',
      image_size=(8, 8),
      preprocessing='vit_jax',
      num_classes=10,
      num_competing=10,
      orientation='none',
    )
  )


def on_one_device(path):
  assert jax.device_count() == 1
  for batch_size in (1, 7, 512):
    result = jobs.evaluate(path, 'digits', batch_size=batch_size)
    print(result.correct, result.top5_accuracy, result.num_examples)


def test_evaluate_counts_the_same_on_one_device(tiny_vit):
  child = child_processes.Child(on_one_device, tiny_vit, devices=1)
  assert child.wait() == 0, child.stderr
  correct, top5 = by_hand(tiny_vit)
  assert jax.device_count() == 8
  assert child.stdout == 3 * f'{correct} {top5 / 360} 360\n'


def one_of_several(port, count, index, path, split, sizes):
  """Evaluates as one of several processes."""
  jax.distributed.initialize(f'localhost:{port}', count, index)
  assert jax.process_count() == count and jax.local_device_count() == 2
  for size in sizes:
    result = jobs.evaluate(path, 'digits', split=split, batch_size=size)
    print('RESULT', result.correct, result.top5_accuracy, result.num_examples)
  print('SHOTS', *few_shots(path))


@functools.cache
def few_shots(path):
  """Returns the correct images with one and three shots."""
  result = jobs.fewshot(
    path,
    'digits',
    shots=(1, 3),
    seeds=1,
    batch_size=7,
    train_split='train[:101]',
    split='test[:50]',
    preprocessing='vit_jax',
  )
  return [row.correct[0] for row in result.results]


@pytest.mark.parametrize(
  'count, split, sizes', [(2, 'test[:51]', [1, 64]), (3, 'test[:100]', [7])]
)
def test_evaluate_counts_the_same_in_several_processes(
  tiny_vit, count, split, sizes
):
  whole = jobs.evaluate(tiny_vit, 'digits', split=split)
  port = child_processes.free_port()
  children = [
    child_processes.Child(
      one_of_several, port, count, index, tiny_vit, split, sizes, devices=2
    )
    for index in range(count)
  ]
  codes = [child.wait() for child in children]
  printed = [(child.stdout, child.stderr) for child in children]
  assert not any(codes), printed
  size = whole.num_examples
  one, three = few_shots(tiny_vit)
  wanted = f'RESULT {whole.correct} {whole.top5_accuracy} {size}'
  for out, err in printed:
    lines = [line for line in out.splitlines() if line.startswith('RESULT')]
    assert lines == [wanted] * len(sizes), err
    assert f'SHOTS {one} {three}\n' in out


@pytest.mark.slow
@quick
def test_evaluate_counts_and_lists_unreadable_images_as_wrong(
  tiny_vit, tmp_path
):
  write_folder(tmp_path, 30)
  options = dict(split='train', batch_size=8)
  whole = jobs.evaluate(tiny_vit, str(tmp_path), **options)
  assert (whole.num_examples, whole.unreadable) == (30, ())
  images = sorted(tmp_path.rglob('*.png'))[::3]
  predicted = [top[0][0] for top in jobs.predict(tiny_vit, images, top=1)]
  wanted = [int(path.parent.name[-1]) for path in images]  # 'digit 7'
  right = np.equal(predicted, wanted).sum()
  for path in images:
    path.write_bytes(path.read_bytes()[:40])
  result = jobs.evaluate(tiny_vit, str(tmp_path), **options)
  assert result.num_examples == 30
  assert right > 0 and result.correct == whole.correct - right
  assert [line.split(' is not')[0] for line in result.unreadable] == [
    str(path) for path in images
  ]


@quick
def test_evaluate_names_a_class_without_a_readable_image(
  tiny_vit, tmp_path, capfd
):
  """A class lost to decoding: its images counted as wrong in silence."""
  folder = write_folder(tmp_path, 30)
  for path in folder.glob('train/digit 7/*'):
    path.write_bytes(path.read_bytes()[:40])
  result = jobs.evaluate(tiny_vit, str(folder), split='train', batch_size=8)
  (line,) = result.notes
  assert line == (
    "most images of 1 of 10 classes of split 'train' cannot be decoded (digit "
    '7 all of 3); they count as wrong'
  )
  assert f'note: {line}\n' in capfd.readouterr().err


@quick
def test_evaluate_takes_images_of_one_class_only_by_its_name(
  tiny1000, tmp_path
):
  """One class: by position, it would be class 0 of the model."""
  named = photographs(tmp_path / 'named', {'flower': IDS['flower']})
  result = jobs.evaluate(tiny1000, named)
  assert (result.correct, result.num_examples) == (1, 1)
  assert "are of one of 1 classes, 'n11939491'" in result.notes[0]
  own = photographs(tmp_path / 'own', {'flower': 'images'})
  with pytest.raises(ValueError, match='test/images has deep: are these the'):
    jobs.evaluate(tiny1000, own)


@quick
def test_evaluate_accepts_a_part_of_a_split_and_a_data_dir(tiny_vit, tmp_path):
  result = jobs.evaluate(
    tiny_vit, 'digits', split='train[:10]', data_dir=str(tmp_path), batch_size=4
  )
  assert result.num_examples == 10 and (tmp_path / 'digits').is_dir()


@quick
def test_predict_orders_classes_by_probability(tiny1000):
  paths = list(PHOTOGRAPHS.values()) * 9  # more than one batch
  results = jobs.predict(tiny1000, paths, top=3)
  assert len(results) == 18
  for classes in results:
    assert [index for index, _, _ in classes[:2]] == [985, 483]
    assert [name for _, name, _ in classes[:2]] == ['daisy', 'castle']
    probability = np.exp(9) / (np.exp(9) + np.exp(8) + 998)
    assert classes[0][2] == pytest.approx(probability, rel=1e-5)
    assert len(classes) == 3


def test_predict_equals_the_softmax_of_the_logits(tiny_vit):
  path = PHOTOGRAPHS['flower']
  params = weights.load(tiny_vit)
  image = preprocess.read_image(path, preprocessing='vit_jax', image_size=8)
  model = models.create(weights.describe(params))
  logits = model.apply({'params': params}, image[None], train=False)[0]
  wanted = jax.nn.softmax(logits)
  (classes,) = jobs.predict(tiny_vit, [path], top=99)
  assert [index for index, _, _ in classes] == np.argsort(-wanted).tolist()
  for index, name, probability in classes:
    assert name == f'class {index}'
    assert probability == pytest.approx(float(wanted[index]), abs=1e-6)


@quick
@pytest.mark.parametrize('names', ['ids', 'readable'])
def test_evaluate_matches_folders_of_imagenet_classes_by_name(
  tiny1000, tmp_path, capfd, names
):
  classes = IDS
  if names == 'readable':
    classes = {'china': 'castle', 'flower': 'daisy'}
  result = jobs.evaluate(tiny1000, photographs(tmp_path, classes))
  assert (result.num_examples, result.correct) == (2, 1)  # daisy comes first
  assert result.top5_accuracy == 1.0
  notes = capfd.readouterr().err.splitlines()
  assert len(notes) == 1 and 'the model has 1000 classes' in notes[0]


@quick
def test_evaluate_refuses_other_classes_unless_labels_are_as_they_are(
  tiny1000, tmp_path
):
  """A 1000-class model on a folder of two other classes is no 0.00 %."""
  names = {'china': 'zebra fish', 'flower': 'apple pie'}
  root = photographs(tmp_path, names)
  with pytest.raises(ValueError, match=r"no class .*'apple pie', 'zebra fish'"):
    jobs.evaluate(tiny1000, root)
  result = jobs.evaluate(tiny1000, root, labels='as_is')
  assert (result.correct, result.num_examples) == (0, 2)


@quick
def test_evaluate_lists_the_classes_that_the_model_lacks(tmp_path, capfd):
  path = tiny_models.save_run(tmp_path / 'model.npz')
  names = {'china': 'China', 'flower': 'unsorted'}
  result = jobs.evaluate(path, photographs(tmp_path, names))
  assert (result.correct, result.num_examples) == (1, 2)
  assert result.unmatched == ('unsorted',)
  notes = capfd.readouterr().err
  assert "'China' is 'china'" in notes and "('unsorted')" in notes


@pytest.mark.slow
@quick
def test_evaluate_and_predict_follow_the_model_card(tmp_path):
  path = tiny_models.save_run(tmp_path / 'model.npz')
  root = photographs(tmp_path, {'china': 'china', 'flower': 'flower'})
  result = jobs.evaluate(path, root)
  assert (result.correct, result.num_examples) == (1, 2)
  ((best, *_),) = jobs.predict(path, [PHOTOGRAPHS['china']])
  assert best[:2] == (2, 'china')


def test_predict_accepts_a_model_name(tmp_path):
  path = tmp_path / 'x.npz'
  model = models.create('ViT-Ti_16', num_classes=1000)
  images = jnp.zeros((1, 224, 224, 3))
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), images, train=False)['params']
  )
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  bias = np.zeros(1000)
  bias[207] = 5
  weights.save(path, tiny_models.with_head(params, bias=bias))
  for name in (None, 'Ti_16'):
    ((best, *_),) = jobs.predict(path, [PHOTOGRAPHS['china']], model=name)
    assert best[:2] == (207, 'golden retriever')
    assert labels.class_names()[207] == best[1]
  with pytest.raises(ValueError, match='do not fit') as caught:
    jobs.predict(path, [PHOTOGRAPHS['china']], model='ViT-S_16')
  assert '\n' not in str(caught.value)


@quick
def test_evaluate_and_predict_refuse_a_head_of_zeros(tmp_path):
  path = tmp_path / 'zeros.npz'
  params = tiny_models.params_of(tiny_models.spec(10))
  weights.save(path, tiny_models.with_head(params, kernel=0))
  for call in (
    lambda: jobs.predict(path, [PHOTOGRAPHS['china']]),
    lambda: jobs.evaluate(path, 'digits'),
  ):
    with pytest.raises(ValueError, match='is all zeros') as caught:
      call()
    message = str(caught.value)
    assert 'zeros.npz' in message and 'fine-tune' in message
    assert '\n' not in message


@quick
@pytest.mark.parametrize(
  'options, message',
  [
    ({'dataset': 'digitz'}, "unknown data set 'digitz'"),
    ({'split': 'tset'}, "no split 'tset'"),
    ({'batch_size': 0}, 'batch_size=0 must be'),
    ({'preprocessing': 'caffe'}, "unknown preprocessing 'caffe'"),
    ({'image_size': -1}, 'image size -1 must'),
    ({'model': 'ViT-Q_16'}, 'ViT-Q_16'),
  ],
)
def test_evaluate_refuses_wrong_arguments_in_one_line(
  tiny_vit, options, message
):
  with pytest.raises(ValueError, match=message) as caught:
    jobs.evaluate(tiny_vit, **{'dataset': 'digits', **options})
  assert '\n' not in str(caught.value)


@quick
def test_evaluate_refuses_data_with_more_classes_than_the_model(tmp_path):
  path = tmp_path / 'three.npz'
  weights.save(path, tiny_models.params_of(tiny_models.spec(3)))
  with pytest.raises(ValueError, match='has 10 classes and the model 3'):
    jobs.evaluate(path, 'digits')


@quick
def test_predict_refuses_wrong_arguments_in_one_line(tiny_vit, tmp_path):
  china = PHOTOGRAPHS['china']
  (tmp_path / 'x.jpg').write_text('no image')
  for images, options, error, message in [
    ([], {}, ValueError, 'at least one path'),
    ([china], {'top': 0}, ValueError, 'top=0'),
    ([china, 'no.jpg'], {}, FileNotFoundError, r'no\.jpg'),
    ([tmp_path], {}, IsADirectoryError, 'is a folder'),
    ([china, tmp_path / 'x.jpg'], {}, ValueError, r'x\.jpg is not a readable'),
  ]:
    with pytest.raises(error, match=message) as caught:
      jobs.predict(tiny_vit, images, **options)
    assert '\n' not in str(caught.value)


@quick
def test_evaluate_refuses_a_split_without_a_readable_image(tmp_path):
  """An accuracy of 0 % of such images means nothing."""
  path = tiny_models.save_run(tmp_path / 'model.npz')
  for name in ('china', 'flower'):
    target = tmp_path / 'photos' / 'test' / name / 'x.png'
    target.parent.mkdir(parents=True)
    target.write_bytes(b'no image')
  with pytest.raises(ValueError, match=r'none of the 2 images of .*x\.png'):
    jobs.evaluate(path, str(tmp_path / 'photos'))
