"""Several processes that train or evaluate as one: how they find each other.

To be called before JAX looks for devices. A launcher that starts the same
command several times says in the environment who is who: SLURM and Open MPI in
variables, Cloud TPU by its metadata. Reading those is JAX's own business
(jax.distributed.initialize); here is decided whether there is anything to
join, and what goes wrong becomes one line. JAX would end the process with a
stack trace of C++ instead, and wait five minutes before it does.
"""

import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Mapping

import jax
import numpy as np

from vit_jax_repro.errors import InputError

# How long after the death of one process the others go on, at most; JAX's own.
HEARTBEAT_SECONDS = 100
_GRACE_SECONDS = 60  # that JAX waits longer than we do


def initialize(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  mode: str = 'auto',
  timeout: int = 300,
  heartbeat_timeout: int = HEARTBEAT_SECONDS,
  ends_at_sigterm: bool = False,
) -> None:
  """Joins the other processes of this job; does nothing where there are none.

  Args:
    coordinator_address: 'HOST:PORT' of process 0, the same in all; or None:
      as `launcher` finds.
    num_processes, process_id: given with it; 0 <= process_id < num_processes.
    mode: without an address, 'auto' joins where there is a launcher, 'on' lets
      JAX look for any that it knows and insists, 'off' stays alone.
    timeout: seconds to wait for the others.
    heartbeat_timeout: seconds without a sign of life after which a process
      counts as dead.
    ends_at_sigterm: whether SIGTERM ends a process, as it does outside of
      JAX. By default JAX takes it, for `preemption`.

  Raises:
    InputError: nothing to join, or what the launcher says is not enough.
    OSError: the address is taken, or the others did not come in time.
  """
  options = dict(heartbeat_timeout_seconds=heartbeat_timeout)
  found = None
  if coordinator_address is not None:
    if process_id == 0:
      _require_free(coordinator_address)
    where = f'coordinator at {coordinator_address}'
    options |= dict(
      coordinator_address=coordinator_address,
      num_processes=num_processes,
      process_id=process_id,
      # Or SLURM would be asked which devices to use.
      cluster_detection_method='deactivate',
    )
  else:
    found = launcher(os.environ) if mode != 'off' else None
    if found is None and mode != 'on':
      return
    where = f'processes that {found or "the launcher"} started'
    if found == 'SLURM':
      options['local_device_ids'] = slurm_devices(os.environ)
  if ends_at_sigterm:
    jax.config.update('jax_enable_preemption_service', False)
  # A TPU that is of no slice, such as a notebook's, has nobody to join.
  alone_is_right = mode == 'auto' and found == 'Cloud TPU'
  _join(options, where, timeout, alone_is_right)


def launcher(environ: Mapping[str, str]) -> str | None:
  """What started this process as one of several, as the environment tells.

  SLURM only with more than one task in this step (`srun`), Open MPI likewise.
  Cloud TPU whenever JAX has found chips of it, as every slice has its
  metadata, a single host too. Kubernetes is not among them: tasks of an
  indexed job may well be runs of their own.
  """
  if _number(environ, 'SLURM_STEP_NUM_TASKS') > 1 and 'SLURM_PROCID' in environ:
    return 'SLURM'
  if _number(environ, 'OMPI_COMM_WORLD_SIZE') > 1:
    return 'Open MPI'
  if 'tpu' in (jax.config.jax_platforms or '').split(','):
    return 'Cloud TPU'
  return None


def slurm_devices(environ: Mapping[str, str]) -> list[int] | None:
  """Which GPUs of those that SLURM lets this task see are its own.

  JAX gives each task the one whose number is the task's on its node. That is
  right with a task for each GPU of a node, leaves all others idle with one
  task a node, and fails where SLURM shows each task its own GPU alone.

  Returns:
    Numbers among the visible GPUs; None where there are none.
  """
  visible = environ.get('CUDA_VISIBLE_DEVICES', '')
  number = len([name for name in visible.split(',') if name])
  tasks = _number(environ, 'SLURM_STEP_NUM_TASKS')
  nodes = _number(environ, 'SLURM_STEP_NUM_NODES') or 1
  here = -(-tasks // nodes)
  if not number:
    return None
  if number < here or environ.get('SLURM_GPUS_PER_TASK'):
    return list(range(number))  # SLURM has divided them
  share = number // here
  first = _number(environ, 'SLURM_LOCALID') * share
  return list(range(first, first + share))


def is_alone() -> bool:
  """Whether there is this one process only."""
  return jax.process_count() == 1


def is_first() -> bool:
  """Whether this is the process that prints and writes."""
  return jax.process_index() == 0


def _number(environ, name):
  text = environ.get(name, '')
  return int(text) if text.isdecimal() else 0


def _join(options, where, timeout, alone_is_right):
  """Calls JAX from a thread, as a failure there would end the process."""
  errors = []

  def call():
    try:
      jax.distributed.initialize(
        initialization_timeout=timeout + _GRACE_SECONDS, **options
      )
    except Exception as error:
      errors.append(error)

  thread = threading.Thread(target=call, daemon=True)
  thread.start()
  thread.join(timeout)
  if thread.is_alive():
    raise TimeoutError(
      f'the {where} could not be joined within {timeout} s; check that all '
      'processes run, that their network lets them through, and that each has '
      'a process_id of its own'
    )
  if errors:
    text = ' '.join(str(errors[0]).split())[:200]
    if alone_is_right and 'should be defined' in text:
      return
    raise InputError(
      f'cannot join the {where}: {text}; give --coordinator_address, '
      '--num_processes and --process_id, or --distributed=off to run alone'
    ) from errors[0]


def _require_free(address):
  """Refuses a port that is taken, on which JAX would crash."""
  port = int(address.rpartition(':')[2])
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  try:
    socket.create_server(('', port), family=family, dualstack_ipv6=both).close()
  except OSError as error:
    raise OSError(
      f'process 0 cannot listen on port {port} of --coordinator_address='
      f'{address}: {error.strerror}; choose another port'
    ) from error


_SECONDS = 5  # that a new file may take to be seen through a network


def require_shared_folder(
  folder: str | os.PathLike, seconds: float = _SECONDS
) -> None:
  """Refuses a folder that is not the same one in all processes.

  Process 0 writes an empty file into the folder, or the nearest one above
  that exists, the others look for it, and process 0 removes it. So a pod
  whose machines have a disk each is refused before it trains, not after the
  first checkpoint. All processes must call this together.

  Raises:
    InputError: in every process: some do not see the file.
    OSError: in every process: process 0 cannot write there.
  """
  if jax.process_count() == 1:
    return
  from jax.experimental import multihost_utils

  folder = pathlib.Path(os.path.abspath(os.path.expanduser(folder)))
  token, said = None, None
  if jax.process_index() == 0:
    token, said = _write(folder)
  try:
    told = first_text(said)
    above, _, name = told.partition(' ')
    if not above:
      raise OSError(f'process 0 {name}; choose another workdir')
    seen = _appears([folder, *folder.parents][int(above)] / name, seconds)
    answers = multihost_utils.process_allgather(np.bool_(seen))
  finally:
    if token is not None:
      token.unlink()
  blind = [str(number) for number in np.flatnonzero(~answers)]
  if blind:
    raise InputError(
      f'workdir={folder} of process 0 is not there for process '
      f'{", ".join(blind)} of {jax.process_count()}; give the full path of a '
      'folder that all machines share, by NFS or a bucket mounted with gcsfuse'
    )


def _write(folder):
  """The file (None: it failed), and 'LEVELS_ABOVE NAME' or ' what is wrong'."""
  levels = [folder, *folder.parents]
  above = next(i for i, level in enumerate(levels) if level.is_dir())
  token = levels[above] / f'.seen-by-all-{uuid.uuid4().hex}'
  try:
    token.touch()
  except OSError as error:
    return None, f' cannot write in {levels[above]} ({error.strerror})'
  return token, f'{above} {token.name}'


def _appears(path, seconds):
  end = time.monotonic() + seconds
  while not path.exists():
    if time.monotonic() > end:
      return False
    time.sleep(0.1)
  return True


_LENGTH = 640  # bytes of a text


def first_text(text: str | None) -> str | None:
  """The text of the first process that has one, cut, in every process.

  All processes must call it together.
  """
  if jax.process_count() == 1:
    return text
  from jax.experimental import multihost_utils

  mine = np.zeros(_LENGTH, np.uint8)
  encoded = (text or '').encode()[:_LENGTH]
  mine[: len(encoded)] = list(encoded)
  texts = multihost_utils.process_allgather(mine)
  texts = (bytes(row).rstrip(b'\0').decode(errors='ignore') for row in texts)
  return next(filter(None, texts), None)


def wait_for_all(name: str) -> None:
  """Returns when every process has called it with this name."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)
