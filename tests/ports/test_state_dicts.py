"""Files of state dicts: PyTorch pickles and safetensors."""

import argparse
import json
import os
import pickle

import child_processes
import ml_dtypes
import numpy as np
import pytest

from vit_jax_repro.ports import state_dicts

quick = pytest.mark.quick

STATE = {
  'half': np.arange(6, dtype=np.float16).reshape(2, 3),
  'brain': np.arange(6, dtype=ml_dtypes.bfloat16).reshape(3, 2),
  'single': np.array([np.nan, np.inf, -0.0], np.float32),
  'double': np.arange(6.0).reshape(2, 3).T,  # not contiguous
  'count': np.array([3], np.int64),
}


def assert_state(found, wanted=STATE):
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    assert found[name].dtype == array.dtype, name
    assert found[name].shape == array.shape
    assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize('suffix', state_dicts.SUFFIXES)
def test_write_and_read_keep_every_dtype(suffix, tmp_path):
  path = tmp_path / f'model{suffix}'
  state_dicts.write(path, STATE)
  assert_state(state_dicts.read(path))
  assert os.listdir(tmp_path) == [path.name]


def test_write_makes_files_readable_by_pytorch(tmp_path):
  import safetensors
  import torch
  from safetensors.torch import load_file

  state_dicts.write(tmp_path / 'a.safetensors', STATE)
  state_dicts.write(tmp_path / 'a.pth', STATE, wrapper='model')
  loaded = torch.load(tmp_path / 'a.pth', weights_only=True)['model']
  for state in (load_file(tmp_path / 'a.safetensors'), loaded):
    assert state['brain'].dtype == torch.bfloat16
    assert state['brain'].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert state['double'].tolist() == STATE['double'].tolist()
  with safetensors.safe_open(tmp_path / 'a.safetensors', 'pt') as file:
    assert file.metadata() == {'format': 'pt'}


def test_read_takes_the_weights_of_training_checkpoints(tmp_path):
  """Formats of facebookresearch/deit, timm, and PyTorch before 1.6."""
  import torch

  tensors = {'w': torch.arange(3.0)}
  settings = argparse.Namespace(model='deit', lr=1e-3)
  path = tmp_path / 'a.pth'
  for saved, options in [
    ({'model': tensors, 'args': settings, 'epoch': 3}, {}),
    ({'state_dict': tensors, 'args': settings, 'arch': 'vit'}, {}),
    (tensors, {'_use_new_zipfile_serialization': False}),
    ({'w': torch.nn.Parameter(tensors['w'])}, {}),
    ({'w': torch.arange(6.0).reshape(3, 2)[:, 0] / 2}, {}),
  ]:
    torch.save(saved, path, **options)
    assert_state(state_dicts.read(path), {'w': np.arange(3, dtype='float32')})


class Dangerous:
  """Makes a file when it is unpickled."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return (os.mkdir, (self.path,))


def test_read_rejects_pickles_that_run_code(tmp_path):
  import torch

  path, trap = tmp_path / 'a.pth', tmp_path / 'trap'
  torch.save({'model': {}, 'x': Dangerous(trap)}, path)
  with pytest.raises(ValueError, match=r'posix\.mkdir.* is refused'):
    state_dicts.read(path)
  for protocol in (0, 2, 4):
    path.write_bytes(pickle.dumps(Dangerous(trap), protocol=protocol))
    with pytest.raises(
      ValueError, match=r'a\.pth is (a pickle that|no|a text file)'
    ):
      state_dicts.read(path)
  assert not trap.exists()


def test_read_rejects_other_contents(tmp_path):
  import torch

  path = tmp_path / 'a.pth'
  for saved, message in [
    ({'w': 3}, "'w' is of type int, not a tensor"),
    ([torch.ones(2)], 'no state dict but a list'),
    ({}, 'no state dict but a dict'),
    ({'w': torch.ones(2, dtype=torch.float8_e4m3fn)}, 'float8_e4m3fn; save'),
  ]:
    torch.save(saved, path)
    with pytest.raises(ValueError, match=message):
      state_dicts.read(path)
  from safetensors.torch import save_file

  save_file({'w': torch.ones(2, dtype=torch.float8_e4m3fn)}, path)
  os.rename(path, tmp_path / 'a.safetensors')
  with pytest.raises(ValueError, match='float8'):
    state_dicts.read(tmp_path / 'a.safetensors')


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_read_rejects_damaged_files_in_one_line(suffix, tmp_path):
  path = tmp_path / f'a{suffix}'
  state_dicts.write(path, {'w': np.ones(1000, np.float32)})
  whole = path.read_bytes()
  flipped = bytearray(whole)
  flipped[whole.index(bytes(np.ones(9, np.float32))) + 2] ^= 255
  cut = [whole[: len(whole) - n] for n in (1, 100, len(whole) // 2)]
  damaged = [flipped] if suffix == '.pth' else []  # the other has no checksum
  for content in [*cut, *damaged, whole[:9]]:
    path.write_bytes(content)
    with pytest.raises(ValueError, match='download it again') as caught:
      state_dicts.read(path)
    assert '\n' not in str(caught.value) and str(path) in str(caught.value)


@quick
def test_read_rejects_missing_files_and_other_names(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no weights file .*a\.pth'):
    state_dicts.read(tmp_path / 'a.pth')
  with pytest.raises(FileNotFoundError, match=r'none of model\.safetensors'):
    state_dicts.read(tmp_path)
  np.savez(tmp_path / 'a.pth', w=STATE['single'])
  os.rename(tmp_path / 'a.pth.npz', tmp_path / 'a.pth')
  with pytest.raises(ValueError, match=r'a\.pth is an \.npz archive'):
    state_dicts.read(tmp_path / 'a.pth')
  with pytest.raises(ValueError, match='not named like a PyTorch'):
    state_dicts.write(tmp_path / 'b.h5', STATE)


def split(folder):
  """Writes STATE in two parts; returns the path of their index."""
  parts = {name: f'part-{i % 2}.safetensors' for i, name in enumerate(STATE)}
  for part in set(parts.values()):
    state_dicts.write(
      folder / part, {n: a for n, a in STATE.items() if parts[n] == part}
    )
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': parts}))
  return index, parts


def test_read_joins_files_in_parts(tmp_path):
  index, _ = split(tmp_path)
  assert_state(state_dicts.read(index))
  assert_state(state_dicts.read(tmp_path))
  state_dicts.write(tmp_path / 'model.safetensors', {'w': STATE['count']})
  assert state_dicts.read(tmp_path).keys() == {'w'}


def test_read_rejects_a_wrong_index_in_one_line(tmp_path):
  index, parts = split(tmp_path)
  for value, message in [
    ('{', 'no index'),
    ('[]', 'no index'),
    ('{"weight_map": 3}', 'no index'),
    (json.dumps({'weight_map': {'w': '../a.pth'}}), r"part '\.\./a\.pth'"),
    (
      json.dumps({'weight_map': {'w': index.name}}),
      'parts must be weights files',
    ),
    (json.dumps({'weight_map': parts | {'w': 'part-0.safetensors'}}), ' w$'),
  ]:
    index.write_text(value)
    with pytest.raises(ValueError, match=message):
      state_dicts.read(index)
  index.write_text(json.dumps({'weight_map': {'w': 'part-2.safetensors'}}))
  with pytest.raises(FileNotFoundError, match=r'part-2\.safetensors'):
    state_dicts.read(index)


DISK_FULL = """
import resource, signal, sys
import numpy as np
from vit_jax_repro.ports import state_dicts
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
  state_dicts.write(sys.argv[1], {'w': np.ones(9000)})
except OSError as error:
  print(error)
"""


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_write_to_a_full_disk_leaves_no_file(suffix, tmp_path):
  path = tmp_path / f'a{suffix}'
  _, out, err = child_processes.run_script(DISK_FULL, path)
  assert 'cannot write' in out and out.count('\n') == 1, err
  assert not os.listdir(tmp_path)


WITHOUT = """
import sys

class Finder:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('torch', 'safetensors'):
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Finder())
from vit_jax_repro.ports import state_dicts
for path in sys.argv[1:]:
  for call in (state_dicts.read, lambda path: state_dicts.write(path, {})):
    try:
      call(path)
    except ValueError as error:
      print(error)
"""


@quick
def test_read_and_write_name_the_missing_library(tmp_path):
  pytest.importorskip('torch')
  paths = [tmp_path / f'a{suffix}' for suffix in ('.pth', '.safetensors')]
  for path in paths:
    state_dicts.write(path, STATE)
  code, out, err = child_processes.run_script(WITHOUT, *paths)
  assert not code, err
  lines = out.splitlines()
  assert len(lines) == 4 and lines[0] == lines[1] and lines[2] == lines[3]
  for line, library in ((lines[0], 'torch'), (lines[2], 'safetensors')):
    assert f'needs {library}' in line and 'pip install' in line
