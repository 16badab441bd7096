"""Runs that are stopped in many ways, and what is compared at their end."""

import json
import os
import pathlib
import resource
import signal
import time

import child_processes
import numpy as np
import run_lines
import tfds_fixtures

from vit_jax_repro.weights import npz

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
LIFE_SECONDS = 4  # more than until the first update
TOTAL_STEPS, CHECKPOINT_EVERY = 220, 10
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
  '--config.accum_steps=2',
  '--config.batch_eval=8',
  '--config.progress_every=1',
  '--config.eval_every=100',
  '--config.mixup_alpha=0.3',
  '--config.polyak_decay=0.9',
  '--config.model.hidden_size=48',
  '--config.model.transformer.num_layers=1',
  '--config.model.transformer.mlp_dim=96',
  '--config.model.transformer.num_heads=2',
  '--config.model.transformer.dropout_rate=0.2',
)


def write_data(root):
  """Writes CIFAR-10 in TFDS's format, with a few images of noise."""
  rng = np.random.default_rng(0)
  examples = [
    {'image': rng.integers(0, 256, (32, 32, 3), np.uint8), 'label': i % 10}
    for i in range(60)
  ]
  splits = {'train': examples[:44], 'test': examples[44:]}
  tfds_fixtures.write(root, 'cifar10', splits)


def arguments(data, workdir, *keys):
  """Returns the arguments of `main`."""
  return [
    f'--config={CONFIGS}/quickstart.py',
    f'--workdir={workdir}',
    f'--config.tfds_data_dir={data}',
    *KEYS,
    *keys,
  ]


class Run:
  """A run that is started again and again.

  Attributes:
    workdir: its folder.
    children: its processes, since the last start.
  """

  def __init__(self, data, workdir, *keys, processes=1):
    """Starts nothing yet.

    Args:
      data: the TFDS directory.
      workdir: the folder of the run.
      *keys: arguments of `main` besides those of `arguments`.
      processes: the number of processes, 1 or 2.
    """
    self.workdir = workdir
    self.children = []
    self._flags = arguments(data, workdir, *keys)
    self._processes = processes
    self._newest = self._metrics = None
    self._damaged = set()

  def start(self):
    """Starts the processes."""
    self._newest = max({*self.saved()} - self._damaged, default=0)
    self._metrics = _inode(self.workdir / 'metrics.jsonl')
    if self._processes == 1:
      verb = child_processes.verb
      self.children = [
        child_processes.Child(verb, 'main', self._flags, devices=1)
      ]
    else:
      self.children = child_processes.in_two('main', *self._flags)

  def finish(self):
    """Waits for the end of the run."""
    codes = {child.wait() for child in self.children}
    assert codes == {0}, self.errors()

  def errors(self):
    """Returns what the processes have written on standard error."""
    return '\n'.join(child.stderr for child in self.children)

  def saved(self):
    """Returns the steps of the whole checkpoints."""
    folder = self.workdir / 'checkpoints'
    if not folder.exists():
      return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())

  def is_near_end(self):
    """Returns whether the next life could reach the end of the run."""
    return max(self.saved(), default=0) > TOTAL_STEPS - 3 * CHECKPOINT_EVERY

  def is_saving(self):
    return any(self.workdir.glob('checkpoints/*.orbax-checkpoint-tmp*'))

  def last_step(self):
    """Returns the step of the last whole line; another may be half written."""
    path = self.workdir / 'metrics.jsonl'
    whole = path.read_text().split('\n')[:-1] if path.exists() else []
    return json.loads(whole[-1])['step'] if whole else 0

  def wait_until(self, condition):
    """Waits until a condition holds, while nothing that was saved is lost."""
    while not condition():
      assert all(x.is_running() for x in self.children), self.errors()
      # The run resumes at `newest`, or these lines would be gone.
      assert self.last_step() >= self._newest
      time.sleep(0.003)

  def wait_for_start(self, rng):
    """Waits for a random moment while the run starts or soon after."""
    end = time.monotonic() + rng.uniform(0, LIFE_SECONDS * self._processes)
    far = self._newest + 2 * CHECKPOINT_EVERY
    self.wait_until(lambda: time.monotonic() > end or self.last_step() > far)

  def wait_for_update(self, rng):
    """Waits for a random moment after one of the next updates."""
    step = self._newest + rng.randint(1, 2 * CHECKPOINT_EVERY)
    self.wait_until(self._goes_on)
    self.wait_until(lambda: self.last_step() >= step)
    time.sleep(rng.uniform(0, 0.03))

  def wait_for_save(self, rng):
    """Waits for a random moment in the next save."""
    self.wait_until(self._goes_on)
    self.wait_until(
      lambda: self.last_step() > self._newest and self.is_saving()
    )
    time.sleep(rng.uniform(0, 0.01))

  def kill(self, rng):
    """Kills all processes, one soon after the other.

    A process that notices the end of another may end by itself before.
    """
    assert all(child.is_running() for child in self.children), self.errors()
    for child in rng.sample(self.children, len(self.children)):
      child.kill()
      time.sleep(rng.uniform(0, 0.05))
    self._assert_kept()

  def terminate(self, rng):
    """Sends SIGTERM to one process, and waits for the end of all."""
    os.kill(rng.choice(self.children).pid, signal.SIGTERM)
    codes = {child.wait() for child in self.children}
    assert codes == {128 + signal.SIGTERM}, (codes, self.errors())
    self._assert_kept()
    assert self.saved()[-1] == self.last_step()

  def damage(self):
    """Flips a bit of the newest checkpoint, which the next start drops."""
    newest = self.saved()[-1]
    flip(largest(self.workdir / 'checkpoints' / str(newest)))
    self._damaged = {newest}

  def fill_disk(self, *numbers):
    """Lets no file grow as large as a model, like a full disk.

    Other files of the run, and what it prints, are smaller.

    Args:
      *numbers: of the processes whose disk is full; by default all.
    """
    for child in [self.children[x] for x in numbers] or self.children:
      hard = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)[1]
      resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (70_000, hard))

  def end_on_full_disk(self):
    """Waits for the end of all processes; each names one reason.

    The disk may be full while only one of them writes.
    """
    codes = {child.wait() for child in self.children}
    assert codes == {1}, self.errors()
    reasons = []
    for child in self.children:
      lines = run_lines.others(child.stderr)
      reasons += [x for x in lines if x.startswith('main')]
    assert len(reasons) == len(self.children), self.errors()
    assert any('cannot write' in x for x in reasons), self.errors()
    assert all('cannot' in x for x in reasons), self.errors()

  def _goes_on(self):
    """Returns whether the run resumed: it then writes a new metrics file."""
    return _inode(self.workdir / 'metrics.jsonl') not in (None, self._metrics)

  def _assert_kept(self):
    assert self.last_step() >= self._newest
    assert max(self.saved(), default=0) >= self._newest


def _inode(path):
  return path.stat().st_ino if path.exists() else None


def flip(path):
  """Flips a bit in the middle of a file."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def largest(checkpoint):
  """Returns the largest file that a state is read from.

  The folders of single processes have copies that nothing reads.
  """
  files = (checkpoint / 'state' / 'd').iterdir()
  return max(files, key=lambda path: path.stat().st_size)


def assert_same(left, right):
  """Compares parameters, losses and accuracies of two runs bit by bit."""
  assert_same_parameters(left, right)
  rows = [
    [
      (row['step'], row['train_loss'], row.get('accuracy_test'))
      for row in map(json.loads, (x / 'metrics.jsonl').read_text().splitlines())
    ]
    for x in (left, right)
  ]
  assert rows[0] == rows[1]
  assert [row[0] for row in rows[0]] == list(range(1, len(rows[0]) + 1))


def assert_same_parameters(left, right):
  """Compares the model.npz of two runs bit by bit."""
  found, wanted = (dict(npz.read(x / 'model.npz')) for x in (left, right))
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(array, found[name], err_msg=name)
