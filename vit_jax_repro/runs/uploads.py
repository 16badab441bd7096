"""The files of a run in a bucket, written here first and then uploaded.

Programs append to metrics and TensorBoard's events, which no bucket allows. So
a run in a bucket has a folder on this machine with its small files. Each upload
replaces the whole file in the bucket. Checkpoints do not pass through it.
"""

import atexit
import concurrent.futures
import contextlib
import os
import pathlib
import re
import shutil
import tempfile
import time
from typing import Any

from vit_jax_repro.output import bucket_calls, buckets
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs import checkpoint

# The files that a run reads when it continues.
_READ = re.compile(r'metrics\.jsonl|.*\.json')
_GROWING = re.compile(r'metrics\.jsonl|events\.out\..*|process_\d+\.log')
_PERIOD = 20.0  # seconds between two uploads of what grows


class Uploads:
  """The files of a run on this machine and in a bucket.

  Attributes:
    url: gs://BUCKET/PATH of the run.
    folder: the folder on this machine.
    found: `version` before the files were downloaded.
  """

  def __init__(self, url: str, *, writes: bool):
    """Checks the bucket, and downloads the small files of a run in it.

    Args:
      url: the address of the run.
      writes: whether this process writes the files of the run.

    Raises:
      InputError: gcsfs is not installed, or `url` is no address of a run.
      BucketError: the bucket does not exist, refuses, or does not answer.
    """
    self.url = buckets.clean_run(url)
    buckets.require(self.url, writable=writes)
    self.folder = tempfile.mkdtemp(prefix='vit_jax_repro-')
    atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
    self.found = self.version()
    self.names = buckets.names(self.url)
    for name in filter(_READ.fullmatch, self.names):
      buckets.download(f'{self.url}/{name}', self._local(name))
    self._uploaded = {name: self._state(name) for name in self._growing()}
    self._pool = concurrent.futures.ThreadPoolExecutor(1)
    self._running: concurrent.futures.Future | None = None
    self._last = time.monotonic()
    self._failed = False

  def version(self) -> Any:
    """Returns the version of config.json in the bucket; None without one."""
    found = buckets.info(f'{self.url}/config.json')
    return found and found['generation']

  def put(self, name: str) -> None:
    """Uploads a file; it is in the bucket when this returns.

    Raises:
      BucketError: the bucket refuses or does not answer.
    """
    content = pathlib.Path(self._local(name)).read_bytes()
    try:
      buckets.write(f'{self.url}/{name}', content)
    except FileNotFoundError:
      self._failed = True
      raise bucket_calls.BucketError(
        f'{self.url}: the bucket is gone; make it and repeat the command'
      ) from None
    except OSError:
      self._failed = True
      raise

  def put_growing(self) -> None:
    """Uploads the metrics and events that have changed; errors as `put`."""
    self._settle()
    self._sync()

  def may_put_growing(self) -> bool:
    """Returns whether it is time to upload what grows, in the background.

    Raises:
      BucketError: the last such upload has failed.
    """
    if self._running is not None and not self._running.done():
      return False
    self._settle()
    return time.monotonic() - self._last >= _PERIOD

  def begin_growing(self) -> None:
    """Begins to upload, in the background, what has changed."""
    self._last = time.monotonic()
    self._running = self._pool.submit(self._sync)

  def close(self) -> None:
    """Uploads what is left, if the bucket answers; raises nothing."""
    if self._failed:
      self._pool.shutdown(wait=False, cancel_futures=True)
      return
    try:
      self._settle()
      with bucket_calls.at_once():
        self._sync()
    except OSError as error:
      note(f'the last metrics are not in the bucket: {error}')
    self._pool.shutdown()

  def give_up(self) -> None:
    """Uploads nothing more."""
    self._failed = True

  def storage(self) -> checkpoint.Storage:
    """Returns how checkpoints are written to this bucket."""
    return checkpoint.Storage(
      call=lambda function: buckets.patiently(self.url, function),
      move=buckets.move,
    )

  def checkpoints(self) -> Any:
    """Returns the folder of the checkpoints, an epath.Path."""
    return buckets.path(f'{self.url}/checkpoints')

  def _settle(self):
    """Waits for the upload in the background; raises its error."""
    if self._running is not None:
      running, self._running = self._running, None
      running.result()

  def _sync(self):
    for name in self._growing():
      state = self._state(name)
      if self._uploaded.get(name) != state:
        self.put(name)
        self._uploaded[name] = state

  def _growing(self):
    with contextlib.suppress(FileNotFoundError):
      return sorted(filter(_GROWING.fullmatch, os.listdir(self.folder)))
    return []

  def _state(self, name):
    found = os.stat(self._local(name))
    return found.st_size, found.st_mtime_ns

  def _local(self, name):
    return os.path.join(self.folder, name)
