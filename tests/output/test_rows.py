"""Files of rows."""

import csv
import json
import os

import pytest

from vit_jax_repro.output import rows

pytestmark = pytest.mark.quick

NAMES = [
  'a,"b".jpg',
  'two\nlines.jpg',
  'two\r=1+1.jpg',  # a formula begins a line, unless the name is quoted
  'end\r\n',
  os.fsdecode(b'\xff\xe9.jpg'),
  'é.jpg',
]


def test_csv_rows_keeps_names_of_any_bytes(tmp_path):
  path = tmp_path / 'x.csv'
  with rows.csv_rows(path) as write:
    for name in NAMES:
      write([name, None, 0.1])
  assert b'\xff\xe9.jpg,,0.1\n' in path.read_bytes()
  with open(path, encoding='utf-8', errors='surrogateescape', newline='') as f:
    assert [*csv.reader(f)] == [[name, '', '0.1'] for name in NAMES]


TEXTS = {  # text: its cell in the file
  '=1+1': "'=1+1",
  "'=1+1": "''=1+1",
  "''-x": "'''-x",
  '+ve': "'+ve",
  '@a': "'@a",
  '\ta': "'\ta",
  '-1.5': '-1.5',  # a number
  "'a": "'a",
  "'": "'",
  '': '',
  'a=b': 'a=b',
}


def test_text_of_cell_is_what_csv_rows_was_given(tmp_path):
  path = tmp_path / 'x.csv'
  with rows.csv_rows(path) as write:
    write([*TEXTS])
  with open(path, newline='') as file:
    (cells,) = csv.reader(file)
  assert cells == [*TEXTS.values()]
  assert [rows.text_of_cell(cell) for cell in cells] == [*TEXTS]


@pytest.mark.parametrize('number', [0, 1, 4])
def test_json_array_writes_what_json_dump_writes(number, tmp_path):
  path, values = tmp_path / 'x.json', [{'a': n, 'b': [n]} for n in NAMES]
  with rows.json_array(path) as write:
    for value in values[:number]:
      write(value)
  assert path.read_text() == json.dumps(values[:number], indent=2) + '\n'


def test_json_lines_writes_a_value_in_each_line(tmp_path):
  path = tmp_path / 'x.jsonl'
  with rows.json_lines(path) as write:
    for name in NAMES:
      write({'image': name})
  lines = path.read_text(encoding='ascii').splitlines()
  assert [json.loads(line)['image'] for line in lines] == NAMES


def test_files_of_rows_are_whole_or_not_there(tmp_path):
  for kind in (rows.csv_rows, rows.json_array, rows.json_lines):
    with pytest.raises(ValueError), kind(tmp_path / 'x') as write:
      write(['a'])
      assert not (tmp_path / 'x').exists()
      raise ValueError
  assert not [*tmp_path.iterdir()]
