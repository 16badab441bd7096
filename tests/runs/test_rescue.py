"""The last good state of a run that stops at a NaN."""

import json
import re
import types

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm_stub
import tiny_models
from student_runs import STUDENT, settings
from training_sets import write_folder

from vit_jax_repro import jobs, weights
from vit_jax_repro.runs import checkpoint, loop, rescue, workdir
from vit_jax_repro.weights import npz

MODEL = STUDENT | dict(distilled=False)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with forty digits."""
  return write_folder(tmp_path_factory.mktemp('digits'), 40)


def diverging(folder, **keys):
  """Returns the configuration of a run whose parameters grow tenfold a step.

  AdamW subtracts rate * decay * parameters.
  """
  config = dict(
    model=MODEL,
    optim='adamw',
    base_lr=1.0,
    weight_decay=11.0,
    decay_type='constant',
    total_steps=40,
    checkpoint_every=4,
    progress_every=20,
    polyak_decay=0.5,
  )
  return settings(folder, **config | keys)


@pytest.fixture(scope='module')
def stopped(folder, tmp_path_factory):
  """A stopped run: its workdir, its message, the steps that this names.

  `bytes` is of the arrays in memory before the run and before the replay.
  """
  path = tmp_path_factory.mktemp('stopped')
  found = types.SimpleNamespace(workdir=path, bytes=[live_bytes()])
  read = checkpoint.read_state

  def measured(*arguments):
    found.bytes.append(live_bytes())
    return read(*arguments)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoint, 'read_state', measured)
    with pytest.raises(ValueError, match='the loss is') as error:
      jobs.train(diverging(folder), path, show=False)
  found.message = str(error.value)
  found.step = int(re.search(r'at step (\d+);', found.message)[1])
  found.last = found.step - 2
  return found


def live_bytes():
  return sum(array.nbytes for array in jax.live_arrays())


def arrays(path):
  return dict(npz.read(path))


def assert_same(left, right):
  left, right = arrays(left), arrays(right)
  assert left.keys() == right.keys()
  for name, array in left.items():
    np.testing.assert_array_equal(array, right[name], err_msg=name)


def names(workdir):
  return {path.name for path in workdir.iterdir()}


def test_train_saves_the_last_good_state(folder, stopped, tmp_path):
  """It is that of a run which ends there, bit by bit, and can be used."""
  where, last = stopped.workdir, stopped.last
  assert last > 4 and last % 4  # otherwise nothing is replayed
  assert '\n' not in stopped.message
  assert f'step {last + 1} had the last finite loss' in stopped.message
  for path in (where / 'checkpoints' / str(last), where / 'last_good.npz'):
    assert path.exists() and str(path) in stopped.message
  assert not {'result.json', 'model.npz', 'damaged'} & names(where)
  jobs.train(diverging(folder, total_steps=last), tmp_path, show=False)
  assert_same(where / 'last_good.npz', tmp_path / 'model.npz')
  found = jobs.evaluate(where / 'last_good.npz', str(folder), split='train')
  assert 0 <= found.accuracy <= 1


def test_models_of_bfloat16_parameters_open_in_numpy_and_timm(folder, tmp_path):
  """numpy has no bfloat16, and finds raw bytes where a file stores it."""
  model = MODEL | dict(param_dtype='bfloat16')
  config = diverging(folder, model=model, polyak_decay=0.0)
  with pytest.raises(ValueError, match='the loss is'):
    jobs.train(config, tmp_path / 'stopped', show=False)
  config |= dict(total_steps=1)
  jobs.train(config, tmp_path / 'whole', show=False)
  for path in (
    tmp_path / 'stopped' / 'last_good.npz',
    tmp_path / 'whole' / 'model.npz',
  ):
    with np.load(path, allow_pickle=False) as file:
      found = {name: file[name] for name in file.files}
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    kernel = found['head/kernel']
    np.testing.assert_array_equal(kernel, kernel.astype(jnp.bfloat16))
    vits = timm_stub.import_timm().models.vision_transformer
    module = vits.VisionTransformer(
      img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2,
      mlp_ratio=2, num_classes=10,
    )  # fmt: skip
    module.load_pretrained(str(path))
    theirs = module.head.weight.detach().numpy().T
    np.testing.assert_array_equal(theirs, kernel)
    assert kernel.any()


def test_train_frees_its_state_before_the_replay(stopped):
  size = sum(
    x.nbytes for x in arrays(stopped.workdir / 'last_good.npz').values()
  )
  before, after = stopped.bytes
  assert after - before < size  # a state with moments and averages is 4 * size


def test_train_saves_the_last_good_state_of_a_part(folder, tmp_path):
  """Also with updates in parts, divided parameters and a best checkpoint."""
  config = diverging(
    folder,
    train='last:1',
    accum_steps=2,
    mesh=dict(data=None, fsdp=2, model=1),
    keep_best=True,
    eval_every=2,
    checkpoint_every=2,
    pp=dict(
      train='train[:80%]',
      test='train[80%:90%]',
      validation='train[90%:]',
      crop=8,
    ),
  )
  run = tmp_path / 'run'
  with pytest.raises(ValueError, match='had the last finite loss'):
    jobs.train(config, run, show=False)
  stopped = json.loads((run / 'stopped.json').read_text())
  last = stopped['last_good_step']
  assert last == stopped['step'] - 2
  assert str(last) in names(run / 'checkpoints')
  assert not {'result.json', 'model.npz', 'best.npz'} & names(run)
  config |= dict(total_steps=last)
  jobs.train(config, tmp_path / 'wanted', show=False)
  assert_same(run / 'last_good.npz', tmp_path / 'wanted' / 'model.npz')
  config |= dict(
    total_steps=last + 2, base_lr=1e-6, continue_from=str(run), keep_best=False
  )
  assert jobs.train(config, tmp_path / 'on', show=False).step == last + 2


def test_train_saves_the_last_good_state_before_a_bad_evaluation(
  folder, tmp_path
):
  """The evaluation after an update finds a NaN before the next loss does."""
  config = diverging(folder, weight_decay=1001.0, eval_every=1)
  run = tmp_path / 'run'
  with pytest.raises(ValueError, match='images are not finite in the ev') as e:
    jobs.train(config, run, show=False)
  stopped = json.loads((run / 'stopped.json').read_text())
  last = stopped['last_good_step']
  assert last == stopped['step'] - 1 and f'step {last + 1} had the' in str(
    e.value
  )
  assert str(last) in names(run / 'checkpoints')
  config['total_steps'] = last
  jobs.train(config, tmp_path / 'wanted', show=False)
  assert_same(run / 'last_good.npz', tmp_path / 'wanted' / 'model.npz')


def test_train_refuses_to_repeat_a_stopped_run(folder, stopped):
  before = names(stopped.workdir)
  with pytest.raises(ValueError, match='would stop there again') as error:
    jobs.train(diverging(folder), stopped.workdir, show=False)
  line = str(error.value)
  assert f'stopped at step {stopped.step} (the loss is ' in line
  assert f'--config.continue_from={stopped.workdir} --workdir=NEW' in line
  assert '\n' not in line and names(stopped.workdir) == before


def test_continue_from_takes_a_stopped_run(folder, stopped, tmp_path):
  total = stopped.step + 2
  keys = dict(base_lr=1e-6, continue_from=str(stopped.workdir))
  result = jobs.train(
    diverging(folder, total_steps=total, **keys), tmp_path, show=False
  )
  assert result.step == total
  made = json.loads((tmp_path / 'manifest.json').read_text())
  assert made['data']['continued_step'] == stopped.last


def test_train_discards_a_checkpoint_of_a_bad_state(
  folder, stopped, tmp_path, capfd
):
  """The only checkpoint is of the last update before the NaN."""
  bad = stopped.step - 1
  config = diverging(folder, checkpoint_every=bad, keep_checkpoints=1)
  with pytest.raises(ValueError, match='had the last finite loss'):
    jobs.train(config, tmp_path, show=False)
  assert names(tmp_path / 'checkpoints') == {str(stopped.last)}
  assert names(tmp_path / 'damaged') == {str(bad)}
  assert (
    f'checkpoints/{bad} is of no use (the loss is' in capfd.readouterr().err
  )
  assert_same(tmp_path / 'last_good.npz', stopped.workdir / 'last_good.npz')


def test_train_has_no_good_state_without_a_finite_loss(folder, tmp_path):
  params = tiny_models.params_of(tiny_models.spec(10, MODEL))
  params['embedding']['kernel'] = params['embedding']['kernel'] * 1e38
  weights.save(tmp_path / 'bad.npz', params)
  config = diverging(folder, pretrained_dir=str(tmp_path / 'bad.npz'))
  run = tmp_path / 'run'
  for wanted in (
    'step 1; .* no loss of this run was',
    'lower base_lr and a new',
  ):
    with pytest.raises(ValueError, match=wanted):
      jobs.train(config, run, show=False)
  assert not {'last_good.npz', 'damaged'} & names(run)


class State(flax.struct.PyTreeNode):
  step: jax.Array


def rescued(path, losses):
  """Rescues a run that failed at step 8; returns the message and the files.

  losses: {step: losses of its replays}, 1.0 where there is none.
  """
  folder = workdir.Workdir(path, dict(seed=0))
  checkpoints = checkpoint.Checkpoints(path / 'checkpoints', keep=3)
  for step in (2, 5):
    checkpoints.save(State(jnp.int32(step)), {})

  def update(state, batch):
    assert batch == int(state.step) + 1
    found = losses.get(batch, [])
    return State(state.step + 1), {'loss': found.pop(0) if found else 1.0}

  parts = rescue.Rescue(
    folder,
    checkpoints,
    shapes=State(jax.device_put(jnp.int32(0))),
    first_step=0,
    start=lambda: State(jnp.int32(0)),
    batches=lambda step: iter(range(step + 1, 100)),
    step=update,
    save=lambda state: checkpoints.save(state, {}),
    save_model=lambda name, state: np.save(path / name, state.step),
  )
  error = parts.run(loop.NotFiniteError(8, 'the loss is nan', 7))
  checkpoints.close()
  return (
    str(error),
    names(path / 'checkpoints'),
    folder.read_json('stopped.json'),
  )


NAN = float('nan')


def test_rescue_repeats_from_the_newest_checkpoint(tmp_path):
  message, kept, written = rescued(tmp_path, {8: [NAN]})
  assert kept == {'2', '5', '6'}
  assert written == {
    'step': 8,
    'reason': 'the loss is nan',
    'last_good_step': 6,
  }
  assert 'step 7 had the last finite loss' in message


def test_rescue_notes_a_replay_that_stays_finite(tmp_path):
  message, kept, written = rescued(tmp_path, {})
  assert 'does not compute the same twice' in message
  assert kept == {'2', '5', '6'} and not written


def test_rescue_repeats_less_if_the_replay_fails_earlier(tmp_path):
  """Step 6 fails in the first replay: the state of 4 is the last good one."""
  message, kept, written = rescued(tmp_path, {6: [NAN, NAN]})
  assert kept == {'2', '4'} and written['last_good_step'] == 4
  assert names(tmp_path / 'damaged') == {'5'}
  assert 'step 5 had the last finite loss' in message
