import re

import pytest
from test_train import STUDENT, metrics_of, settings
from training_sets import write_folder

from vit_jax_repro import jobs

GIB = 2**30


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('digits')
  write_folder(root, 40)
  return root


def refused(folder, workdir, **keys):
  """What is said of a run whose update does not fit."""
  with pytest.raises(ValueError, match='an update needs') as error:
    jobs.train(settings(folder, **keys), workdir, show=False)
  assert not workdir.exists()
  return str(error.value)


def flags_of(line):
  return dict(re.findall(r'--config\.([\w.]+)=(\w+)', line))


def needed(line):
  return float(re.search(r'needs ([\d.]+) GiB', line)[1])


def wide(**keys):
  """Settings whose activations are most of what is needed."""
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


def test_what_fits_is_found_and_fits(folder, tmp_path, capfd):
  """The setting that the message names trains; the limit stays."""
  whole = refused(folder, tmp_path / 'no', **wide(memory_limit_gb=1e-6))
  assert 'no number of accum_steps helps' in whole
  limit = 0.7 * needed(whole)
  line = refused(folder, tmp_path / 'no', **wide(memory_limit_gb=limit))
  assert needed(line) == needed(whole)
  flags = flags_of(line)
  assert flags.keys() <= {'model.remat', 'accum_steps'} and flags
  assert 'does it fit with' in capfd.readouterr().err
  model = dict(STUDENT, remat=flags.get('model.remat') == 'True')
  fitting = wide(
    memory_limit_gb=limit,
    model=model,
    accum_steps=int(flags.get('accum_steps', 1)),
  )
  jobs.train(settings(folder, **fitting), tmp_path / 'run', show=False)
  assert len(metrics_of(tmp_path / 'run')) == 1


def test_nothing_is_refused_with_0(folder, tmp_path):
  jobs.train(
    settings(folder, memory_limit_gb=0, total_steps=1), tmp_path / 'run',
    show=False,
  )  # fmt: skip
