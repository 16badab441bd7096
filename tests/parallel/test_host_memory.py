"""The memory that this process can still take, from Linux's files."""

import os
import pathlib
import resource
import sys

import child_processes
import numpy as np
import pytest

from vit_jax_repro.data import tf_host
from vit_jax_repro.parallel import host_memory

pytestmark = pytest.mark.quick
KIB, GIB = 2**10, 2**30
V1 = '35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory'
V2 = '35 31 0:32 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw'


def machine(root, cgroup='', mounts='', files=()):
  """Writes the files of a machine with 8 GiB free; returns its root."""
  written = {
    'proc/meminfo': f'MemTotal: 1 kB\nMemAvailable:  {8 * GIB // KIB} kB\n',
    'proc/self/cgroup': cgroup,
    'proc/self/mountinfo': mounts,
    **dict(files),
  }
  for name, text in written.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(text))
  return root


def v2(folder, limit, usage, cached=0, high='max'):
  """Returns the files of a control group of version 2."""
  folder = f'sys/fs/cgroup{folder}'
  return {
    f'{folder}/memory.max': f'{limit}\n',
    f'{folder}/memory.high': f'{high}\n',
    f'{folder}/memory.current': f'{usage}\n',
    f'{folder}/memory.stat': f'anon 7\ninactive_file {cached}\n',
  }


def v1(folder, limit, usage, cached=0):
  """Returns the files of a control group of version 1."""
  folder = f'sys/fs/cgroup/memory{folder}'
  return {
    f'{folder}/memory.limit_in_bytes': limit,
    f'{folder}/memory.usage_in_bytes': usage,
    f'{folder}/memory.stat': f'cache 7\ntotal_inactive_file {cached}\n',
  }


CASES = {  # {name: (arguments of `machine`, GiB that are available)}
  'no groups': ({}, 8),
  'v2': (dict(cgroup='0::/a', mounts=V2, files=v2('/a', 3 * GIB, GIB)), 2),
  'v2 without limit': (
    dict(cgroup='0::/a', mounts=V2, files=v2('/a', 'max', GIB)),
    8,
  ),
  'v2 cached files': (
    dict(cgroup='0::/a', mounts=V2, files=v2('/a', 3 * GIB, GIB, GIB // 2)),
    2.5,
  ),
  'v2 soft limit': (
    dict(cgroup='0::/a', mounts=V2, files=v2('/a', 'max', GIB, high=2 * GIB)),
    1,
  ),
  'v2 group around': (
    dict(
      cgroup='0::/a/b',
      mounts=V2,
      files=v2('/a', 2 * GIB, GIB) | v2('/a/b', 3 * GIB, GIB),
    ),
    1,
  ),
  'v2 container': (  # its own group is the top of the mount
    dict(cgroup='0::/', mounts=V2, files=v2('', 5 * GIB, GIB)),
    4,
  ),
  'v2 outside the namespace': (
    dict(cgroup='0::/../x', mounts=V2, files=v2('', 5 * GIB, GIB)),
    4,
  ),
  'v1': (
    dict(
      cgroup='5:cpu:/c\n4:memory:/a/b\n0::/',
      mounts=V1,
      files=v1('/a', 4 * GIB, GIB) | v1('/a/b', 2**63 - 4096, GIB),
    ),
    3,
  ),
  'v1 container': (  # the mount shows only the group of the container
    dict(
      cgroup='4:cpu,memory:/docker/x',
      mounts=V1.replace('0:32 /', '0:32 /docker/x'),
      files=v1('', 2 * GIB, GIB, GIB // 4),
    ),
    1.25,
  ),
  'full': (dict(cgroup='0::/a', mounts=V2, files=v2('/a', GIB, 2 * GIB)), 0),
}


@pytest.mark.parametrize('name', CASES)
def test_available_is_the_least_of_memory_and_groups(name, tmp_path):
  given, wanted = CASES[name]
  found = host_memory.available(machine(tmp_path, **given))
  assert found == wanted * GIB


def test_available_is_all_memory_without_proc(tmp_path):
  """macOS has no /proc."""
  total = pathlib.Path('/proc/meminfo').read_text().split()[1]
  assert host_memory.available(tmp_path) == int(total) * KIB


LIMITED = f"""
import resource
from vit_jax_repro.parallel import host_memory
used = int(open('/proc/self/statm').read().split()[0])
used *= resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (used + {GIB}, hard))
print(host_memory.available())
"""


def test_available_counts_the_limit_on_addresses():
  assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
  code, out, err = child_processes.run_script(LIMITED)
  assert not code, err
  assert 0.9 * GIB < int(out) <= GIB


def test_cores_are_those_that_this_process_may_use(monkeypatch):
  monkeypatch.setattr(os, 'cpu_count', lambda: 7)
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 5}, raising=False)
  assert host_memory.cores() == 2
  monkeypatch.delattr(os, 'sched_getaffinity')  # macOS and Windows have none
  assert host_memory.cores() == 7


@pytest.mark.skipif(sys.platform != 'linux', reason='only glibc trims')
def test_trim_returns_freed_memory():
  """Without it, blocks that were freed may stay in the process."""
  tf_host.keep_memory()
  blocks = [np.ones(2**20) for _ in range(20)]
  before = host_memory.resident()
  del blocks
  host_memory.trim()
  assert host_memory.resident() < before - 2**27
