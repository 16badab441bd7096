import pytest

from vit_jax_repro.data import label_files
from vit_jax_repro.errors import InputError

pytestmark = pytest.mark.quick


def write(folder, data):
  path = folder / 'labels.csv'
  path.write_bytes(data if isinstance(data, bytes) else data.encode())
  return path


def rows(folder, data):
  file = label_files.read(write(folder, data))
  return [tuple(row) for row in file.rows], file.has_several


def test_read_one_label_of_each_image(tmp_path):
  assert rows(tmp_path, 'file,label\nb.jpg,cat\na.jpg,dog\n') == (
    [('b.jpg', ('cat',), 2), ('a.jpg', ('dog',), 3)],
    False,
  )


def test_read_takes_the_marks_quotes_and_line_ends_of_spreadsheets(tmp_path):
  text = '\ufefffile,label,label\r\n"a, b.jpg", big "cat"" ,\r\n'
  text = text.replace(' big "cat"" ', '"a ""cat"", big"')
  text += '\r\n./x//y.jpg,, dog \r\nz.jpg\r\n,,\r\n'
  assert rows(tmp_path, text) == (
    [
      ('a, b.jpg', ('a "cat", big',), 2),
      ('x/y.jpg', ('dog',), 4),
      ('z.jpg', (), 5),
    ],
    True,
  )


@pytest.mark.parametrize(
  'text, message',
  [
    ('', "line 1 is ''; the first line must be the header file,label"),
    ('a.jpg,cat\n', "line 1 is 'a.jpg,cat'; the first line must be the header"),
    ('file,labels\na.jpg,b\n', "line 1 is 'file,labels'"),
    ('file;label\na.jpg;cat\n', 'is separated by semicolons; save it with'),
    ('file\tlabel\na.jpg\tcat\n', 'is separated by tabs'),
    ('file,label\n', 'no row below its header'),
    ('file,label\na.jpg,cat,dog\n', 'line 2 has 3 cells and the header 2'),
    (
      'file,label\na.jpg,x\n./a.jpg,y\n',
      "line 3 names 'a.jpg' again, after li",
    ),
    ('file,label\na.jpg,\n', 'line 2 has no label; add it'),
    ('file,label,label\na.jpg,x,x\n', "line 2 has the label 'x' twice"),
    ('file,label\n\na.jpg,x|y\n', "line 3 has the label 'x|y'; write each"),
    ('file,label\na.jpg,x;y\n', "line 2 has the label 'x;y'"),
    ('file,label\na.jpg,"x\ny"\n', "line 2 has the label 'x y'"),
    ('file,label\n,x\n', 'line 2 names no file'),
    (
      'file,label\n/etc/a.jpg,x\n',
      'must be below the folder of the labels.csv',
    ),
    (
      'file,label\na/../../b.jpg,x\n',
      "line 2 names 'a/../../b.jpg'; files must",
    ),
    ('file,label\na.jpg,x\nb.jpg,"x\n', 'line 3 is no line of a CSV file'),
    ('file,label\na.jpg,x\n'.encode('utf-16'), 'is UTF-16; save it as CSV in'),
    (
      b'file,label\na.jpg,x\nb.jpg,caf\xe9\n',
      "line 3 has the label 'caf?', which is not UTF-8; save the file as CSV",
    ),
  ],
)
def test_read_refuses_a_wrong_line_by_its_number(tmp_path, text, message):
  path = write(tmp_path, text)
  with pytest.raises(InputError) as error:
    label_files.read(path)
  assert message in str(error.value)
  assert str(error.value).startswith(str(path))
  assert '\n' not in str(error.value)


def test_check_spellings_has_both_lines(tmp_path):
  file = label_files.read(write(tmp_path, 'file,label\na.jpg,Cat\nb.jpg,cat\n'))
  with pytest.raises(InputError) as error:
    label_files.check_spellings([file])
  assert "line 3: the label 'cat' differs from 'Cat'" in str(error.value)
  assert 'line 2)' in str(error.value)
