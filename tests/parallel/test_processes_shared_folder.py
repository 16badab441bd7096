"""Check that processes share a folder; see also test_processes.py."""

import re

import child_processes
import jax

from vit_jax_repro.parallel import processes


def look(port, number, *folders):
  """Checks folders one after the other and prints the results."""
  processes.initialize(f'localhost:{port}', 2, number, timeout=60)
  for folder in folders:
    try:
      processes.require_shared_folder(folder, seconds=0.5)
      print('fine')
    except (OSError, ValueError) as error:
      print('wrong', error)
  jax.distributed.shutdown()


def lines_of(children):
  """Returns the lines that each process has printed in `look`."""
  for child in children:
    assert not child.wait(), child.stderr
  return [
    [line for line in child.stdout.splitlines() if re.match('fine|wrong', line)]
    for child in children
  ]


def test_require_shared_folder_leaves_no_files(tmp_path):
  (tmp_path / 'old').mkdir()
  (tmp_path / 'file').touch()
  port = child_processes.free_port()
  folders = 'old', 'new/er', 'file/below'
  folders = [str(tmp_path / name) for name in folders]
  children = [
    child_processes.Child(look, port, number, *folders) for number in range(2)
  ]
  for lines in lines_of(children):
    assert lines == ['fine'] * 3
  assert sorted(path.name for path in tmp_path.rglob('*')) == ['file', 'old']


def test_require_shared_folder_compares_names_of_new_folders(tmp_path):
  """Each process would train in a folder of its own."""
  port = child_processes.free_port()
  folders = (
    [str(tmp_path / name) for name in ('run0', 'a/b/run', 'run')],
    [str(tmp_path / 'run1'), '/run', str(tmp_path / 'a/b/run')],
  )
  children = [
    child_processes.Child(look, port, number, *folders[number])
    for number in range(2)
  ]
  for lines in lines_of(children):
    for line, folder in zip(lines, folders[0], strict=True):
      wanted = f'wrong workdir={folder} of process 0 is not there for process 1'
      assert line.startswith(wanted)


def test_require_shared_folder_compares_addresses():
  """Each process trains in a bucket of its own."""
  port = child_processes.free_port()
  children = [
    child_processes.Child(look, port, number, 'gs://a/b', f'gs://a/{number}')
    for number in range(2)
  ]
  for lines in lines_of(children):
    assert lines == [
      'fine',
      'wrong the processes of this job differ: workdir is gs://a/0 in process '
      '0 and gs://a/1 in process 1; give all of them the same',
    ]
