"""Every hostile input of docs/security.md costs little and gains nothing."""

import pathlib
import re

import hostile
import hostile_cards
import hostile_images
import hostile_names
import hostile_runs
import hostile_servers
import hostile_weights
import pytest

ROOMS = {
  'Weights': hostile_weights.CASES,
  'Descriptions of models': hostile_cards.CASES,
  'Files of runs': hostile_runs.CASES,
  'Images': hostile_images.CASES,
  'Names': hostile_names.CASES,
  'Servers': hostile_servers.CASES,
}
CASES = [case for cases in ROOMS.values() for case in cases]
_DOCS = pathlib.Path(__file__).parents[1] / 'docs' / 'security.md'


@pytest.fixture(scope='module', autouse=True)
def libraries():
  hostile.load_libraries()


# The package ignores the warning, pytest would raise it.
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_hostile_input_ends_in_one_line(tmp_path, case):
  hostile.check(case, hostile.attempt(case, tmp_path))


def test_attempt_measures_memory(tmp_path):
  def fill(_):
    return f'{len(bytearray(2**28))} bytes'

  case = hostile.Hostile('filling', lambda folder: None, fill, 'bytes', False)
  found = hostile.attempt(case, tmp_path)
  assert 2**28 - 2**22 < found.memory < 2**29


def test_attempt_finds_files_written_outside(tmp_path):
  case = hostile.Hostile(
    'writing',
    lambda folder: folder.parent / 'outside',
    lambda path: path.write_text('x'),
    '1',
    refused=False,
  )
  found = hostile.attempt(case, tmp_path)
  with pytest.raises(AssertionError, match='outside'):
    hostile.check(case, found)


def test_docs_have_a_row_for_each_input():
  rooms, room = {}, None
  for line in _DOCS.read_text(encoding='utf-8').splitlines():
    if line.startswith('### '):
      room = line.removeprefix('### ')
    found = re.match(r'\| `?(.+?)`? \| (\d[\d.]*) s \| (\d+) MB \|', line)
    if found:
      rooms.setdefault(room, []).append(found[1])
      assert float(found[2]) < hostile.MOST_SECONDS, line
      assert int(found[3]) * 10**6 < hostile.MOST_BYTES, line
  assert rooms == {
    room: [case.name.replace('|', r'\|') for case in cases]
    for room, cases in ROOMS.items()
  }


def test_names_of_inputs_differ():
  names = [case.name for case in CASES]
  assert len(set(names)) == len(names) >= 40
