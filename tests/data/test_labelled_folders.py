import importlib.util
import os
import pathlib

import numpy as np
import pytest

from vit_jax_repro.data import class_checks, datasets, labelled_folders
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import rows

pytestmark = pytest.mark.quick

SEVERAL = 'file,label,label\n'


def make(root, **files):
  """Writes {split}/labels.csv, or labels.csv for 'whole', and images."""
  for split, text in files.items():
    folder = root if split == 'whole' else root / split
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'labels.csv').write_text(text)
    for line in text.splitlines()[1:]:
      image = folder / line.split(',')[0]
      image.parent.mkdir(parents=True, exist_ok=True)
      image.write_bytes(line.encode())
  return root


def test_file_names_have_the_bytes_that_predict_writes(tmp_path):
  name = b'caf\xe9 \xe7\x8c\xab.png'  # not UTF-8, and then UTF-8
  (tmp_path / 'test').mkdir()
  (tmp_path / 'test' / os.fsdecode(name)).write_bytes(b'x')
  csv_file = tmp_path / 'test' / 'labels.csv'
  with rows.csv_rows(csv_file) as write:
    write(['file', 'label'])
    write([os.fsdecode(name), 'cat'])
  split = datasets.open_split(str(tmp_path), 'test')
  (record,) = split.records().as_numpy_iterator()
  assert record['id'] == b'test/' + name and record['image'] == b'x'
  csv_file.write_bytes(b'file,label\ncaf\xe8.png,x\n')
  with pytest.raises(InputError, match='UTF-8, save the file as CSV in UTF-8;'):
    datasets.open_split(str(tmp_path), 'test')


def test_names_that_look_like_formulas_are_read_as_predict_writes_them(
  tmp_path,
):
  names = ['=1.png', '+2.png', '-3.png', '@4.png', "'=5.png"]
  (tmp_path / 'test').mkdir()
  with rows.csv_rows(tmp_path / 'test' / 'labels.csv') as write:
    write(['file', 'label'])
    for name in names:
      (tmp_path / 'test' / name).write_bytes(b'x')
      write([name, f'={name[1]}'])
  folder = labelled_folders.scan(tmp_path, 'test')
  assert folder.paths == tuple(sorted(f'test/{name}' for name in names))
  assert folder.class_names == ('=1', '=2', '=3', '=4', '==')


def test_scan_reads_several_labels(tmp_path):
  make(
    tmp_path,
    train=SEVERAL + 'b.jpg,dog,cat\nin/a.png,,\nc.jpg,dog,\n',
    test=SEVERAL + 'x.jpg,bird,\n',
  )
  (tmp_path / 'train' / 'extra.jpg').write_bytes(b'')
  folder = labelled_folders.scan(tmp_path, 'train')
  assert folder.multi_label
  assert folder.class_names == ('bird', 'cat', 'dog')
  assert folder.paths == ('train/b.jpg', 'train/c.jpg', 'train/in/a.png')
  wanted = [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
  np.testing.assert_array_equal(folder.all_labels(), wanted)
  assert folder.label_set() == {1, 2}
  assert folder.counts(slice(None)).tolist() == [0, 1, 2]
  assert folder.positions_of(2).tolist() == [0, 1]
  assert folder.notes == (
    f'{tmp_path}/train: left out 1 images without a row in labels.csv',
  )
  assert folder.where_first(0) == f'{tmp_path}/test/labels.csv, line 2'
  split = datasets.open_split(str(tmp_path), 'train')
  records = list(split.records().as_numpy_iterator())
  np.testing.assert_array_equal([x['label'] for x in records], wanted)
  assert records[0]['label'].dtype == np.int64
  assert records[1]['image'] == b'c.jpg,dog,'


def test_scan_reads_single_labels_and_parts(tmp_path):
  lines = ''.join(f'{i:02}.jpg,{"ab"[i % 2]}\n' for i in range(20))
  make(tmp_path, train='file,label\n' + lines)
  folder = labelled_folders.scan(tmp_path, 'train')
  assert not folder.multi_label
  assert folder.labels == (0, 1) * 10
  parts = [
    labelled_folders.scan(tmp_path, part)
    for part in ('train[:25%]', 'train[25%:]')
  ]
  assert [part.num_examples for part in parts] == [5, 15]
  assert {*parts[0].paths, *parts[1].paths} == {*folder.paths}


def test_scan_takes_splits_from_the_file_at_the_root(tmp_path):
  make(
    tmp_path, whole='file,label\ntrain/1.jpg,a\ntest/1.jpg,b\ntrain/2.jpg,b\n'
  )
  folder = labelled_folders.scan(tmp_path, 'train')
  assert folder.paths == ('train/1.jpg', 'train/2.jpg')
  assert folder.labels == (0, 1)
  assert labelled_folders.scan(tmp_path, 'test').labels == (1,)


def test_scan_has_several_labels_if_any_split_has(tmp_path):
  make(tmp_path, train=SEVERAL + '1.jpg,a,b\n', test='file,label\n1.jpg,a\n')
  test = labelled_folders.scan(tmp_path, 'test')
  np.testing.assert_array_equal(test.all_labels(), [[1, 0]])


def test_fingerprint_depends_on_labels(tmp_path):
  make(tmp_path, train=SEVERAL + '1.jpg,a,b\n2.jpg,a,\n')
  before = datasets.open_split(str(tmp_path), 'train').fingerprint()
  text = SEVERAL + '1.jpg,a,b\n2.jpg,b,\n'
  (tmp_path / 'train' / 'labels.csv').write_text(text)
  assert datasets.open_split(str(tmp_path), 'train').fingerprint() != before


@pytest.mark.parametrize(
  'files, lost, message',
  [
    ({'train': 'file,label\na.txt,x\n'}, None, 'has none of the endings of im'),
    (
      {'train': 'file,label\na.jpg,x\nb.jpg,y\n'},
      'train/b.jpg',
      "names 1 images that do not exist (line 3 'b.jpg'); mend or remove",
    ),
    (
      {'train': 'file,label\na.jpg,x\n', 'whole': 'file,label\nt/a.jpg,x\n'},
      None,
      'both have labels; keep one',
    ),
    ({'train': SEVERAL + 'a.jpg,,\n'}, None, 'no row of'),
    ({'test': SEVERAL + 'a.jpg,x,\n'}, None, "no split 'train' with images"),
    (
      {'train': SEVERAL + 'a.jpg,Cat,\n', 'test': SEVERAL + 'a.jpg,cat,\n'},
      None,
      "the label 'Cat' differs from 'cat'",
    ),
  ],
)
def test_scan_refuses(tmp_path, files, lost, message):
  make(tmp_path, **files)
  if lost:
    (tmp_path / lost).unlink()
  with pytest.raises(InputError) as error:
    labelled_folders.scan(tmp_path, 'train')
  assert message in str(error.value)


@pytest.mark.parametrize(
  'train, test, message',
  [
    ('1.jpg,a,b\n2.jpg,a,b\n', '1.jpg,a,\n2.jpg,b,\n', 'so that nothing is'),
    (
      '1.jpg,a,b\n2.jpg,a,\n',
      '1.jpg,a,\n2.jpg,a,\n',
      'the same labels (a), so',
    ),
    ('1.jpg,a,b\n2.jpg,a,\n', '1.jpg,a,\n2.jpg,c,\n', 'labels.csv, line 3)'),
  ],
)
def test_check_training_refuses_several_labels(tmp_path, train, test, message):
  make(tmp_path, train=SEVERAL + train, test=SEVERAL + test)
  splits = [datasets.open_split(str(tmp_path), x) for x in ('train', 'test')]
  with pytest.raises(InputError) as error:
    class_checks.check_training(*splits)
  assert message in str(error.value)


def test_scan_reads_the_example_of_the_documentation(tmp_path, monkeypatch):
  root = pathlib.Path(__file__).parents[2]
  path = root / 'examples' / 'coloured_shapes.py'
  spec = importlib.util.spec_from_file_location('coloured_shapes', path)
  example = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(example)
  monkeypatch.setattr(example, 'SPLITS', {'train': 20})
  out = tmp_path / 'shapes'
  monkeypatch.setattr('sys.argv', ['coloured_shapes.py', str(out)])
  example.main()
  folder = labelled_folders.scan(out, 'train')
  assert folder.class_names == tuple(sorted(example.NAMES))
  counts = {len(folder.labels_at(i)) for i in range(20)}
  assert counts == {0, 1, 2, 3}
  with pytest.raises(SystemExit):  # overwrites nothing
    example.main()


def opened(root, split):
  return datasets.open_split(str(root), split)


def test_scan_divides_a_file_without_splits(tmp_path):
  lines = ''.join(f'{i:02}.jpg,{"ab"[i % 4 == 0]}\n' for i in range(40))
  make(tmp_path, whole='file,label\n' + lines)
  (tmp_path / 'extra.jpg').write_bytes(b'extra')
  train, test = (opened(tmp_path, split) for split in ('train', 'test'))
  assert test.folder.counts(slice(None)).tolist() == [6, 2]
  assert train.folder.counts(slice(None)).tolist() == [24, 8]
  assert not {*train.folder.paths} & {*test.folder.paths}
  assert train.notes == (
    f'{tmp_path}/: left out 1 images without a row in labels.csv',
  )
  (line,) = test.divided_notes
  assert line.endswith('no splits: 80 % train, 20 % test, stratified, seed 0')
  # Rows in another order, and files in a folder of their own.
  other = tmp_path / 'other'
  rows = [f'images/new {line}' for line in reversed(lines.splitlines())]
  make(other, whole='\n'.join(['file,label', *rows]) + '\n')
  for path in (other / 'images').iterdir():
    path.write_bytes((tmp_path / path.name[4:]).read_bytes())
  again = opened(other, 'test').folder.paths
  assert again == tuple(f'images/new {x}' for x in test.folder.paths)


def test_scan_divides_several_labels_by_contents_alone(tmp_path):
  rows = ''.join(f'{i}.jpg,{"ab"[i % 2]},c\n' for i in range(10)) + '10.jpg,,\n'
  make(tmp_path, whole=SEVERAL + rows)
  train, test = (opened(tmp_path, split) for split in ('train', 'test'))
  assert (train.num_examples, test.num_examples) == (9, 2)
  assert train.folder.folder_labels == test.folder.folder_labels == (0, 1, 2)
  (line,) = test.divided_notes
  assert line.endswith('80 % train, 20 % test, not by class, seed 0')


def test_scan_refuses_files_with_and_without_splits(tmp_path):
  make(tmp_path, whole='file,label\ntrain/1.jpg,a\n2.jpg,b\n')
  with pytest.raises(InputError, match=r"line 3 names '2.jpg' without a split"):
    opened(tmp_path, 'train')
