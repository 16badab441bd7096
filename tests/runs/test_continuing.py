"""Runs that continue a finished run's state with more updates."""

import json
import shutil

import numpy as np
import pytest
from student_runs import STUDENT, metrics_of, settings
from training_sets import write_folder

from vit_jax_repro import jobs
from vit_jax_repro.weights import integrity, npz


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with forty digits."""
  return write_folder(tmp_path_factory.mktemp('digits'), 40)


def longer(folder, total_steps, start=None, **keys):
  """Returns the configuration of a run whose rate does not depend on steps."""
  config = dict(
    total_steps=total_steps,
    decay_type='constant',
    polyak_decay=0.5,
    mixup_alpha=0.5,
    model=STUDENT | dict(distilled=False, dropout_rate=0.1),
    mesh=dict(data=None, fsdp=2, model=1),
    continue_from=None if start is None else str(start),
  )
  return settings(folder, **config | keys)


@pytest.fixture(scope='module')
def runs(folder, tmp_path_factory):
  """Workdirs: 4 updates, 8 that continue them, 12 that continue those."""
  root = tmp_path_factory.mktemp('runs')
  jobs.train(longer(folder, 4), root / '4', show=False)
  before = contents(root / '4')
  jobs.train(longer(folder, 8, root / '4'), root / '8', show=False)
  assert contents(root / '4') == before  # nothing is written to it
  jobs.train(longer(folder, 12, root / '8'), root / '12', show=False)
  return root


@pytest.fixture(scope='module')
def whole(folder, tmp_path_factory):
  """The workdir of twelve updates in one run."""
  workdir = tmp_path_factory.mktemp('whole')
  jobs.train(longer(folder, 12), workdir, show=False)
  return workdir


def contents(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return {path: path.read_bytes() for path in files}


def assert_same_model(left, right):
  left, right = (dict(npz.read(each / 'model.npz')) for each in (left, right))
  assert left.keys() == right.keys()
  for name, array in left.items():
    np.testing.assert_array_equal(array, right[name], err_msg=name)


def test_continue_from_equals_one_longer_run(runs, whole):
  """Two continuations give the parameters and losses of one run, bit by bit."""
  assert_same_model(runs / '12', whole)
  wanted = {line['step']: line['train_loss'] for line in metrics_of(whole)}
  for name, steps in (('8', range(5, 9)), ('12', range(9, 13))):
    found = {
      line['step']: line['train_loss'] for line in metrics_of(runs / name)
    }
    assert found == {step: wanted[step] for step in steps}


def test_continue_from_is_recorded(runs):
  data = json.loads((runs / '12' / 'manifest.json').read_text())['data']
  assert data['continued_from'] == str(runs / '8')
  assert data['continued_step'] == 8
  assert json.loads((runs / '12' / 'result.json').read_text())['step'] == 12


@pytest.fixture(scope='module')
def ninth(folder, runs, tmp_path_factory):
  """The workdir of one more update than '8', and where that was, now gone."""
  root = tmp_path_factory.mktemp('ninth')
  shutil.copytree(runs / '8', root / 'gone')
  jobs.train(longer(folder, 9, root / 'gone'), root / '9', show=False)
  shutil.rmtree(root / 'gone')
  kept = sorted(path.name for path in (root / '9' / 'checkpoints').iterdir())
  assert kept == ['8', '9']
  return root / '9', root / 'gone'


def test_continue_from_resumes_without_the_first_workdir(
  folder, ninth, whole, tmp_path, capfd
):
  """The run is killed before its first update, and the finished one deleted."""
  done, gone = ninth
  killed = shutil.copytree(done, tmp_path / 'killed')
  shutil.rmtree(killed / 'checkpoints' / '9')
  for name in ('result.json', 'model.npz', 'model.json'):
    (killed / name).unlink()
  before = (killed / 'metrics.jsonl').read_text()
  capfd.readouterr()
  jobs.train(longer(folder, 9, gone), killed, show=True)
  assert 'start      continues ' in capfd.readouterr().err
  assert [line['step'] for line in metrics_of(killed)] == [9]
  losses = [
    json.loads(before)['train_loss'],
    metrics_of(whole)[8]['train_loss'],
  ]
  assert losses == [metrics_of(killed)[0]['train_loss']] * 2


@pytest.mark.parametrize('ended', ['before its first checkpoint', 'later'])
def test_continue_from_may_move(
  ended, folder, runs, ninth, whole, tmp_path, capfd
):
  """The run is stopped, and the finished one moves."""
  for place in ('new', 'other'):
    shutil.copytree(runs / '8', tmp_path / place)
  change_description(tmp_path / 'other' / 'checkpoints' / '8')
  workdir = shutil.copytree(ninth[0], tmp_path / 'run')
  (workdir / 'model.npz').unlink()
  shutil.rmtree(workdir / 'checkpoints' / '9')
  if ended != 'later':
    shutil.rmtree(workdir / 'checkpoints')
  before = contents(workdir)
  for place, text in (
    ('other', 'on other data: config.continue_from has other contents, '),
    ('gone', 'is no folder on this machine'),
  ):
    with pytest.raises(ValueError, match=text) as error:
      jobs.train(longer(folder, 9, tmp_path / place), workdir, show=False)
    assert contents(workdir) == before and '\n' not in str(error.value)
  capfd.readouterr()
  jobs.train(longer(folder, 9, tmp_path / 'new'), workdir, show=False)
  (line,) = [x for x in capfd.readouterr().err.splitlines() if 'same by' in x]
  assert f"is '{tmp_path / 'new'}': the same by the fingerprint " in line
  assert (
    metrics_of(workdir)[-1]['train_loss']
    == (metrics_of(whole)[8]['train_loss'])
  )
  data = json.loads((workdir / 'manifest.json').read_text())['data']
  assert data['continued_from'] == str(tmp_path / 'new')
  jobs.train(longer(folder, 9, tmp_path / 'new'), workdir, show=False)
  assert 'same by' not in capfd.readouterr().err  # no longer moved


def test_continue_from_notes_the_schedule(folder, runs, tmp_path, capfd):
  keys = dict(base_lr=0.02, decay_type='cosine')
  jobs.train(longer(folder, 6, runs / '4', **keys), tmp_path, show=False)
  notes = capfd.readouterr().err
  # cosine: 0.02 * (1 + cos(pi * step / 6)) / 2 at steps 4 and 5
  assert "decay_type='cosine'" in notes and 'for 6 updates in all' in notes
  assert 'update 5 has the learning rate 0.005, update 6 has 0.00134' in notes
  assert f'the last of {runs / "4"} was 0.05' in notes
  assert metrics_of(tmp_path)[0]['lr'] == pytest.approx(0.005)


@pytest.mark.parametrize(
  'keys, wanted',
  [
    ({'seed': 1}, 'other settings: seed was 0 and is 1; give those'),
    ({'optim': 'adamw'}, "optim was 'sgd' and is 'adamw'"),
    ({'polyak_decay': 0.0}, 'polyak_decay was 0.5 and is 0.0'),
    ({'train': 'head'}, "train was 'all' and is 'head'"),
    ({'layer_decay': 0.5}, 'layer_decay was None and is 0.5'),
    ({'accum_steps': 2}, 'accum_steps was 1 and is 2'),
    ({'total_steps': 4}, 'total_steps=4 must be above the 4 updates'),
    ({'continue_from': 'nowhere'}, "continue_from='nowhere' is no folder"),
    ({'continue_from': '/'}, 'holds no run; name the workdir'),
  ],
)
def test_continue_from_refuses_other_runs_in_one_line(
  folder, runs, tmp_path, keys, wanted
):
  config = longer(folder, 8, runs / '4') | keys
  with pytest.raises(ValueError, match=wanted) as error:
    jobs.train(config, tmp_path / 'new', show=False)
  assert str(error.value).count('\n') == 0
  assert not (tmp_path / 'new').exists()


def test_continue_from_refuses_the_same_workdir(folder, runs):
  before = contents(runs / '4')
  with pytest.raises(ValueError, match='total_steps was 4 and is 8; choose'):
    jobs.train(longer(folder, 8, runs / '4'), runs / '4', show=False)
  assert contents(runs / '4') == before


def change_description(checkpoint):
  """Writes another sound description, as of another state."""
  description = integrity.read_description(checkpoint)
  description['score'] = 0.5
  description['digest'] = integrity._digest(description)
  (checkpoint / integrity.FILE).write_text(json.dumps(description))


def unfinished(workdir):
  (workdir / 'result.json').unlink()


def without_checkpoint(workdir):
  shutil.rmtree(workdir / 'checkpoints' / '4')


def on_other_data(workdir):
  manifest = json.loads((workdir / 'manifest.json').read_text())
  manifest['data']['train_fingerprint'] = 'another'
  (workdir / 'manifest.json').write_text(json.dumps(manifest))


def damaged(workdir):
  for path in (workdir / 'checkpoints' / '4' / 'state').rglob('*'):
    if path.is_file() and path.stat().st_size > 500:
      path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
  'change, wanted',
  [
    (unfinished, 'has not finished; repeat its command'),
    (without_checkpoint, 'has no checkpoint of its last update'),
    (on_other_data, 'images as before, with other file names or sizes'),
    (damaged, 'checkpoints/4 is damaged '),
  ],
)
def test_continue_from_refuses_incomplete_runs_in_one_line(
  folder, runs, tmp_path, change, wanted
):
  start = tmp_path / 'start'
  shutil.copytree(runs / '4', start)
  change(start)
  before = contents(start)
  with pytest.raises(ValueError, match=wanted) as error:
    jobs.train(longer(folder, 8, start), tmp_path / 'new', show=False)
  assert str(error.value).count('\n') == 0
  assert contents(start) == before
