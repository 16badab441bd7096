"""Several processes that train or evaluate as one.

`initialize` joins them, before JAX looks for devices. A launcher starts the
same command several times and numbers the processes: SLURM and Open MPI in
environment variables, Cloud TPU in its metadata. jax.distributed.initialize
reads these numbers. This module decides whether there is anything to join, and
turns failures into one line. JAX alone would wait five minutes and then end the
process with a C++ stack trace.

`require_shared_folder` checks that all processes see the same folder. All
processes exchange texts with `first_text` and `texts_of_all`, and meet in
`wait_for_all`.
"""

import collections
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import locations, waiting
from vit_jax_repro.parallel import sigterm

# Seconds until the others notice that a process has died; JAX's own default.
HEARTBEAT_SECONDS = 100
_GRACE_SECONDS = 60  # JAX waits this much longer than `initialize`
_MOST_NUMBERS = 8  # of processes in a message
_VISIBLE_SECONDS = 5  # until a new file can be seen through a network


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
  """Joins the other processes of this job; does nothing if there are none.

  Args:
    coordinator_address: 'HOST:PORT' of process 0, the same in all processes.
      None: the launcher's, see `launcher`.
    num_processes, process_id: given together with the address;
      0 <= process_id < num_processes.
    mode: used without an address. 'auto' joins if there is a launcher, 'on'
      requires any launcher that JAX knows, 'off' joins nothing.
    timeout: seconds to wait for the others.
    heartbeat_timeout: seconds without a heartbeat after which a process counts
      as dead.
    ends_at_sigterm: whether SIGTERM always ends a process, as it does without
      JAX. By default JAX handles it after `sigterm.tell_jax`.

  Raises:
    InputError: there is nothing to join, or the launcher's settings are not
      sufficient.
    OSError: the address is in use, or the others did not join in time.
  """
  options: dict[str, Any] = dict(heartbeat_timeout_seconds=heartbeat_timeout)
  found = None
  if coordinator_address is not None:
    if process_id == 0:
      _require_free(coordinator_address)
    which = f'at {coordinator_address}'
    where = f'coordinator {which}'
    options |= dict(
      coordinator_address=coordinator_address,
      num_processes=num_processes,
      process_id=process_id,
      # Otherwise JAX would ask SLURM which devices to use.
      cluster_detection_method='deactivate',
    )
  else:
    found = launcher(os.environ) if mode != 'off' else None
    if found is None and mode != 'on':
      return
    which = f'that {found or "the launcher"} started'
    where = f'processes {which}'
    if found == 'SLURM':
      options['local_device_ids'] = slurm_devices(os.environ)
  if ends_at_sigterm:
    jax.config.update('jax_enable_preemption_service', False)
  # A TPU outside a slice, such as a notebook's, has no other processes.
  alone_is_right = mode == 'auto' and found == 'Cloud TPU'
  with waiting.doing(
    f'waiting for the other processes {which}, for at most {timeout} s'
  ):
    _join(options, where, timeout, alone_is_right)
  if jax.distributed.is_initialized() and not ends_at_sigterm:
    sigterm.end_process()


def launcher(environ: Mapping[str, str]) -> str | None:
  """Returns the launcher that started this process as one of several.

  This is SLURM if this step (`srun`) has several tasks, and Open MPI if it has
  started several processes. It is Cloud TPU whenever JAX has found TPU chips,
  because every slice has metadata, even with a single host. Kubernetes is left
  out because the tasks of an indexed job may be independent runs.
  """
  if _number(environ, 'SLURM_STEP_NUM_TASKS') > 1 and 'SLURM_PROCID' in environ:
    return 'SLURM'
  if _number(environ, 'OMPI_COMM_WORLD_SIZE') > 1:
    return 'Open MPI'
  # JAX defines this attribute at run time.
  platforms = jax.config.jax_platforms  # ty: ignore[missing-attribute]
  if 'tpu' in (platforms or '').split(','):
    return 'Cloud TPU'
  return None


def slurm_devices(environ: Mapping[str, str]) -> list[int] | None:
  """Returns the GPUs of this task among those that SLURM makes visible.

  By default, JAX gives each task the GPU with the number of the task on its
  node. This is right with one task for each GPU of a node. With one task a node
  all other GPUs would be idle, and if SLURM makes only its own GPU visible to
  each task, JAX would fail.

  Returns:
    Numbers of visible GPUs; None if no GPU is visible.
  """
  visible = environ.get('CUDA_VISIBLE_DEVICES', '')
  number = len([name for name in visible.split(',') if name])
  tasks = _number(environ, 'SLURM_STEP_NUM_TASKS')
  nodes = _number(environ, 'SLURM_STEP_NUM_NODES') or 1
  here = -(-tasks // nodes)
  if not number:
    return None
  if number < here or environ.get('SLURM_GPUS_PER_TASK'):
    return list(range(number))  # SLURM has distributed the GPUs already
  share = number // here
  first = _number(environ, 'SLURM_LOCALID') * share
  return list(range(first, first + share))


def is_alone() -> bool:
  """Returns whether this is the only process."""
  return jax.process_count() == 1


def is_first() -> bool:
  """Returns whether this is the process that prints and writes."""
  return jax.process_index() == 0


def difference(
  name: str, identities: Iterable[Any], texts: Sequence[str]
) -> str | None:
  """Describes what is not the same in all processes.

  Args:
    name: what is compared, for the description.
    identities: of each process; all of them must be equal.
    texts: of each process, what a person reads in place of the identity.

  Returns:
    Such as "config.seed is 0 in process 0 and 1 in process 1"; None if all
    processes are equal.
  """
  groups = collections.defaultdict(list)
  for number, identity in enumerate(identities):
    groups[identity].append(number)
  if len(groups) == 1:
    return None
  return f'{name} is ' + ' and '.join(
    f'{texts[numbers[0]]} in {_numbered(numbers)}'
    for numbers in groups.values()
  )


def require_equal_devices() -> None:
  """Checks that all processes have the same number of devices.

  Otherwise the exchanges of JAX between processes end in a traceback.

  Raises:
    InputError: they have not; raised in every process.
  """
  numbers = collections.Counter(each.process_index for each in jax.devices())
  _require_equal(
    'the number of devices',
    [str(numbers[process]) for process in range(jax.process_count())],
    'give all of them the same, by CUDA_VISIBLE_DEVICES, XLA_FLAGS or the '
    'launcher',
  )


def require_equal_texts(name: str, text: str) -> None:
  """Checks that a text is the same in all processes, which call this together.

  Args:
    name: what the text is, for the message.
    text: that of this process.

  Raises:
    InputError: it is not; raised in every process.
  """
  _require_equal(name, texts_of_all(text), 'give all of them the same')


def require_shared_folder(
  folder: str | os.PathLike, seconds: float = _VISIBLE_SECONDS
) -> None:
  """Checks that a folder is the same one in all processes.

  Process 0 writes an empty file into the folder, or into the nearest existing
  parent. The others look for it, and process 0 removes it. The names below that
  parent must be the same in all processes. So a pod whose machines have
  separate disks fails before it trains, not after the first checkpoint. All
  processes must call this together.

  Args:
    folder: path of the folder, which need not exist. An address of a bucket
      only has to be the same in all processes.
    seconds: time for the file to become visible.

  Raises:
    InputError: some processes do not see the file, or have another name for the
      folder; raised in every process.
    OSError: process 0 cannot write there; raised in every process.
  """
  if jax.process_count() == 1:
    return
  from jax.experimental import multihost_utils

  if locations.is_address(folder):
    require_equal_texts('workdir', os.fspath(folder))
    return
  folder = pathlib.Path(os.path.abspath(os.path.expanduser(folder)))
  token, place = None, None
  if jax.process_index() == 0:
    token, place = _write(folder)
  try:
    name, _, below = (first_text(place) or '').partition(' ')
    if not name:
      raise OSError(f'process 0 {below}; choose another workdir')
    levels = folder, *folder.parents
    above = [x for x in levels if os.fspath(folder.relative_to(x)) == below]
    seen = bool(above) and _appears(above[0] / name, seconds)
    answers = multihost_utils.process_allgather(np.bool_(seen))
  finally:
    if token is not None:
      token.unlink()
  blind = [str(number) for number in np.flatnonzero(~answers)]
  if blind:
    of_first = first_text(os.fspath(folder))
    raise InputError(
      f'workdir={of_first} of process 0 is not there for process '
      f'{", ".join(blind)} of {jax.process_count()}; give the full path of a '
      'folder that all machines share, by NFS or a bucket mounted with gcsfuse'
    )


def first_text(text: str | None) -> str | None:
  """Returns the text of the first process that has one, in every process.

  An empty text counts as none. All processes must call this together.
  """
  return next(filter(None, texts_of_all(text or '')), None)


def texts_of_all(text: str) -> list[str]:
  """Returns the texts of all processes, in the order of their numbers.

  All processes must call this together.
  """
  if jax.process_count() == 1:
    return [text]
  from jax.experimental import multihost_utils

  encoded = text.encode(errors='surrogateescape')  # paths may be any bytes
  sizes = multihost_utils.process_allgather(np.int32(len(encoded)))
  mine = np.zeros(sizes.max(), np.uint8)
  mine[: len(encoded)] = list(encoded)
  rows = multihost_utils.process_allgather(mine)
  return [
    bytes(row[:size]).decode(errors='surrogateescape')
    for row, size in zip(rows, sizes, strict=True)
  ]


def wait_for_all(name: str) -> None:
  """Waits until every process has called this with the same name."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def _number(environ, name):
  text = environ.get(name, '')
  return int(text) if text.isdecimal() else 0


def _join(options, where, timeout, alone_is_right):
  """Calls JAX from a thread, so that a failure does not end the process."""
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
  """Raises an OSError if the port is in use; JAX would crash."""
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


def _require_equal(name, texts, remedy):
  """Raises an InputError if the texts of the processes are not equal."""
  found = difference(name, texts, texts)
  if found is not None:
    raise InputError(f'the processes of this job differ: {found}; {remedy}')


def _numbered(numbers):
  """Returns 'process 3' or 'processes 1, 2 and 3 more'."""
  if len(numbers) == 1:
    return f'process {numbers[0]}'
  shown = ', '.join(map(str, numbers[:_MOST_NUMBERS]))
  more = len(numbers) - _MOST_NUMBERS
  return f'processes {shown}' + (f' and {more} more' if more > 0 else '')


def _write(folder):
  """Writes a file for the other processes to look for.

  Returns:
    The file, or None if it cannot be written; and the text that the others get:
    'NAME BELOW', the file's name and the path of `folder` from there, or
    ' REASON'.
  """
  above = next(x for x in (folder, *folder.parents) if x.is_dir())
  token = above / f'.seen-by-all-{uuid.uuid4().hex}'
  try:
    token.touch()
  except OSError as error:
    return None, f' cannot write in {above} ({error.strerror})'
  return token, f'{token.name} {folder.relative_to(above)}'


def _appears(path, seconds):
  end = time.monotonic() + seconds
  while not path.exists():
    if time.monotonic() > end:
      return False
    time.sleep(0.1)
  return True
