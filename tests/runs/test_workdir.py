"""The folder of a run, and processes that share it."""

import json
import os

import pytest

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import locks
from vit_jax_repro.runs import workdir


@pytest.mark.parametrize('is_new', [True, False])
def test_begin_refuses_a_folder_that_changed_since_it_was_read(
  tmp_path, is_new
):
  """The late process would replace the other's files with those it read."""
  path = tmp_path / 'run'
  if not is_new:
    older = workdir.Workdir(path, dict(seed=0))
    older.begin(dict(data={}))
    older.close()
  late = workdir.Workdir(path, dict(seed=0))
  other = workdir.Workdir(path, dict(seed=0))
  other.begin(dict(data=dict(other=True)))
  other.close()
  with pytest.raises(locks.InUseError, match='has trained in') as error:
    late.begin(dict(data={}))
  late.close()
  assert '\n' not in str(error.value)
  assert other.read_json('manifest.json')['data'] == dict(other=True)
  again = workdir.Workdir(path, dict(seed=0))
  again.begin(dict(data={}))
  again.close()


@pytest.mark.parametrize('model', [{}, {'model': [1]}])
def test_workdir_names_the_file_of_settings_without_a_model(tmp_path, model):
  (tmp_path / 'config.json').write_text(json.dumps({'model': model}))
  with pytest.raises(InputError) as caught:
    workdir.Workdir(tmp_path, {'pp': {}})
  message = str(caught.value)
  assert message.startswith(f'{tmp_path}/config.json: ')
  assert message.endswith('; choose another workdir')


def test_workdir_refuses_names_that_tensorstore_would_not_find(
  tmp_path, monkeypatch
):
  workdir.Workdir(tmp_path / 'caf\xe9', {})
  with pytest.raises(InputError, match=r'not UTF-8.*; name another folder$'):
    workdir.Workdir(tmp_path / os.fsdecode(b'caf\xe9'), {})
  # A machine whose names of files are Latin 1.
  monkeypatch.setattr(os, 'fsencode', lambda text: text.encode('latin-1'))
  workdir.Workdir(tmp_path / 'cafe', {})
  with pytest.raises(InputError, match='not UTF-8'):
    workdir.Workdir(tmp_path / 'caf\xe9', {})
