"""Runs whose data or weights have moved, or have changed."""

import json
import shutil

import pytest
import student_runs
import tiny_models
from training_sets import write_folder

from vit_jax_repro import jobs, weights
from vit_jax_repro.runs import identity

NUMBER = 12  # images; digit 0 and digit 1 have two


def settings(root, **changes):
  return student_runs.settings(
    root / 'data',
    pretrained_dir=str(root / 'start.npz'),
    model=dict(tiny_models.VIT, num_layers=1),
    total_steps=2,
  ) | dict(changes)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """Makes data, weights, and a run of two updates in the folder `run`."""
  root = tmp_path_factory.mktemp('first')
  write_folder(root / 'data', NUMBER)
  spec = tiny_models.spec(10, num_layers=1)
  weights.save(root / 'start.npz', tiny_models.params_of(spec))
  jobs.train(settings(root), root / 'run', show=False)
  return root


@pytest.fixture
def there(finished, tmp_path):
  """Copies everything to another place, where the run is not finished."""
  root = tmp_path / 'there'
  shutil.copytree(finished, root)
  (root / 'run' / 'model.npz').unlink()
  return root


def refusal(config, workdir):
  """Returns the line with which a run ends, which changes no file."""
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  with pytest.raises(ValueError) as error:
    jobs.train(config, workdir, show=False)
  assert {p: p.stat().st_mtime_ns for p in workdir.rglob('*')} == before
  assert '\n' not in str(error.value)
  return str(error.value)


def config_of(workdir):
  return json.loads((workdir / 'config.json').read_text())


def test_train_resumes_on_moved_data_and_weights(finished, there, capsys):
  result = jobs.train(settings(there), there / 'run', show=False)
  assert result.step == 2
  notes = [x for x in capsys.readouterr().err.splitlines() if 'same by' in x]
  for key, name, line in zip(
    ('dataset', 'pretrained_dir'), ('data', 'start.npz'), notes, strict=True
  ):
    assert line.startswith(
      f"note: config.{key} was '{finished / name}' and is '{there / name}': "
      'the same by the fingerprint '
    )
    assert config_of(there / 'run')[key] == str(there / name)
  jobs.train(settings(there), there / 'run', show=False)  # no longer moved
  assert 'same by' not in capsys.readouterr().err


def test_train_continues_a_finished_run_on_moved_data(
  finished, there, tmp_path, capsys
):
  more = dict(continue_from=str(finished / 'run'), total_steps=3)
  config = settings(there, **more)
  assert jobs.train(config, tmp_path / 'longer', show=False).step == 3
  assert capsys.readouterr().err.count('the same by the fingerprint') == 2
  lose_an_image(there / 'data')
  with pytest.raises(ValueError, match='holds a run on other data: the train'):
    jobs.train(config, tmp_path / 'other', show=False)
  assert not (tmp_path / 'other').exists()


def change_a_class(data):
  (data / 'train' / 'digit 0').rename(data / 'train' / 'cats')


def lose_an_image(data):
  next((data / 'train' / 'digit 1').iterdir()).unlink()


def change_a_size(data):
  with open(next((data / 'train' / 'digit 1').iterdir()), 'ab') as file:
    file.write(b'more')


@pytest.mark.parametrize(
  'change, text',
  [
    (
      change_a_class,
      'lacks the classes digit 0, has the new classes cats, has 12 images as '
      'before, with other file names or sizes',
    ),
    (
      lose_an_image,
      "had 2 images of 'digit 1' and has 1, had 12 images in all and has 11",
    ),
    (
      change_a_size,
      'has 12 images as before, with other file names or sizes',
    ),
  ],
)
def test_train_says_which_images_are_others(change, text, there):
  change(there / 'data')
  line = refusal(settings(there), there / 'run')
  assert line == (
    f'{there}/run holds a run on other data: the train split {text}; choose '
    f'another workdir; --config.pretrained_dir={there}/run/checkpoints/2 '
    'starts from its model'
  )


def test_train_refuses_weights_that_are_others_or_gone(there):
  path = there / 'start.npz'
  params = weights.load(path)
  params['cls'] = params['cls'] + 1
  weights.save(path, params)
  line = refusal(settings(there), there / 'run')
  text = 'other data: config.pretrained_dir has other contents, pretrained_fing'
  assert text in line
  path.unlink()
  line = refusal(settings(there), there / 'run')
  assert f"/start.npz' and is '{path}', and no fingerprint shows that" in line


@pytest.mark.parametrize(
  'changes, way',
  [
    (dict(total_steps=3), '--config.continue_from={} goes on there'),
    (dict(seed=1), '--config.pretrained_dir={} starts from its model'),
    (dict(dataset='digits'), '--config.pretrained_dir={} starts from'),
    (dict(pretrained_dir=None), '--config.pretrained_dir={} starts from'),
  ],
)
def test_train_names_the_way_on_from_other_settings(changes, way, finished):
  run = finished / 'run'
  line = refusal(settings(finished, **changes), run)
  assert f'holds a run with other settings: {next(iter(changes))} was ' in line
  assert f'; choose another workdir; {way.format(run)}' in line


def test_train_names_continue_from_after_a_loss_that_was_not_finite(there):
  run = there / 'run'
  (run / 'result.json').rename(run / 'stopped.json')
  line = refusal(settings(there, base_lr=0.001), run)
  assert line.endswith(f'--config.continue_from={run} goes on there')


def test_require_same_describes_data_of_older_runs():
  """Their manifests have fingerprints and no classes."""
  old, new = ({'train_fingerprint': x} for x in 'ab')
  text = "a run on other data: train_fingerprint was 'a' and is 'b'; try"
  with pytest.raises(ValueError, match=text):
    identity.require_same(old, new | dict(train_images=3), {}, 'a run', 'try')


def test_require_same_compares_a_moved_teacher():
  places = dict(teacher=('/a', '/b'))
  same = dict(teacher_fingerprint='12')
  identity.require_same(same, same, places, 'a run', 'try')
  with pytest.raises(ValueError, match='no fingerprint shows'):
    identity.require_same({}, same, places, 'a run', 'try')
