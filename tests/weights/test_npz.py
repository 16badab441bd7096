"""Reading .npz files, among them damaged, hostile and other files."""

import errno
import os
import pickle
import signal
import time
import warnings
import zipfile

import child_processes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile_files import npy_header

from vit_jax_repro import weights
from vit_jax_repro.weights import npz

ARRAYS = {
  'embedding/kernel': np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2),
  'Transformer/encoder_norm/bias': np.float32([1, 2]),
}


@pytest.fixture
def good(tmp_path):
  path = tmp_path / 'good.npz'
  np.savez(path, **ARRAYS)
  return path


def archive(path, members, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', compression) as file:
    for name, content in members.items():
      file.writestr(f'{name}.npy', content)
  return path


def flip(path, needle, offset=0):
  """Flips one byte of the archive, `offset` after a byte string in it."""
  content = bytearray(path.read_bytes())
  content[content.index(needle) + len(needle) + offset] ^= 0xFF
  path.write_bytes(content)


def truncated(path):
  np.savez(path, **ARRAYS)
  path.write_bytes(path.read_bytes()[:-100])


def flipped(path):
  np.savez(path, **ARRAYS)
  flip(path, np.float32([5, 6]).tobytes())


def headless_data(path):
  archive(path, {'embedding/kernel': npy_header((2, 2, 3, 2))[:40]})


def directory(path):
  path.mkdir()


def pickled_inside(path):
  np.savez(path, **{'embedding/kernel': np.array([{'a': 1}], object)})


def bomb(path):
  zeros = np.zeros(1, np.uint8).tobytes() * 2**20
  with (
    zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file,
    file.open('embedding/kernel.npy', 'w', force_zip64=True) as member,
  ):
    member.write(npy_header((2**28 + 2**20,)))
    for _ in range(1028):
      member.write(zeros)


def npy(path):
  with path.open('wb') as file:
    np.save(file, np.zeros(2))


def text_array(path):
  np.savez(path, **{'embedding/kernel': np.array(['a'])})


def no_file(path):
  os.mkfifo(path)


def twice(path):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of zipfile, about the name
    with zipfile.ZipFile(path, 'w') as file:
      for _ in range(2):
        file.writestr('embedding/kernel.npy', npy_header((1,)) + b'1234')


def stacked(path, a, b):
  np.savez(
    path,
    **ARRAYS,
    **{'Transformer/encoderblock/a': a, 'Transformer/encoderblock/b': b},
  )


def other_names(path):
  np.savez(path, a=np.zeros(2), b=np.zeros(3))


def torch_names(path):
  np.savez(path, **{'blocks.0.norm1.weight': np.zeros(2)})


BAD = {
  'truncated': (truncated, 'a truncated .npz archive'),
  'flipped byte': (flipped, "array 'embedding/kernel' is damaged"),
  'empty': (lambda p: p.write_bytes(b''), r'is empty \(0 bytes\)'),
  'html': (
    lambda p: p.write_text('\n<!DOCTYPE html><html>Sign in</html>'),
    'an HTML or XML page',
  ),
  'text': (lambda p: p.write_text('hello'), "starts with b'hello'"),
  'pickle': (lambda p: p.write_bytes(pickle.dumps([1])), 'is a pickle'),
  'npy': (
    npy,
    'a single .npy array',
  ),
  'lfs': (
    lambda p: p.write_text('version https://git-lfs.github.com/spec/v1\n'),
    'a Git LFS pointer',
  ),
  'directory': (directory, 'is a directory'),
  'pickle inside': (
    pickled_inside,
    "array 'embedding/kernel' holds pickled Python objects",
  ),
  'absurd shape': (
    lambda p: archive(p, {'embedding/kernel': npy_header((10**6, 10**9))}),
    r'declares shape \(1000000, 1000000000\) of float32',
  ),
  'overflowing shape': (
    lambda p: archive(p, {'embedding/kernel': npy_header((2**40, 2**40))}),
    r'declares shape .* but 0 are stored',
  ),
  'negative shape': (
    lambda p: archive(p, {'embedding/kernel': npy_header((-1, 4))}),
    r'declares shape \(-1, 4\), which must be at most 8 non-negative integers',
  ),
  'too much data': (
    lambda p: archive(p, {'embedding/kernel': npy_header((1,)) + b'12345678'}),
    'declares shape',
  ),
  'short header': (headless_data, "'embedding/kernel' is not a NumPy array"),
  'no array': (
    lambda p: archive(p, {'embedding/kernel': b'not numpy at all'}),
    "'embedding/kernel' is not a NumPy array",
  ),
  'bomb': (bomb, 'claims to unpack to'),
  'text array': (
    text_array,
    'holds <U1, but weights are numbers',
  ),
  'booleans for a shape': (
    lambda p: archive(
      p, {'embedding/kernel': npy_header((True, 2)) + b'12345678'}
    ),
    r'declares shape \(True, 2\), which must be',
  ),
  'too many dimensions': (
    lambda p: archive(p, {'embedding/kernel': npy_header((1,) * 9) + b'1234'}),
    'which must be at most 8',
  ),
  'endless header': (
    lambda p: archive(
      p,
      {'embedding/kernel': b'\x93NUMPY\x02\x00\xff\xff\xff\x7f' + b'(' * 9000},
    ),
    'a header of 2147483647 bytes',
  ),
  'nothing, but huge': (
    lambda p: archive(p, {'embedding/kernel': npy_header((0, 10**30))}),
    'Maximum allowed dimension',
  ),
  'nested header': (
    lambda p: archive(
      p, {'embedding/kernel': b'\x93NUMPY\x01\x00\x28\x23' + b'(' * 9000}
    ),
    "'embedding/kernel' is not a NumPy array",
  ),
  'no file': (no_file, 'is a device or pipe'),
  'leaf and branch': (
    lambda p: np.savez(p, **ARRAYS, **{'embedding/kernel/x': np.zeros(1)}),
    'also have arrays below them: embedding/kernel;',
  ),
  'one name twice': (
    twice,
    'several arrays of the file would become embedding',
  ),
  'stacks of different depth': (
    lambda p: stacked(p, np.zeros((2, 3)), np.zeros((3, 3))),
    'same number of layers',
  ),
  'a stack of nothing': (
    lambda p: stacked(p, np.zeros((0, 3)), np.zeros((0, 3))),
    'same number of layers, 1 to 1000',
  ),
  'a stack of a million': (
    lambda p: stacked(p, np.zeros((10**6, 0)), np.zeros((10**6, 0))),
    'same number of layers, 1 to 1000',
  ),
  'a stack without sides': (
    lambda p: stacked(p, np.float32(1), np.float32(1)),
    'same number of layers',
  ),
  'stacked and one by one': (
    lambda p: np.savez(
      p,
      **ARRAYS,
      **{
        'Transformer/encoderblock/a': np.zeros((1, 2)),
        'Transformer/encoderblock_0/a': np.zeros(2),
      },
    ),
    'both stacked',
  ),
  'unknown layout': (other_names, 'unknown layout: 2 arrays named a, b'),
  'a port': (torch_names, r'unknown layout: 1 arrays named blocks\.0'),
  'no arrays': (lambda p: archive(p, {}), 'unknown layout: 0 arrays'),
}


def test_read_gives_arrays_that_a_cpu_uses_without_a_copy(good):
  """Otherwise memory holds the weights twice."""
  for _, array in npz.read(good):
    on_device = jax.device_put(array, jax.devices()[0])
    assert on_device.unsafe_buffer_pointer() == array.ctypes.data


@pytest.mark.slow
@pytest.mark.quick
@pytest.mark.parametrize('kind', BAD)
def test_load_has_a_one_line_error_for_a_bad_file(kind, tmp_path):
  write, pattern = BAD[kind]
  path = tmp_path / 'ViT-B_16.npz'
  write(path)
  with pytest.raises(ValueError, match=pattern) as error:
    weights.load(path)
  message = str(error.value)
  assert '\n' not in message and str(path) in message
  assert error.value.__cause__ is None


def small_files(path):
  """Yields the bytes of files by `npz.write` and by numpy's two functions."""
  npz.write(path, ARRAYS.items())
  yield path.read_bytes()
  for save in (np.savez, np.savez_compressed):
    save(path, **ARRAYS)
    yield path.read_bytes()


def assert_loads_or_has_a_clear_error(path, content):
  path.write_bytes(content)
  try:
    weights.load(path)
  except ValueError as error:
    message = str(error)
    assert str(path) in message and len(message) < 400
    assert '\n' not in message and message.isprintable()


@pytest.mark.slow
@pytest.mark.quick
def test_load_has_a_short_one_line_error_for_any_damage(tmp_path):
  """Changes single bytes and truncates at seeded random positions."""
  rng = np.random.default_rng(0)
  path = tmp_path / 'm.npz'
  for content in small_files(path):
    for cut in rng.integers(len(content), size=20):
      assert_loads_or_has_a_clear_error(path, content[:cut])
    for _ in range(150):
      damaged = bytearray(content)
      damaged[rng.integers(len(content))] ^= rng.integers(1, 256)
      assert_loads_or_has_a_clear_error(path, bytes(damaged))
    for place in range(len(content) - 330, len(content), 3):  # zip directory
      damaged = bytearray(content)
      damaged[place] ^= 0x80
      assert_loads_or_has_a_clear_error(path, bytes(damaged))


@pytest.mark.quick
@pytest.mark.parametrize(
  'compression', [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED]
)
def test_load_detects_damage_inside_compressed_arrays(compression, tmp_path):
  rng = np.random.default_rng(1)
  path = tmp_path / 'm.npz'
  array = rng.standard_normal((4, 4, 3, 8)).astype(np.float32)
  member = npy_header(array.shape) + array.tobytes()
  content = archive(
    path, {'embedding/kernel': member}, compression
  ).read_bytes()
  weights.load(path)
  for place in range(60, len(content) - 100, 7):
    damaged = bytearray(content)
    damaged[place] ^= 0x11
    assert_loads_or_has_a_clear_error(path, bytes(damaged))


@pytest.mark.quick
def test_load_passes_disk_errors_unchanged(good, monkeypatch):
  def failing(*_):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(zipfile.ZipExtFile, 'read', failing)
  with pytest.raises(OSError, match='Input/output error'):
    weights.load(good)


@pytest.mark.quick
def test_load_raises_file_not_found_error(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no weights file .*nothing.npz'):
    weights.load(tmp_path / 'nothing.npz')


@pytest.mark.quick
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_read_accepts_files_of_numpy(save, tmp_path):
  arrays = dict(
    ARRAYS,
    scalar=np.float64(3.5),
    empty=np.zeros((0, 3), np.float32),
    fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    half=np.float16([1, 2]),
    step=np.int32(7),
  )
  save(tmp_path / 'a.npz', **arrays)
  read = dict(npz.read(tmp_path / 'a.npz'))
  assert read.keys() == arrays.keys()
  assert set(npz.read_names(tmp_path / 'a.npz')) == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(read[name], array)
    assert read[name].dtype == array.dtype


@pytest.mark.quick
def test_read_reads_only_wanted_arrays(good):
  flip(good, np.float32([5, 6]).tobytes())
  wanted = 'Transformer/encoder_norm/bias'
  read = dict(npz.read(good, wanted=lambda name: name == wanted))
  assert list(read) == [wanted]


@pytest.mark.quick
def test_write_stores_bfloat16_as_v2_and_read_restores_it(tmp_path):
  array = np.asarray(jnp.linspace(-3, 3, 12, dtype=jnp.bfloat16)).reshape(3, 4)
  npz.write(tmp_path / 'a.npz', [('a', array)])
  with np.load(tmp_path / 'a.npz') as archive:
    assert archive['a'].dtype == np.dtype('V2')
  ((_, read),) = npz.read(tmp_path / 'a.npz')
  assert read.dtype == jnp.bfloat16
  np.testing.assert_array_equal(read, array)


@pytest.mark.quick
def test_write_makes_files_readable_by_numpy(tmp_path):
  npz.write(tmp_path / 'a.npz', ARRAYS.items())
  with np.load(tmp_path / 'a.npz', allow_pickle=False) as archive:
    assert set(archive.files) == ARRAYS.keys()
    for name, array in ARRAYS.items():
      np.testing.assert_array_equal(archive[name], array)


@pytest.mark.quick
def test_write_keeps_only_the_old_file_after_a_failure(good):
  def arrays():
    yield 'a', np.zeros(3)
    raise RuntimeError('half way')

  before = good.read_bytes()
  with pytest.raises(RuntimeError, match='half way'):
    npz.write(good, arrays())
  assert good.read_bytes() == before
  assert os.listdir(good.parent) == [good.name]


WRITE = """
import sys
import numpy as np
from vit_jax_repro.weights import npz

def arrays():
  for i in range(10 ** 9):
    if i == 3:
      print('writing', flush=True)
    yield f'a{i}', np.zeros(10 ** 5)

npz.write(sys.argv[1], arrays())
"""


def test_write_keeps_the_old_file_if_killed(good):
  """Kills a real process by SIGKILL in the middle of `write`."""
  before = good.read_bytes()
  process = child_processes.Child(child_processes.script, WRITE, good)
  while process.stdout != 'writing\n':
    assert process.is_running(), process.stderr
    time.sleep(0.01)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  assert good.read_bytes() == before
  assert dict(npz.read(good)).keys() == ARRAYS.keys()


@pytest.mark.quick
def test_write_keeps_links_and_permissions(good):
  good.chmod(0o640)
  link = good.with_name('link.npz')
  link.symlink_to(good.name)
  npz.write(link, [('a', np.zeros(3))])
  assert link.is_symlink() and good.stat().st_mode & 0o777 == 0o640
  assert npz.read_names(good) == ['a']
  nowhere = good.with_name('nowhere.npz')
  nowhere.symlink_to('new.npz')
  npz.write(nowhere, [('a', np.zeros(3))])
  assert nowhere.is_symlink()
  assert npz.read_names(good.with_name('new.npz')) == ['a']


@pytest.mark.quick
def test_write_rejects_other_paths(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'folder .* does not exist'):
    npz.write(tmp_path / 'no' / 'a.npz', [])
  with pytest.raises(IsADirectoryError, match='is a directory'):
    npz.write(tmp_path, [])


@pytest.mark.quick
def test_write_rejects_objects(tmp_path):
  with pytest.raises(TypeError, match='cannot store Python objects'):
    npz.write(tmp_path / 'a.npz', [('a', np.array([{}], object))])
  assert not os.listdir(tmp_path)
