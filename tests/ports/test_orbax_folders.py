"""A run's own checkpoints as weights; the original trainer's as a start."""

import pytest
import student_runs
import tiny_models
import training_sets
from flax import serialization
from port_cases import assert_same

from vit_jax_repro import jobs, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.ports import converting
from vit_jax_repro.published import weight_names
from vit_jax_repro.runs import train
from vit_jax_repro.weights import model_card, npz, trees

VIT = tiny_models.VIT | dict(num_layers=1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('images')
  return training_sets.write_folder(root, 40) / 'train'


def settings(folder, **keys):
  pp = dict(train='train', test='test', crop=8)
  return student_runs.settings(folder, model=VIT, pp=pp) | keys


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  train.train(settings(folder, polyak_decay=0.5), workdir, show=False)
  return workdir


def test_read_takes_the_average_and_the_card_of_a_run(run, capsys):
  read = weight_names.load(run / 'checkpoints' / '4')
  model = model_card.load(run / 'model.npz')
  assert_same(read.params, model.params)
  assert read.card == model.card and read.card.class_names is not None
  err = capsys.readouterr().err
  assert 'evaluates an average of its parameters' in err
  assert_same(weight_names.load(run / 'checkpoints').params, model.params)
  averaged = weight_names.load(f'{run / "checkpoints"}#ema')
  assert_same(averaged.params, model.params)
  earlier = weight_names.load(run / 'checkpoints' / '2')
  difference = earlier.params['head']['kernel'] - model.params['head']['kernel']
  assert difference.any() and earlier.card == model.card


def test_evaluate_and_convert_take_a_checkpoint_of_a_run(run, folder, tmp_path):
  checkpoint = run / 'checkpoints' / '4'
  found = jobs.evaluate(checkpoint, str(folder), batch_size=40)
  wanted = jobs.evaluate(run / 'model.npz', str(folder), batch_size=40)
  assert found.correct == wanted.correct
  assert found.num_examples == wanted.num_examples
  assert [line for line in found.notes if 'as recorded in' in line]
  converting.convert(checkpoint, tmp_path / 'a.npz')
  assert_same(weights.load(tmp_path / 'a.npz'), weights.load(run / 'model.npz'))


def test_read_names_a_changed_array_of_a_run(run, tmp_path):
  import shutil

  import jax
  import orbax.checkpoint as ocp

  copy = tmp_path / '4'
  shutil.copytree(run / 'checkpoints' / '4', copy)
  handler = ocp.StandardCheckpointer()
  state = handler.restore(copy / 'state')
  bias = state['opt_state']['average']['head']['bias']
  state['opt_state']['average']['head']['bias'] = bias + 1
  shutil.rmtree(copy / 'state')
  handler.save(copy / 'state', jax.tree.map(lambda x: x, state))
  handler.close()
  with pytest.raises(InputError, match='checksum of opt_state/average/head/b'):
    weight_names.load(copy)


def test_find_names_the_newest_checkpoint_of_an_unfinished_run(run, tmp_path):
  import shutil

  shutil.copytree(run, tmp_path / 'run')
  (tmp_path / 'run' / 'model.npz').unlink()
  with pytest.raises(InputError, match=r'newest checkpoint, .*checkpoints/4$'):
    weight_names.load(tmp_path / 'run')


def test_train_starts_from_a_checkpoint_of_the_original_trainer(
  folder, tmp_path
):
  spec = tiny_models.spec(10, VIT)
  params = tiny_models.params_of(spec)
  state = {'0': params, '1': {'0': {'trace': params}}, '2': 100}
  source = tmp_path / 'original'
  source.mkdir()
  (source / 'checkpoint_100').write_bytes(serialization.to_bytes(state))
  found = jobs.evaluate(
    source, str(folder), batch_size=40, image_size=8, preprocessing='vit_jax'
  )
  converting.convert(source, tmp_path / 'official.npz')
  again = jobs.evaluate(
    tmp_path / 'official.npz',
    str(folder),
    batch_size=40,
    image_size=8,
    preprocessing='vit_jax',
  )
  assert found.correct == again.correct and found.num_examples > 0
  workdirs = []
  for start in (source, tmp_path / 'official.npz'):
    workdirs.append(tmp_path / f'from_{start.name}')
    config = settings(folder, pretrained_dir=str(start))
    train.train(config, workdirs[-1], show=False)
  trained, other = (weights.load(w / 'model.npz') for w in workdirs)
  assert_same(trained, other)
  assert (trained['cls'] != params['cls']).any()
  written = dict(npz.read(tmp_path / 'official.npz'))
  assert 'Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel' in written
  assert written.keys() != trees.flatten(params).keys()
  assert_same(weights.load(tmp_path / 'official.npz'), params)


def test_train_from_a_checkpoint_keeps_the_test_images(run, folder, tmp_path):
  config = settings(folder, pretrained_dir=str(run / 'checkpoints' / '4'))
  train.train(config, tmp_path / 'next', show=False)
  record = 'image_splits.json'
  wanted = (run / record).read_text()
  assert (tmp_path / 'next' / record).read_text() == wanted
  other = config | dict(pp=dict(config['pp'], split_seed=1))
  with pytest.raises(ValueError, match='are training images of the run'):
    train.train(other, tmp_path / 'other', show=False)
