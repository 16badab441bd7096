"""Memory of this machine that this process can still take, and its cores.

The arrays of CPU devices lie in this memory. JAX reports no limit for a CPU,
and a process that takes more is killed without a message.
"""

import contextlib
import ctypes
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

# Part of the free memory that a run may use. The rest is for images that are
# being read, for checkpoints, and for other programs.
USABLE = 0.9
# Bytes of the float32 images that a CPU computes at a time without gradients,
# 16 images of 224 pixels. More are no faster, and ViT-B/16 takes three times
# the memory for each of 32 as for each of 16 (docs/performance.md).
AT_ONCE = 10_000_000


def available(root: str | os.PathLike = '/') -> int | None:
  """Returns the bytes that this process can still take; None if unknown.

  This is the least of the machine's free memory, what the control groups of
  the process leave (cgroup v1 and v2, with those around them), and what
  RLIMIT_AS leaves. Without Linux's /proc it is all memory of the machine.

  Args:
    root: the folder that holds `proc`, `sys` and the other mounts.
  """
  root = pathlib.Path(root)
  found = [_free(root), *_left_by_groups(root), _left_by_limit(root)]
  found = [number for number in found if number is not None]
  return max(0, min(found)) if found else None


def resident(root: str | os.PathLike = '/') -> int:
  """Returns the bytes of memory that this process has; 0 if unknown."""
  for line in _lines(pathlib.Path(root) / 'proc/self/status'):
    name, _, value = line.partition(':')
    if name == 'VmRSS':
      return int(value.split()[0]) * 1024
  return 0


def trim() -> None:
  """Returns freed memory to the system, which glibc keeps up to 2 GB of.

  See `data.tf_host.keep_memory`. Does nothing with other C libraries.
  """
  with contextlib.suppress(AttributeError, OSError, TypeError):
    ctypes.CDLL(None).malloc_trim(0)


def cores() -> int:
  """Returns the number of CPU cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # Linux: without cores of other jobs
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def usable() -> int | None:
  """Returns the part of `available` that a run may use; None if unknown."""
  found = available()
  return None if found is None else int(USABLE * found)


def rows_at_once(
  rows: int, image_size: Sequence[int], device: Any = None
) -> int:
  """Returns how many images to compute at a time without gradients.

  Args:
    rows: the wanted number for this process.
    image_size: (height, width) in pixels.
    device: one that computes them; by default the first of this process. Only
      a CPU computes fewer than `rows`.
  """
  device = jax.local_devices()[0] if device is None else device
  if device.platform != 'cpu':
    return rows
  return min(rows, max(1, AT_ONCE // (math.prod(image_size) * 3 * 4)))


def _free(root):
  """Returns the bytes that programs can take without swapping."""
  for line in _lines(root / 'proc/meminfo'):
    name, _, value = line.partition(':')
    if name == 'MemAvailable':
      return int(value.split()[0]) * 1024
  try:
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  except (AttributeError, OSError, ValueError):  # Windows has no sysconf
    return None


def _left_by_groups(root) -> Iterator[int]:
  """Yields what each control group with a limit leaves to its processes."""
  for folder, is_v1 in _groups(root):
    limits, used, cached = _V1 if is_v1 else _V2
    limit = min(_number(folder / name) for name in limits)
    usage = _number(folder / used)
    if _UNLIMITED in (limit, usage):
      continue
    # The kernel takes cached files back before it kills a process.
    for line in _lines(folder / 'memory.stat'):
      name, _, value = line.partition(' ')
      if name == cached:
        usage -= int(value)
    yield int(limit - max(0, usage))


# Names of the files with limits and with the usage, and of the cached files in
# memory.stat, for both versions of control groups.
_V2 = (('memory.max', 'memory.high'), 'memory.current', 'inactive_file')
_V1 = (
  ('memory.limit_in_bytes',),
  'memory.usage_in_bytes',
  'total_inactive_file',
)
_UNLIMITED = float('inf')


def _groups(root) -> Iterator[tuple[pathlib.Path, bool]]:
  """Yields folders of this process's groups and of those around them.

  Each comes with whether it is of version 1.
  """
  own = {}  # {whether it is of version 1: the path of the process's group}
  for line in _lines(root / 'proc/self/cgroup'):
    _, controllers, path = line.split(':', 2)
    if not controllers or 'memory' in controllers.split(','):
      own[bool(controllers)] = path
  for line in _lines(root / 'proc/self/mountinfo'):
    mount, _, rest = line.partition(' - ')
    top, point = mount.split()[3:5]
    kind, *_, options = rest.split()
    is_v1 = kind == 'cgroup' and 'memory' in options.split(',')
    if not (is_v1 or kind == 'cgroup2') or is_v1 not in own:
      continue
    point = root / point.lstrip('/')
    # In a container the top of the mount may be the process's own group.
    inside = own[is_v1].removeprefix(top).strip('/')
    folder = point / inside
    for each in (folder, *folder.parents):
      if each.is_dir() and each.is_relative_to(point):
        yield each, is_v1


def _left_by_limit(root):
  """Returns what RLIMIT_AS leaves of addresses; None without a limit."""
  try:
    import resource
  except ModuleNotFoundError:  # Windows
    return None
  limit = resource.getrlimit(resource.RLIMIT_AS)[0]
  pages = ' '.join(_lines(root / 'proc/self/statm')).split()
  if limit == resource.RLIM_INFINITY or not pages:
    return None
  return limit - int(pages[0]) * os.sysconf('SC_PAGE_SIZE')


def _number(path):
  """Returns the number in a file; infinity for `max` or without the file."""
  text = ''.join(_lines(path)).strip()
  return int(text) if text.isdecimal() else _UNLIMITED


def _lines(path):
  try:
    return path.read_text().splitlines()
  except OSError:
    return []
