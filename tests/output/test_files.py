import json
import os

import pytest

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files

pytestmark = pytest.mark.quick


def test_write_json_creates_and_replaces_a_file(tmp_path):
  path = tmp_path / 'a.json'
  for value in ({'x': [1, 2.5, None]}, [3]):
    files.check_writable(path)
    files.write_json(path, value)
    assert json.loads(path.read_text()) == value
  assert os.listdir(tmp_path) == ['a.json']


@pytest.mark.parametrize('bad', [float('nan'), object()])
def test_write_json_keeps_the_old_file_on_a_failure(tmp_path, bad):
  path = tmp_path / 'a.json'
  files.write_json(path, 1)
  with pytest.raises((ValueError, TypeError)):
    files.write_json(path, {'x': bad})
  assert path.read_text() == '1\n' and os.listdir(tmp_path) == ['a.json']


def test_write_json_keeps_the_old_file_on_a_full_disk(tmp_path, monkeypatch):
  path = tmp_path / 'a.json'
  files.write_json(path, 1)

  def full(_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match=f'cannot write {path}: No space.*; make '):
    files.write_json(path, 2)
  assert path.read_text() == '1\n' and os.listdir(tmp_path) == ['a.json']


@pytest.mark.parametrize('there', [True, False])
def test_check_writable_protects_files_to_keep(tmp_path, there):
  kept = tmp_path / 'model.npz'
  if there:
    kept.write_text('weights')
    os.link(kept, tmp_path / 'hard.npz')
  (tmp_path / 'link.npz').symlink_to(kept)
  (tmp_path / 'folder').symlink_to(tmp_path)
  others = [kept, tmp_path / 'link.npz', tmp_path / 'folder' / 'model.npz']
  for path in others + [tmp_path / 'hard.npz'] * there:
    with pytest.raises(OSError, match=r'would replace .*model\.npz.*which'):
      files.check_writable(path, keep=['/no/such', kept])
  files.check_writable(tmp_path / 'other.json', keep=['/no/such', kept])


def test_check_writable_rejects_unwritable_paths(tmp_path):
  (tmp_path / 'file').write_text('')
  os.mkfifo(tmp_path / 'pipe')
  for path, reason in [
    (tmp_path, 'it is a folder'),
    (tmp_path / 'pipe', 'it is a device or a pipe'),
    ('/dev/null', 'it is a device or a pipe'),
    (tmp_path / 'none' / 'a.json', 'there is no folder'),
    (tmp_path / 'file' / 'a.json', 'there is no folder'),
    ('', 'cannot write'),
    ('/proc/a.json', 'cannot write'),
    (tmp_path / ('x' * 300), 'File name too long'),
  ]:
    with pytest.raises(OSError, match=reason):
      files.check_writable(path)


def test_is_special_means_neither_files_nor_folders(tmp_path):
  (tmp_path / 'file').write_text('')
  os.mkfifo(tmp_path / 'pipe')
  (tmp_path / 'link').symlink_to('/dev/null')
  for name in ('', 'file', 'none'):
    assert not files.is_special(tmp_path / name)
  for name in ('pipe', 'link'):
    assert files.is_special(tmp_path / name)


def test_write_text_replaces_no_device_or_pipe(tmp_path):
  path = tmp_path / 'pipe'
  os.mkfifo(path)
  with pytest.raises(OSError, match='is a device or a pipe, not a file'):
    files.write_text(path, 'text')
  assert path.is_fifo() and os.listdir(tmp_path) == ['pipe']


def test_check_folder_rejects_unwritable_folders(tmp_path):
  files.check_folder(tmp_path / 'new' / 'newer')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').write_text('')
  (tmp_path / 'lost').symlink_to(tmp_path / 'nowhere')
  for path in (
    tmp_path / 'file',
    tmp_path / 'file' / 'a',
    tmp_path / 'lost' / 'a',
    '/proc/none',
  ):
    with pytest.raises(OSError, match='cannot write in') as error:
      files.check_folder(path)
    assert '\n' not in str(error.value)


def test_read_json_returns_the_object(tmp_path):
  path = tmp_path / 'a.json'
  value = {'x': ['é', '\U0001f600', os.fsdecode(b'\xe9'), None]}
  files.write_json(path, value)
  assert files.read_json(path, 'result') == value
  with pytest.raises(FileNotFoundError):
    files.read_json(tmp_path / 'none.json', 'result')


@pytest.mark.parametrize(
  'content, problem',
  [
    (b'{"x": ', 'it is not valid JSON ('),
    (b'', 'it is not valid JSON ('),
    (b'[' * 100_000, 'it is not valid JSON ('),
    (b'{"x": "\xe9"}', 'it is not valid JSON ('),
    (b'[{}]', 'it is a list, not an object'),
    (
      rb'{"x": "\ud83d\ude00\uD800"}',
      r"it is not valid JSON (it holds '\ud800'",
    ),
    (b'null', 'it is a NoneType, not an object'),
    (b'{"x": NaN}', 'it is not valid JSON (it holds NaN, no finite float64)'),
    (b'{"x": -1e400}', 'it is not valid JSON (it holds -1e400, no finite'),
    (b'{"x": 1' + 400 * b'0' + b'}', 'it is not valid JSON (it holds 10000'),
  ],
)
def test_read_json_names_the_problem_in_one_line(tmp_path, content, problem):
  path = tmp_path / 'a.json'
  path.write_bytes(content)
  with pytest.raises(InputError) as caught:
    files.read_json(path, 'result', 'remove it', finite=True)
  message = str(caught.value)
  assert message.startswith(f'{path} is no result: {problem}')
  assert message.endswith('; remove it') and '\n' not in message
