"""The memory check of a CPU, and proposals beyond accum_steps."""

import re
import resource

import child_processes
import jax
import pytest
from student_runs import STUDENT, metrics_of, settings
from training_sets import write_folder

from vit_jax_repro import jobs
from vit_jax_repro.parallel import mesh as mesh_lib
from vit_jax_repro.runs import memory_check, parts
from vit_jax_repro.runs import settings as settings_lib

GIB = 2**30
# The parameters of its MLPs are nearly all of the memory.
HEAVY = dict(STUDENT, mlp_dim=2**15, distilled=False)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder of forty digits."""
  root = tmp_path_factory.mktemp('digits')
  write_folder(root, 40)
  return root


def refused(folder, workdir, **keys):
  """Returns the error of a run whose update does not fit."""
  with pytest.raises(ValueError, match='an update needs') as error:
    jobs.train(settings(folder, **keys), workdir, show=False)
  assert not workdir.exists()
  return str(error.value)


def flags_of(line):
  """Returns {key: value} of the flags that a message names, up to 'it'."""
  return dict(re.findall(r'--config\.([\w.]+)=(\w+)', line.split(' it ')[0]))


def needed(line):
  return float(re.search(r'needs (?:about )?([\d.e-]+)', line)[1])


@pytest.fixture(scope='module')
def limit(folder, tmp_path_factory):
  """GiB that the heavy model does not fit into, undivided."""
  workdir = tmp_path_factory.mktemp('refused') / 'no'
  keys = dict(model=HEAVY, total_steps=1, memory_limit_gb=1e-6)
  return 0.7 * needed(refused(folder, workdir, **keys))


@pytest.mark.parametrize(
  'mesh, flags',
  [
    ({}, {'mesh.fsdp': '8'}),
    (dict(data=8), {'mesh.fsdp': '8', 'mesh.data': '1'}),
  ],
)
def test_train_names_fsdp_where_parameters_do_not_fit(
  mesh, flags, limit, folder, tmp_path
):
  """A refusal tries the devices of the machine before it gives up."""
  keys = dict(model=HEAVY, memory_limit_gb=limit, total_steps=1)
  line = refused(folder, tmp_path / 'no', mesh=dict(mesh), **keys)
  assert flags_of(line) == flags
  sizes = {k.partition('.')[2]: int(v) for k, v in flags.items()}
  shape = dict(mesh_lib.create_mesh(**sizes).shape)
  assert shape == dict(data=1, fsdp=8, model=1)
  if not mesh:  # the other run would be the same
    jobs.train(settings(folder, mesh=sizes, **keys), tmp_path / 'run')
    assert len(metrics_of(tmp_path / 'run')) == 1


def test_train_names_a_smaller_batch_where_the_batch_does_not_fit(
  folder, tmp_path
):
  """No accum_steps makes the batch itself smaller."""
  keys = dict(
    batch=4096,
    total_steps=1,
    mesh=dict(fsdp=8),
    pp=dict(train='train', test='train', crop=32),
  )
  # A device has 512 images of 12 kB.
  limit = 0.5 * 512 * 32 * 32 * 3 * 4 / GIB
  line = refused(folder, tmp_path / 'no', memory_limit_gb=limit, **keys)
  assert limit < needed(line)
  flags = flags_of(line)
  keys |= {name: int(value) for name, value in flags.items()}
  assert 8 <= keys['batch'] < 4096
  jobs.train(settings(folder, memory_limit_gb=limit, **keys), tmp_path / 'run')
  assert len(metrics_of(tmp_path / 'run')) == 1


def limited(folder, workdir):
  """Trains where 3 GiB of addresses are left; the update needs more."""
  with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
  hard = resource.getrlimit(resource.RLIMIT_AS)[1]
  resource.setrlimit(resource.RLIMIT_AS, (used + 3 * GIB, hard))
  pp = dict(train='train', test='train', crop=64)
  try:
    jobs.train(settings(folder, batch=2048, pp=pp), workdir, show=False)
  except ValueError as error:
    print(error)


def test_train_refuses_on_a_cpu_what_does_not_fit_into_free_memory(
  folder, tmp_path
):
  """The line names settings, and comes before a workdir is made."""
  child = child_processes.Child(limited, folder, tmp_path / 'run', devices=1)
  assert child.wait() == 0, child.stderr
  (line,) = child.stdout.splitlines()
  assert re.match(r'an update needs about [\d.]+ GiB of memory ', line), line
  assert re.search(r', and this machine has (\S+) to spare; with --c', line)
  assert 'accum_steps' in flags_of(line)
  assert line.endswith('; --config.memory_limit_gb=0 tries it in any case')
  assert not (tmp_path / 'run').exists()


def test_remedy_takes_no_more_than_8_gb_of_a_cpu_if_it_can(folder):
  """More parts of a batch are proposed than free memory asks for."""
  keys = settings(folder, batch=512, mesh=dict(data=1, fsdp=1, model=1))
  run = parts.Parts(
    settings_lib.from_config(keys),
    mesh_lib.create_mesh(devices=jax.devices()[:1]),
    line=lambda name, text: None,
    records=[],
  )
  needed, enough = 80 * GIB, 8 * 10**9 // jax.local_device_count()
  line = memory_check.remedy(run.step, needed, 50 * GIB)
  number = int(flags_of(line)['accum_steps'])
  assert needed / number < enough
  assert number < 512
