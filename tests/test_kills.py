"""Tests that killed runs and damaged runs end like an undisturbed one."""

import json
import os
import random
import resource
import shutil
import signal
import time

import child_processes
import numpy as np
import pytest
import run_lines
import tfds_fixtures

from vit_jax_repro.weights import npz

CONFIGS = os.path.join(os.path.dirname(__file__), '..', 'configs')
TOTAL_STEPS, CHECKPOINT_EVERY = 220, 7
BEFORE = 217  # the checkpoint before the last
LIFE_SECONDS = 4  # more than until the first update
KEYS = (
  f'--config.total_steps={TOTAL_STEPS}',
  f'--config.checkpoint_every={CHECKPOINT_EVERY}',
  '--config.dataset=cifar10',
  '--config.pp.test=test',
  '--config.pp.train=train',
  '--config.pp.inception_crop=True',
  '--config.pp.flip=True',
  '--config.warmup_steps=1',
  '--config.batch=8',
  '--config.batch_eval=8',
  '--config.progress_every=1',
  '--config.eval_every=100',
  '--config.mixup_alpha=0.3',
  '--config.polyak_decay=0.9',
  '--config.model.hidden_size=8',
  '--config.model.transformer.num_layers=1',
  '--config.model.transformer.mlp_dim=8',
  '--config.model.transformer.num_heads=2',
  '--config.model.transformer.dropout_rate=0.2',
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """CIFAR-10 in TFDS's format, with a few images of noise."""
  root = tmp_path_factory.mktemp('tfds')
  rng = np.random.default_rng(0)
  examples = [
    {'image': rng.integers(0, 256, (32, 32, 3), np.uint8), 'label': i % 10}
    for i in range(60)
  ]
  splits = {'train': examples[:44], 'test': examples[44:]}
  tfds_fixtures.write(root, 'cifar10', splits)
  return root


def arguments(data, workdir):
  return [
    f'--config={CONFIGS}/quickstart.py',
    f'--workdir={workdir}',
    f'--config.tfds_data_dir={data}',
    *KEYS,
  ]


def start(data, workdir):
  """Starts `main` in a process of its own."""
  flags = arguments(data, workdir)
  return child_processes.Child(child_processes.verb, 'main', flags, devices=1)


def lines(path):
  return path.read_text().splitlines()


def last_step(workdir):
  """Returns the step of the last whole line; another may be half written."""
  path = workdir / 'metrics.jsonl'
  whole = path.read_text().split('\n')[:-1] if path.exists() else []
  return json.loads(whole[-1])['step'] if whole else 0


def steps_in(folder):
  if not folder.exists():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def is_saving(workdir):
  return any((workdir / 'checkpoints').glob('*.orbax-checkpoint-tmp*'))


def assert_same(left, right):
  """Compares parameters, losses and accuracies bit by bit."""
  assert_same_parameters(left, right)
  rows = [
    [
      (row['step'], row['train_loss'], row.get('accuracy_test'))
      for row in map(json.loads, lines(x / 'metrics.jsonl'))
    ]
    for x in (left, right)
  ]
  assert rows[0] == rows[1]
  assert [row[0] for row in rows[0]] == list(range(1, len(rows[0]) + 1))


def assert_same_parameters(left, right):
  found, wanted = (dict(npz.read(x / 'model.npz')) for x in (left, right))
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(array, found[name], err_msg=name)


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
  """The workdir of an undisturbed run."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  child = start(data, workdir)
  assert child.wait() == 0, child.stderr
  return workdir


def inode(path):
  return path.stat().st_ino if path.exists() else None


def kill(child, workdir, number, rng, newest, metrics):
  """Kills a run: while it starts, after an update or during a save, in turn.

  A resumed run writes a new metrics file, with an inode other than `metrics`.
  """

  def wait_until(condition):
    while not condition():
      assert child.is_running(), child.stderr
      # The run resumes at `newest`, or these lines would be gone.
      assert last_step(workdir) >= newest
      time.sleep(0.003)

  def goes_on():
    return inode(workdir / 'metrics.jsonl') not in (None, metrics)

  if number % 3 == 0:  # while it starts or soon after
    end = time.monotonic() + rng.uniform(0, LIFE_SECONDS)
    far = newest + 2 * CHECKPOINT_EVERY
    wait_until(lambda: time.monotonic() > end or last_step(workdir) > far)
  elif number % 3 == 1:  # after any update
    step = newest + rng.randint(1, 2 * CHECKPOINT_EVERY)
    wait_until(goes_on)
    wait_until(lambda: last_step(workdir) >= step)
    time.sleep(rng.uniform(0, 0.03))
  else:  # in a save
    wait_until(goes_on)
    wait_until(lambda: last_step(workdir) > newest and is_saving(workdir))
    time.sleep(rng.uniform(0, 0.01))
  assert child.is_running(), child.stderr
  child.kill()


def test_run_ends_the_same_after_twenty_kills(data, whole, tmp_path):
  """Some kills hit a save. Dropout, mixup and parameter averages are on."""
  rng, workdir, inside = random.Random(0), tmp_path / 'run', 0
  for number in range(20):
    newest = max(steps_in(workdir / 'checkpoints'), default=0)
    metrics = inode(workdir / 'metrics.jsonl')
    child = start(data, workdir)
    kill(child, workdir, number, rng, newest, metrics)
    assert last_step(workdir) >= newest
    assert max(steps_in(workdir / 'checkpoints'), default=0) >= newest
    assert not run_lines.others(child.stderr)
    inside += is_saving(workdir)
  assert inside >= 2 and not (workdir / 'model.npz').exists()
  child = start(data, workdir)
  assert child.wait() == 0, child.stderr
  assert_same(workdir, whole)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(checkpoint):
  """Returns the largest file that a state is read from.

  The folders of single processes have copies that nothing reads.
  """
  files = (checkpoint / 'state' / 'd').iterdir()
  return max(files, key=lambda path: path.stat().st_size)


def unfinished(whole, workdir):
  """Copies a run as if killed before it wrote its model."""
  shutil.copytree(whole, workdir)
  (workdir / 'model.npz').unlink()
  return workdir / 'checkpoints'


def test_run_resumes_from_the_checkpoint_before_a_damaged_one(
  data, whole, tmp_path
):
  children = {}
  for damage in (flip, truncate, os.remove):
    workdir = tmp_path / damage.__name__
    checkpoints = unfinished(whole, workdir)
    assert steps_in(checkpoints) == [BEFORE, TOTAL_STEPS]
    damage(largest(checkpoints / str(TOTAL_STEPS)))
    children[workdir] = start(data, workdir)
  for workdir, child in children.items():
    assert child.wait() == 0, child.stderr
    (note,) = run_lines.others(child.stderr)
    named = workdir / 'checkpoints' / str(TOTAL_STEPS)
    assert note.startswith(f'note: checkpoint {named} is damaged (')
    assert f'using that of step {BEFORE} and moving it to' in note
    started = f'start      resumes at step {BEFORE} of {TOTAL_STEPS}'
    assert started in child.stderr.splitlines()
    assert steps_in(workdir / 'damaged') == [TOTAL_STEPS]
    assert_same(workdir, whole)


def limited(arguments):
  """Runs `main` with files limited to 9000 bytes, like a full disk."""
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
  resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
  child_processes.verb('main', arguments)


def test_run_resumes_after_a_full_disk(data, whole, tmp_path):
  workdir = tmp_path / 'run'
  checkpoints = unfinished(whole, workdir)
  shutil.rmtree(checkpoints / str(TOTAL_STEPS))
  (workdir / 'metrics.jsonl').write_text('')
  child = child_processes.Child(limited, arguments(data, workdir), devices=1)
  assert child.wait() == 1
  *_, line = child.stderr.splitlines()
  assert line.startswith(f'main: cannot write a checkpoint in {checkpoints}: ')
  assert line.endswith('; the earlier ones are as they were')
  assert 'Traceback' not in child.stderr
  assert steps_in(checkpoints) == [BEFORE]
  child = start(data, workdir)
  assert child.wait() == 0, child.stderr
  assert_same_parameters(workdir, whole)
