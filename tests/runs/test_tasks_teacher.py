"""Teachers: their preprocessing, the order of their classes, refusals."""

import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.data import preprocess
from vit_jax_repro.runs import tasks
from vit_jax_repro.weights import model_card

SMALL = tiny_models.VIT | dict(num_layers=1)
NAMES = ('a', 'b', 'c')
DEIT = preprocess.pick_preprocessing('deit')
LEVELS = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype('f4')


def load(path, class_names=NAMES, image_size=(8, 8), **options):
  """Returns the teacher for a run with the preprocessing of DeiT."""
  return tasks.load_teacher(
    str(path),
    image_size=image_size,
    mean=DEIT.mean,
    std=DEIT.std,
    class_names=class_names,
    **options,
  )


def saved(path, names, spec=SMALL, params=None, loss=None):
  """Saves the model of a run that scales images to [-1, 1].

  Returns:
    (path, model, parameters).
  """
  architecture = tiny_models.spec(len(names), spec)
  params = params or tiny_models.params_of(architecture)
  model_card.save_model(
    path,
    params,
    architecture=architecture,
    class_names=names,
    preprocessing='vit_jax',
    image_size=(8, 8),
    loss=loss,
  )
  return path, models.create(architecture), params


def test_teacher_logits_use_the_preprocessing_of_the_teacher(tmp_path):
  path, model, params = saved(tmp_path / 'x.npz', NAMES)
  found = load(path)
  mean, std = (np.float32(x).reshape(1, 1, 1, 3) for x in (DEIT.mean, DEIT.std))
  logits = found.logits(found.params, (LEVELS - mean) / std)
  wanted = model.apply({'params': params}, LEVELS / 127.5 - 1)
  np.testing.assert_allclose(logits, wanted, atol=1e-5)


def test_teacher_logits_follow_the_class_order_of_the_data_set(
  tmp_path, capsys
):
  path, _, _ = saved(tmp_path / 'x.npz', NAMES)
  found = []
  for names, how in (
    (NAMES, 'by_name'),
    (('c', 'a', 'b'), 'by_name'),
    (('x', 'y', 'z'), 'as_is'),
  ):
    loaded = load(path, names, labels=how)
    found.append(np.asarray(loaded.logits(loaded.params, LEVELS)))
  assert not capsys.readouterr().err
  same, moved, unknown = found
  np.testing.assert_array_equal(moved, same[:, [2, 0, 1]])
  np.testing.assert_array_equal(unknown, same)


def test_load_teacher_resizes_positions_to_the_images(tmp_path):
  path, _, _ = saved(tmp_path / 'x.npz', NAMES)
  found = load(path, image_size=(12, 8))
  positions = found.params['Transformer']['posembed_input']['pos_embedding']
  assert positions.shape == (1, 1 + 3 * 2, 16)


def test_load_teacher_takes_a_published_convnet(tmp_path, capsys):
  """It accepts any image size; the one note is about its unnamed classes."""
  architecture = tiny_models.spec(3, tiny_models.BIT)
  weights.save(tmp_path / 'bit.npz', tiny_models.params_of(architecture))
  found = load(tmp_path / 'bit.npz', image_size=(20, 12))
  (line,) = capsys.readouterr().err.splitlines()
  assert isinstance(found, tasks.Teacher) and 'no class names are known' in line


def test_teacher_digest_depends_on_the_contents_only(tmp_path):
  path, _, params = saved(tmp_path / 'x.npz', NAMES)
  again, _, _ = saved(tmp_path / 'y.npz', NAMES)
  head = tiny_models.with_head(params)
  other, _, _ = saved(tmp_path / 'z.npz', NAMES, params=head)
  digests = [load(file).digest for file in (path, again, other)]
  assert digests[0] == digests[1] != digests[2]
  assert len(digests[0]) == 16


def refused(path, says, **options):
  """Checks that loading raises one line with the path and this text."""
  with pytest.raises(ValueError, match=says) as error:
    load(path, **options)
  assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_load_teacher_refuses_unsuitable_models(tmp_path):
  path, _, params = saved(tmp_path / 'x.npz', NAMES)
  refused(path, 'has 3 classes and the data set 2;', class_names=('a', 'b'))
  zeros = tiny_models.with_head(params, kernel=0)
  path, _, _ = saved(tmp_path / 'zero.npz', NAMES, params=zeros)
  refused(path, 'all zeros')
  refused(path.with_name('x.npz'), r'no class of .*as_is', class_names='klm')
  many = tuple(map(str, range(200)))
  path, _, _ = saved(tmp_path / 'many.npz', many)
  refused(path, "it has no class 'new'", class_names=('new', *many[1:]))
  spec = SMALL | {'classifier': 'token_unpooled'}
  path, _, _ = saved(tmp_path / 'unpooled.npz', NAMES, spec)
  refused(path, r'gives \(5, 3\) outputs for an image')
  path, _, _ = saved(tmp_path / 'sigmoid.npz', NAMES, loss='sigmoid')
  refused(path, r"on its own \(loss sigmoid\).* trained with loss='softmax'")
  path, _, _ = saved(tmp_path / 'numbers.npz', NAMES, loss='regression')
  refused(path, 'trained for regression')
  architecture = tiny_models.spec(3, tiny_models.MIXER)
  weights.save(tmp_path / 'm.npz', tiny_models.params_of(architecture))
  refused(tmp_path / 'm.npz', 'fix the image size at 8x8', image_size=(12, 12))


def test_load_teacher_names_a_missing_file(tmp_path):
  with pytest.raises(OSError, match=r'none\.npz'):
    load(tmp_path / 'none.npz')


def test_teacher_computes_in_the_dtype_of_the_run(tmp_path):
  """Its logits stay float32 and close to those computed in float32."""
  path, _, _ = saved(tmp_path / 'x.npz', NAMES)
  common = dict(
    image_size=(8, 8), mean=DEIT.mean, std=DEIT.std, class_names=NAMES
  )
  wide, narrow = (
    tasks.load_teacher(str(path), dtype=dtype, **common)
    for dtype in ('float32', 'bfloat16')
  )
  images = (LEVELS - 127.5) / 127.5
  one, other = (
    np.asarray(each.logits(each.params, images)) for each in (wide, narrow)
  )
  assert one.dtype == other.dtype == np.float32
  assert 0 < np.abs(one - other).max() < 0.1 * np.abs(one).max()
