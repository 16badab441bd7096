"""The folder of a training run, and the files in it.

  config.json    settings; another run may not continue in the folder
  manifest.json  versions, devices, commit, seed, data (runs.manifest)
  image_splits.json  the side of each image of a folder without splits
                 (data.split_records)
  checkpoints/   Orbax (runs.checkpoint)
  damaged/       damaged checkpoints, moved here
  metrics.jsonl  one object a line: step, train_loss, lr, images_per_sec,
                 input_wait (share of the time in which the devices wait for
                 images), and accuracy_test, top5_accuracy_test, loss_test of
                 evaluated steps; of images with several labels also
                 mean_average_precision_test, f1_micro_test, f1_macro_test
                 (..._validation with a validation split; then ..._test once)
  events.out.*   the same for TensorBoard, and settings and images
                 (runs.tensorboard)
  result.json    accuracy, loss, num_examples, step, seconds
  model.npz, model.json  the trained model (weights.model_card)
  best.npz, best.json  the model of the best checkpoint, with `keep_best`
  stopped.json   only after a NaN: step, reason, last_good_step (runs.rescue)
  last_good.npz, last_good.json  the model of the last good state before a NaN
  process_N.log  with several processes: what libraries printed in process N
  .lock          the process that is training here (output.locks)

Only process 0 writes, except process_N.log and the checkpoints. The folder may
be gs://BUCKET/PATH (runs.uploads, output.bucket_locks).
"""

import contextlib
import glob
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from vit_jax_repro.data import split_records, splitting
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import (
  bucket_locks,
  buckets,
  files,
  locations,
  locks,
  run_files,
)
from vit_jax_repro.parallel import native_output
from vit_jax_repro.runs import (
  card_settings,
  checkpoint,
  identity,
  tensorboard,
  uploads,
)

# Settings that change the result by no more than rounding, or only name the
# folders of the data. A run may continue with other values.
FREE = (
  'batch_eval',
  'checkpoint_every',
  'eval_every',
  'hypothesis',
  'keep_best',
  'keep_checkpoints',
  'memory_limit_gb',
  'prefetch',
  'progress_every',
  'question',
  'tfds_data_dir',
  'tfds_manual_dir',
  'mesh.data',
  'mesh.fsdp',
  'mesh.model',
  'model.attention',
  'model.remat',
  'model.remat_policy',
)
# Settings that a run may change which continues a finished one.
SCHEDULE = (
  'base_lr',
  'continue_from',
  'decay_steps',
  'decay_type',
  'total_steps',
  'warmup_steps',
)
_COMPILED = 'compile_seconds'  # a key of manifest.json
FILES = (
  'checkpoints',
  'metrics.jsonl',
  'result.json',
  'model.npz',
  'best.npz',
  'stopped.json',
  'last_good.npz',
)


class Workdir:
  """The folder of a run; `begin` makes it if it does not exist."""

  def __init__(self, folder: str | os.PathLike, config: Mapping[str, Any]):
    """Checks that the folder is new or holds a run of this configuration.

    The attribute `folder` is the path or address, and `local` the folder on
    this machine in which files are written. The attribute `config` is the
    configuration. If the folder holds a run, keys that are None have the values
    of that run, and `moved` is what `identity.moved` found. Nothing is written
    before `begin`, which writes `config`.

    Raises:
      InputError: the folder holds another run, or other files with the names
        of a run's files.
      OSError: the folder cannot be written.
    """
    folder = os.fspath(folder)
    self._first = jax.process_index() == 0
    self._events = None
    self._lock = None
    self._bucket = None
    if buckets.is_url(folder):
      self._bucket = uploads.Uploads(folder, writes=self._first)
      self.folder, self.local = self._bucket.url, self._bucket.folder
    elif not folder or locations.is_address(folder):
      raise InputError(
        f'workdir={folder!r} must be a folder on this machine or gs://BUCKET/'
        'PATH; name one'
      )
    else:
      self.folder = os.path.abspath(os.path.expanduser(folder))
      self.local = self.folder
      _require_utf8(self.folder)
    self.moved: dict[str, tuple[Any, Any]] = {}
    self._found = self._bucket.found if self._bucket else self._version()
    self.config = self._continued(config)
    above = self.local
    while not os.path.exists(above):
      above = os.path.dirname(above)
    if not os.path.isdir(above) or not os.access(above, os.W_OK):
      raise OSError(f'cannot write in {above}; choose another workdir')

  def begin(
    self, manifest: Mapping[str, Any], divided: splitting.Divided | None = None
  ) -> None:
    """Makes and locks the folder; writes config.json and manifest.json.

    Args:
      manifest: the contents of manifest.json.
      divided: the contents of image_splits.json; None for other data.

    Raises:
      InputError: the data set is not the one that the run began with.
      OSError: another process trains in the folder, or has trained there since
        this object was made, or the folder cannot be written.
    """
    new = manifest['data']
    old = self.check_data(new)
    if self._first:
      os.makedirs(self.local, exist_ok=True)
      lock = locks.Lock if self._bucket is None else bucket_locks.BucketLock
      self._lock = lock(
        self.path('.lock'),
        self.folder,
        'wait for it to end or choose another workdir',
      )
      self._require_same_version()
      for name in ('model', 'best', 'last_good'):
        for left in glob.glob(self.file(f'.{name}.npz.*.tmp')):
          os.remove(left)  # from a process that was killed while writing
      self.write_json('config.json', self.config)
      # `old` may have fingerprints of files that do not exist any more.
      now = dict(manifest, data=old | new)
      seconds = self.compilation()
      if seconds is not None:
        now[_COMPILED] = seconds
      if divided is not None:
        self.write_json(split_records.FILE, divided.record())
      self.write_json('manifest.json', now)
    native_output.move(self.file(f'process_{jax.process_index()}.log'))

  def _version(self):
    """Returns what changes whenever a process begins here; None at first."""
    if self._bucket is not None:
      return self._bucket.version()
    try:
      status = os.stat(self.path('config.json'))
    except FileNotFoundError:
      return None
    return status.st_ino, status.st_mtime_ns

  def _require_same_version(self):
    """Refuses files that another process has written since they were read."""
    if self._version() == self._found:
      return
    if self._bucket is not None:
      self._bucket.give_up()
    raise locks.InUseError(
      f'another process has trained in {self.folder} since this one started; '
      'repeat the command'
    )

  def begun(self) -> dict[str, Any]:
    """Returns the manifest's description of the data; {} for a new run."""
    return self.read_json('manifest.json').get('data', {})

  def check_data(self, new: Mapping[str, Any]) -> dict[str, Any]:
    """Compares a description of the data with that of the run's manifest.

    Returns:
      The manifest's description; {} for a new run.

    Raises:
      InputError: a key of both has another value, or data or weights have
        another place and nothing shows that they are the same.
    """
    old = self.begun()
    holder = f'{self.folder} holds a run'
    identity.require_same(old, new, self.moved, holder, self._way_on())
    return old

  def record_compilation(self, seconds: float) -> None:
    """Writes to manifest.json how long the update took to compile."""
    self.write_json(
      'manifest.json', {**self.read_json('manifest.json'), _COMPILED: seconds}
    )

  def compilation(self) -> float | None:
    """Returns the seconds of the last compilation here; None if unknown."""
    return self.read_json('manifest.json').get(_COMPILED)

  def path(self, name: str) -> str:
    """Returns the path of a file in the folder."""
    return os.path.join(self.folder, name)

  def file(self, name: str) -> str:
    """Returns the path on this machine at which a file is written."""
    return os.path.join(self.local, name)

  def publish(self, name: str) -> None:
    """Uploads a file that was written at `file(name)`, if it must be."""
    if self._bucket is not None and self._first:
      self._check()
      self._bucket.put(name)

  def publish_metrics(self) -> None:
    """Uploads the metrics and events; a checkpoint must not precede them."""
    if self._bucket is not None:
      self._check()
      if self._events is not None:
        self._events.flush()
      self._bucket.put_growing()

  def has(self, name: str) -> bool:
    """Returns whether the folder has a file or folder of this name."""
    if self._bucket is not None:
      return name in self._bucket.names
    return os.path.exists(self.path(name))

  def saved_steps(self) -> list[int]:
    """Returns the steps of the checkpoints."""
    if not self.has('checkpoints'):
      return []
    if self._bucket is not None:
      names = buckets.names(self.path('checkpoints'))
    else:
      names = os.listdir(self.path('checkpoints'))
    return [int(name) for name in names if name.isdecimal()]

  def checkpoints(self, **options: Any) -> checkpoint.Checkpoints:
    """Returns the checkpoints of the run, with options of Checkpoints."""
    if self._bucket is None:
      return checkpoint.Checkpoints(self.path('checkpoints'), **options)
    return checkpoint.Checkpoints(
      self._bucket.checkpoints(), storage=self._bucket.storage(), **options
    )

  def read_json(self, name: str) -> dict[str, Any]:
    """Reads a JSON file of the folder; returns {} if it does not exist."""
    path = self.file(name)
    if not os.path.exists(path):
      return {}
    return run_files.read(path, 'choose another workdir')

  def write_json(self, name: str, value: Any) -> None:
    """Writes a JSON file atomically, in process 0 only."""
    if self._first:
      files.write_json(self.file(name), value)
      self.publish(name)

  def finish(self, result: Mapping[str, Any]) -> None:
    """Writes result.json, after all other files."""
    self.publish_metrics()
    self.write_json('result.json', result)

  def continue_metrics(self, step: int) -> None:
    """Removes the metrics of steps after `step`, which come again."""
    path = self.file('metrics.jsonl')
    if not self._first or not os.path.exists(path):
      return
    with open(path, 'rb') as file:
      lines = file.readlines()
    read = ((line, run_files.metric(line)) for line in lines)
    kept = [line for line, found in read if found and found['step'] <= step]
    files.write_text(path, b''.join(kept).decode())
    tensorboard.continue_from(self.local, step)

  def write_metrics(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends a line to metrics.jsonl and the TensorBoard events."""
    if not self._first:
      return
    path = self.file('metrics.jsonl')
    with (
      files.naming_full_disk(path),
      open(path, 'a', encoding='utf-8') as file,
    ):
      file.write(json.dumps({'step': step, **scalars}) + '\n')
    self.events.scalars(step, scalars)
    if self._bucket is not None:
      self._check()
      if self._bucket.may_put_growing():
        self.events.flush()
        self._bucket.begin_growing()

  @property
  def events(self) -> tensorboard.Events:
    """The files for TensorBoard; only process 0 may write to them."""
    if self._events is None:
      self._events = tensorboard.Events(self.local)
    return self._events

  def close(self) -> None:
    """Flushes the TensorBoard events and releases the lock of the folder."""
    if self._events is not None:
      self._events.close()
    if self._bucket is not None:
      self._bucket.close()
    if self._lock is not None:
      self._lock.release()
      self._lock = None

  def _check(self):
    """Raises an error if another process has taken over the run."""
    if isinstance(self._lock, bucket_locks.BucketLock):
      try:
        self._lock.check()
      except OSError:
        if self._bucket is not None:
          self._bucket.give_up()
        raise

  def _continued(self, config):
    begun = self.read_json('config.json')
    if not begun:
      found = [n for n in FILES if self.has(n)]
      if found:
        raise InputError(
          f'{self.folder} has {found} and no config.json, so it holds no run '
          'that could continue; choose another workdir'
        )
      return config
    identity.check(begun, self.path('config.json'), 'choose another workdir')
    config = card_settings.settled(
      config, traverse_util.flatten_dict(begun, sep='.')
    )
    if self.has('manifest.json'):  # else nothing was trained
      self.moved = identity.moved(begun, config, FREE)
    free = (*FREE, *self.moved)
    changed = identity.differences(begun, config, free)
    if changed:
      is_schedule = not identity.differences(begun, config, (*free, *SCHEDULE))
      raise InputError(
        f'{self.folder} holds a run with other settings: '
        f'{"; ".join(changed)}; {self._way_on(is_schedule=is_schedule)}'
      )
    return config

  def _way_on(self, *, is_schedule=False):
    """Returns what else a user can do, who cannot continue in the folder."""
    elsewhere = 'choose another workdir'
    has_ended = self.has('result.json') or self.has('stopped.json')
    if is_schedule and has_ended:
      return f'{elsewhere}; --config.continue_from={self.folder} goes on there'
    if self.has('model.npz'):
      model = self.folder
    elif self._bucket is None and self.saved_steps():
      model = self.path(f'checkpoints/{max(self.saved_steps())}')
    else:
      return elsewhere
    return f'{elsewhere}; --config.pretrained_dir={model} starts from its model'


def _require_utf8(folder):
  """Refuses a folder that TensorStore would take for another one.

  It writes UTF-8, whatever the code of names of files is.
  """
  with contextlib.suppress(UnicodeEncodeError):
    if folder.encode() == os.fsencode(folder):
      return
  code = sys.getfilesystemencoding()
  raise InputError(
    f'workdir {folder} has bytes that are not UTF-8, which no checkpoint can '
    'be written below; name another folder'
    + f', or set PYTHONUTF8=1: Python reads names as {code}'
    * (code != 'utf-8')
  )
