"""Training within a memory limit: refusals and the settings they advise."""

import re
import shutil

import pytest
from student_runs import STUDENT, metrics_of, settings
from training_sets import write_folder

from vit_jax_repro import jobs
from vit_jax_repro.analysis import memory
from vit_jax_repro.runs import fitting

GIB = 2**30


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
  """Returns {key: value} of the flags that a message names."""
  return dict(re.findall(r'--config\.([\w.]+)=(\w+)', line))


def needed(line):
  """Returns the GiB that an update needs, from its message."""
  return float(re.search(r'needs ([\d.e-]+) GiB', line)[1])


def wide(**keys):
  """Returns settings whose activations need most of the memory."""
  return (
    dict(
      model=STUDENT,
      batch=64,
      pp=dict(train='train', test='train', crop=32),
      mesh=dict(data=1, fsdp=8, model=1),
      total_steps=1,
    )
    | keys
  )


def test_train_names_settings_with_which_the_update_fits(
  folder, tmp_path, capfd
):
  """A run with the settings of the message trains under the same limit."""
  whole = refused(folder, tmp_path / 'no', **wide(memory_limit_gb=1e-6))
  assert 'no number of accum_steps helps' in whole
  limit = 0.7 * needed(whole)
  line = refused(folder, tmp_path / 'no', **wide(memory_limit_gb=limit))
  assert needed(line) == needed(whole)
  flags = flags_of(line)
  assert flags.keys() <= {'model.remat', 'accum_steps'} and flags
  assert 'trying --config' in capfd.readouterr().err
  model = dict(STUDENT, remat=flags.get('model.remat') == 'True')
  fitting = wide(
    memory_limit_gb=limit,
    model=model,
    accum_steps=int(flags.get('accum_steps', 1)),
  )
  jobs.train(settings(folder, **fitting), tmp_path / 'run', show=False)
  assert len(metrics_of(tmp_path / 'run')) == 1


def test_train_does_not_name_a_proposal_too_large(
  folder, tmp_path, monkeypatch, capfd
):
  monkeypatch.setattr(fitting, 'proposal', lambda *_, **__: {'accum_steps': 2})
  line = refused(folder, tmp_path / 'no', **wide(memory_limit_gb=1e-6))
  tried = capfd.readouterr().err.count('note: trying --config')
  assert 1 <= tried <= 4  # each is compiled
  assert not re.search(r'\d', line.partition('; ')[2])
  assert 'choose a larger --config.accum_steps, a smaller model' in line


def test_train_takes_the_memory_limit_from_the_device(
  folder, tmp_path, monkeypatch
):
  """GPUs and TPUs report one; the run leaves a part of it free."""
  # A device with a limit is none of the host, whose copies count as well.
  monkeypatch.setattr(memory, 'limit', lambda device=None: GIB)
  whole = needed(refused(folder, tmp_path / 'no', **wide(memory_limit_gb=1e-6)))
  limits = {False: int(whole / 0.97 * GIB), True: int(whole / 0.93 * GIB)}
  for fits, limit in limits.items():
    monkeypatch.setattr(memory, 'limit', lambda device=None, n=limit: n)
    if fits:
      jobs.train(settings(folder, **wide()), tmp_path / 'run', show=False)
    else:
      line = refused(folder, tmp_path / 'no', **wide())
      assert f'which has {int(limit * 0.95) / GIB:.4g}' in line


def test_train_continues_a_run_with_the_advised_remat(folder, tmp_path):
  """The model is deep: remat alone helps, by as much as promised."""
  deep = dict(STUDENT, num_layers=12, scan=True)
  begun = wide(model=deep, total_steps=2, checkpoint_every=1, eval_every=0)
  jobs.train(settings(folder, **begun), tmp_path / 'run', show=False)
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '2')
  (tmp_path / 'run' / 'model.npz').unlink()
  whole = refused(folder, tmp_path / 'no', **begun, memory_limit_gb=1e-6)
  limit = 0.9 * needed(whole)
  with pytest.raises(ValueError, match='an update needs') as error:
    jobs.train(
      settings(folder, **begun, memory_limit_gb=limit),
      tmp_path / 'run',
      show=False,
    )
  assert flags_of(str(error.value)) == {'model.remat': 'True'}
  promised = float(re.search(r'it needs ([\d.e-]+)', str(error.value))[1])
  again = begun | dict(model=dict(deep, remat=True))
  found = refused(folder, tmp_path / 'no', **again, memory_limit_gb=1e-6)
  assert needed(found) == promised < limit
  jobs.train(
    settings(folder, **again, memory_limit_gb=limit),
    tmp_path / 'run',
    show=False,
  )
  assert [line['step'] for line in metrics_of(tmp_path / 'run')] == [1, 2]


def test_train_refuses_nothing_with_a_memory_limit_of_0(folder, tmp_path):
  jobs.train(
    settings(folder, memory_limit_gb=0, total_steps=1), tmp_path / 'run',
    show=False,
  )  # fmt: skip
