"""Whether an update fits into the memory of its devices, and what would fit.

The estimate comes first and refuses only what cannot fit. The compiler's figure
decides the rest. What a message proposes was compiled and fits.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax

from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import note
from vit_jax_repro.parallel import host_memory, processes
from vit_jax_repro.runs import fitting, host_estimate
from vit_jax_repro.runs.update import Update

_GIB = 2**30
_MOST_TRIED = 2  # proposals that are compiled, one after the other
# Bytes that a proposal takes of a machine's memory if it can, and not all that
# is free: small parts of a batch are hardly slower on a CPU.
_ENOUGH = 8 * 10**9


def require_estimate(update: Update, *, fresh: bool = True) -> None:
  """Refuses an update that cannot fit into this machine's free memory.

  This is for CPUs, where a process that takes too much is killed without a
  message; it is not for a limit of the settings. All processes of a run must
  call this together.

  Args:
    update: the update, which is not compiled here.
    fresh: whether the run is new. A continued run cannot change its batch and
      the number of parts in which a batch is computed.

  Raises:
    InputError: the update cannot fit; the message has a remedy.
  """
  limit, line = update.limit(), None
  if not _is_shared(update):
    return
  if limit is not None:
    activations, rest = update.saved_activations(), update.arguments()
    least = rest + int(fitting.LEAST_KEPT * activations)
    if _in_all(update, least) > limit:
      most = rest + update.gradients() + activations
      line = _message(update, most, limit, fresh, 'about ')
  _refuse(update, line)


def require(update: Update, *, fresh: bool = True, held: int = 0) -> int | None:
  """Refuses an update that does not fit into the memory of a device.

  The limit is `config.memory_limit_gb`, or 0.95 of the memory that the device
  reports. The needed memory is that of the update and of the batches that are
  ready on the device, without evaluations. For a CPU the limit is 0.9 of the
  machine's free memory, and whatever else the run takes of it counts, too. All
  processes of a run must call this together.

  Args:
    update: the update, which is compiled.
    fresh: see `require_estimate`.
    held: bytes of this process that it frees before the first update.

  Returns:
    The bytes that this process will have at its peak; None if the devices do
    not take this machine's memory, or without a limit.

  Raises:
    InputError: the update does not fit; the message has a remedy.
  """
  line, peak = None, None
  if update.limit() is not None:
    measured = update.measure()
    host_memory.trim()
    limit = update.limit() or 0  # without what the compiler holds now
    if _is_shared(update):
      limit += held // jax.local_device_count()
    total = None if measured is None else measured.total
    if total is None or _in_all(update, total) > limit:
      line = _message(update, total, limit, fresh)
    elif update.is_in_host_memory():
      peak = host_estimate.peak(update, total) - held
  _refuse(update, line)
  return peak


def remedy(
  update: Update, needed: int | None, limit: int, *, fresh: bool = True
) -> str:
  """Returns one line with changes of settings that may make an update fit.

  Values of settings are estimated from the memory that this update needs. The
  line names them only if an update compiled with them fits.

  Args:
    update: the update.
    needed: bytes of a device that it takes; None if unknown.
    limit: bytes of a device that a run may use.
    fresh: see `require_estimate`.
  """
  tried: dict[str, Any] = {}
  found = _proposals(update, needed, limit, fresh)
  for changes in itertools.islice(found, _MOST_TRIED):
    tried |= changes
    flags = ' '.join(f'--config.{k}={v}' for k, v in changes.items())
    note(f'trying {flags} ...')
    other = update.changed(changes)
    measured = other.measure()
    if measured is None or measured.is_refused:
      continue
    total = _in_all(other, measured.total)
    if total <= limit:
      return f'with {flags} it needs {_gib(update, total)}'
  others = (
    'a smaller model or image, parameters divided over more devices '
    '(--config.mesh.fsdp), or another device'
  )
  if not tried:
    what = 'recomputing blocks does not help'
    if fresh:
      what = 'no number of accum_steps helps, nor a smaller batch'
    return f'{what}; choose {others}'
  recomputed = '--config.model.remat=True, ' * ('model.remat' in tried)
  parts = 'a larger --config.accum_steps, ' * fresh
  return f'choose {recomputed}{parts}{others}'


def _message(update, needed, limit, fresh, about=''):
  found = 'more than its compiler accepts'
  if needed is not None:
    found = (
      f'{about}{_gib(update, _in_all(update, needed))} GiB of '
      f'{"memory" if _is_shared(update) else "each device"} '
      f'({_gib(update, update.arguments())} for parameters, optimiser and '
      'batch)'
    )
  room = f'which has {_gib(update, limit)}'
  if _is_shared(update):
    room = f'and this machine has {_gib(update, limit)} to spare'
  line = f'an update needs {found}, {room}; '
  line += remedy(update, needed, limit, fresh=fresh)
  if _is_shared(update):
    line += '; --config.memory_limit_gb=0 tries it in any case'
  return line


def _refuse(update, line):
  """Raises an InputError with the line, if there is one.

  The free memory of machines differs, so one process decides for all.
  """
  if _is_shared(update):
    line = processes.first_text(line)
  if line:
    raise InputError(line)


def _in_all(update, needed):
  """Returns the bytes of a device that a run takes.

  needed: those that its update takes.
  """
  if _is_shared(update):
    needed = host_estimate.program(update, needed)
  return needed + _other_bytes(update)


def _other_bytes(update):
  """Returns the bytes of a device without the state and the batch in use."""
  if not _is_shared(update):
    return update.ready()
  rest = host_estimate.other_bytes(update)
  return update.ready() + rest // jax.local_device_count()


def _is_shared(update):
  """Returns whether the limit is the memory that all local devices share."""
  return update.is_in_host_memory() and update.settings.memory_limit_gb is None


def _gib(update, number):
  """Converts bytes of a device to GiB, those of all devices of a CPU."""
  if _is_shared(update):
    number *= jax.local_device_count()
  return f'{number / _GIB:.4g}'


def _proposals(update, needed, limit, fresh) -> Iterator[dict[str, Any]]:
  """Yields changes of settings with which an update fits by estimate."""
  limits = {limit}
  if _is_shared(update):
    limits.add(min(limit, _ENOUGH // jax.local_device_count()))
  bases = (*_bases(update), *_smaller_batches(update, needed, fresh))
  for base, goal in itertools.product(bases, sorted(limits)):
    other = update.changed(base) if base else update
    expected = None if needed is None else _expected(update, needed, other)
    more = fitting.proposal(
      expected,
      goal - _other_bytes(other),
      model=other.model,
      arguments=other.arguments(),
      gradients=other.gradients(),
      rows=other.rows(),
      accum_steps=other.settings.accum_steps,
      fresh=fresh,
      platform=other.mesh.devices.flat[0].platform,
    )
    if more is not None and base | more:
      yield base | more


def _bases(update):
  """Returns changes of the mesh: none, and parameters over all devices."""
  data, fsdp = update.mesh.shape['data'], update.mesh.shape['fsdp']
  if data == 1:
    return ({},)
  divided = {'mesh.fsdp': data * fsdp}
  if update.settings.mesh.get('data'):
    divided['mesh.data'] = 1
  return {}, divided


def _smaller_batches(update, needed, fresh):
  """Yields half of the batch, a quarter and so on, for a new run."""
  unit = update.settings.accum_steps * update.settings.batch // update.rows()
  batch = update.settings.batch
  while fresh and needed is not None and batch % (2 * unit) == 0:
    batch //= 2
    yield {'batch': batch}


def _expected(update, needed, other):
  """Estimates the bytes of another update from those of this one."""
  activations = needed - update.arguments() - update.gradients()
  activations = max(0, activations) * other.rows() // update.rows()
  return activations + other.arguments() + other.gradients()
