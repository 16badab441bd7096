import os
import unicodedata

import numpy as np
import pytest

from vit_jax_repro.data import folders

pytestmark = pytest.mark.quick


def make(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())
  return root


def test_scan_counts_aloud(tmp_path, monkeypatch):
  """A large folder is listed without a word, or with a wrong count."""
  make(tmp_path, *(f'test/{c}/{i}.jpg' for c in 'ab' for i in range(3)))
  texts = []
  monkeypatch.setattr(folders, '_COUNTED', 2)
  monkeypatch.setattr(folders.waiting, 'now_doing', texts.append)
  folders.scan(tmp_path, 'test')
  where = f'counting the images in {tmp_path / "test"}'
  assert texts == [f'{where}: {count} so far' for count in (2, 4, 6)]


def test_scan_finds_nested_images_and_ignores_hidden_files(tmp_path):
  make(
    tmp_path,
    'test/b/2.JPG',
    'test/b/10.PnG',
    'test/b/deep/er/x.jpeg',
    'test/b/.hidden.jpg',
    'test/b/.cache/y.jpg',
    'test/b/notes.txt',
    'test/b/jpg',
    'test/a/z.JPEG',
    'test/loose.jpg',
    'test/.c/q.jpg',
    '.git/b/q.jpg',
    'README.png',
  )
  folder = folders.scan(tmp_path, 'test')
  assert folder.class_names == ('a', 'b')
  assert list(folder.paths) == [
    'test/a/z.JPEG',
    'test/b/10.PnG',
    'test/b/2.JPG',
    'test/b/deep/er/x.jpeg',
  ]
  assert folder.labels == (0, 1, 1, 1)


def test_class_names_come_from_all_splits(tmp_path):
  make(
    tmp_path, 'train/a/1.png', 'train/c/1.png', 'test/b/1.png', 'test/c/1.png'
  )
  make(tmp_path, 'logs/run1/notes.txt', 'test/.hidden/notes.txt')
  folder = folders.scan(tmp_path, 'test')
  assert folder.class_names == ('a', 'b', 'c')
  assert folder.labels == (1, 2)
  assert folders.scan(tmp_path, 'train').labels == (0, 2)


@pytest.mark.parametrize(
  'names, wanted',
  [
    (['10', '2', '0', '1'], ('0', '1', '2', '10')),
    (['010', '002', '000', '001'], ('000', '001', '002', '010')),
    (['10', '2', 'x'], ('10', '2', 'x')),  # not all of them are numbers
    (['10', '2', '-1'], ('-1', '10', '2')),
  ],
)
def test_class_names_that_are_whole_numbers_have_the_order_of_numbers(
  tmp_path, names, wanted
):
  """A number read as a text: class 10 became class 2."""
  make(tmp_path, *(f'test/{name}/1.png' for name in names))
  folder = folders.scan(tmp_path, 'test')
  assert folder.class_names == wanted
  for path, label in zip(folder.paths, folder.labels, strict=True):
    assert path.split('/')[1] == wanted[label]


def test_slices_of_numbered_classes_keep_their_images(tmp_path):
  """The order of classes is new; parts of such splits are as before."""
  make(tmp_path, *(f'test/{c}/{i}.png' for c in range(11) for i in range(3)))
  found = folders.scan(tmp_path, 'test[:4]').paths
  whole = sorted(f'test/{c}/{i}.png' for c in range(11) for i in range(3))
  order = np.random.RandomState(0).permutation(33)[:4]
  assert list(found) == [whole[i] for i in sorted(order)]


ACCENTS = [unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD')]


@pytest.mark.parametrize(
  'names, shown',
  [
    (['train/Cat', 'test/cat'], 'test/cat and train/Cat'),
    (['train/Cat', 'train/cat', 'test/dog'], 'train/Cat and train/cat'),
    (
      [f'train/{ACCENTS[0]}', f'test/{ACCENTS[1]}'],
      r"'test/cafe\u0301' and 'train/caf\xe9'",
    ),
    ([f'test/{ACCENTS[1]}X', f'test/{ACCENTS[0]}x'], 'X and test/'),
    (['train/STRASSE', 'test/straße'], 'test/straße and train/STRASSE'),
  ],
)
def test_scan_refuses_two_spellings_of_a_class(tmp_path, names, shown):
  """One class taken for two: each split had a class that the other lacked."""
  make(tmp_path, *(f'{name}/1.png' for name in names))
  with pytest.raises(ValueError, match='give them one name') as caught:
    folders.scan(tmp_path, 'test')
  assert shown in str(caught.value) and '\n' not in str(caught.value)


def test_scan_takes_letters_for_different_classes(tmp_path):
  make(tmp_path, *(f'{s}/{c}/1.png' for s in ('train', 'test') for c in 'Aa'))
  assert folders.scan(tmp_path, 'test').class_names == ('A', 'a')


def test_scan_leaves_out_folders_of_tools_and_counts_what_it_leaves_out(
  tmp_path,
):
  """Files left out in silence, and folders that became classes."""
  make(
    tmp_path,
    *('test/a/1.jpg', 'test/a/2.HEIC', 'test/a/3.heic', 'test/a/notes.txt'),
    *('test/a/deep/4.pdf', 'test/a/Thumbs.db', 'test/a/desktop.ini'),
    *('test/a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg', 'test/a/.DS_Store'),
    *('test/@eaDir/b.jpg', 'test/__MACOSX/c/5.jpg', 'test/loose.jpg'),
    *('test/a/README', '__MACOSX/d/6.jpg', '@eaDir/e/7.jpg'),
    *('train/b/1.jpg', 'train/b/Thumbs.db'),
  )
  folder = folders.scan(tmp_path, 'test')
  assert folder.class_names == ('a', 'b') and folder.paths == ('test/a/1.jpg',)
  (line,) = folder.notes
  assert line.startswith(
    f'{tmp_path}/test: left out 2 .heic, 2 @eaDir/, 1 .pdf, 1 .txt, '
    '1 __MACOSX/, 1 images outside of class folders and 1 more; images are'
  )
  assert folders.scan(tmp_path, 'train').notes == ()
  with pytest.raises(ValueError, match=r"choose from \['test', 'train'\]"):
    folders.scan(tmp_path, '__MACOSX')


def test_scan_counts_images_outside_of_class_folders(tmp_path):
  """Images that lie one level too high are no part of the split."""
  make(tmp_path, 'test/a/1.jpg', 'test/2.jpg', 'test/3.png', 'test/list.csv')
  (line,) = folders.scan(tmp_path, 'test[:1]').notes
  assert 'left out 2 images outside of class folders;' in line


def test_error_names_an_empty_class_folder(tmp_path):
  make(tmp_path, 'train/a/1.png', 'train/b/1.png', 'test/a/1.png')
  make(tmp_path, 'test/b/notes.txt')
  with pytest.raises(ValueError, match=r'test/b holds no image .* remove it'):
    folders.scan(tmp_path, 'test[:1]')
  assert folders.scan(tmp_path, 'train').class_names == ('a', 'b')


def test_symbolic_links_are_followed_but_not_in_circles(tmp_path):
  make(tmp_path, 'store/one/1.png', 'root/test/a/2.png')
  (tmp_path / 'root/test/b').symlink_to(tmp_path / 'store/one')
  (tmp_path / 'root/test/a/up').symlink_to(tmp_path / 'root/test/a')
  folder = folders.scan(tmp_path / 'root', 'test')
  assert folder.paths == ('test/a/2.png', 'test/b/1.png')


def test_error_names_a_broken_link(tmp_path):
  make(tmp_path, 'test/a/1.png', 'train/a/1.png')
  (tmp_path / 'test/a/2.png').symlink_to(tmp_path / 'gone.png')
  wanted = f'{tmp_path}/test/a/2.png cannot be read: no such file'
  with pytest.raises(OSError, match=wanted) as caught:
    folders.scan(tmp_path, 'test')
  assert '\n' not in str(caught.value)
  assert folders.scan(tmp_path, 'train').num_examples == 1


def test_error_names_an_unreadable_image(tmp_path, monkeypatch):
  make(tmp_path, 'test/a/1.png')
  monkeypatch.setattr(os, 'access', lambda *_: False)  # root may read all files
  with pytest.raises(
    OSError, match=r'1\.png cannot be read: permission denied'
  ):
    folders.scan(tmp_path, 'test')


def test_slices_are_disjoint_sorted_and_mix_classes(tmp_path):
  make(tmp_path, *(f'train/{c}/{i:02}.png' for c in 'ab' for i in range(20)))
  whole = folders.scan(tmp_path, 'train')
  most = folders.scan(tmp_path, 'train[:90%]')
  rest = folders.scan(tmp_path, 'train[90%:]')
  assert (len(whole.paths), len(most.paths), len(rest.paths)) == (40, 36, 4)
  assert sorted(most.paths + rest.paths) == list(whole.paths)
  assert list(most.paths) == sorted(most.paths)
  assert rest.paths == folders.scan(tmp_path, 'train[-10%:]').paths
  assert rest.paths == folders.scan(tmp_path, 'train[36:]').paths
  half = folders.scan(tmp_path, 'train[:20]')
  assert set(half.labels) == {0, 1}
  both = folders.scan(tmp_path, 'train[:3]+train[-2:]')
  assert len(set(both.paths)) == 5


def test_scan_accepts_any_characters_in_split_names(tmp_path):
  make(tmp_path, 'val-clean+2[x]/a/1.png', 'val-clean/b/1.png')
  assert folders.scan(tmp_path, 'val-clean+2[x]').labels == (0,)
  assert folders.scan(tmp_path, 'val-clean[:1]').labels == (1,)


def test_parts_of_processes_have_all_files(tmp_path):
  names = [f'test/{c}/{i} é.png' for c in 'ab' for i in range(4)]
  folder = folders.scan(make(tmp_path, *names[:7]), 'test')
  seen = []
  for process in range(3):
    for example in folder.examples(process, 3):
      record = {
        key: value.numpy() for key, value in folder.load(example).items()
      }
      path = os.fsdecode(record['id'])
      assert record['image'] == path.encode()
      assert record['label'] == folder.labels[folder.paths.index(path)]
      assert record['label'].dtype == np.int64
      seen.append(path)
  assert sorted(seen) == list(folder.paths)


@pytest.mark.parametrize('slash', ['', '/', '//'])
def test_ids_are_relative_to_any_spelling_of_the_root(
  tmp_path, monkeypatch, slash
):
  make(tmp_path, 'photos/test/a/1.png')
  monkeypatch.chdir(tmp_path)
  for root in ('photos', './photos', tmp_path / 'photos', 'photos/../photos'):
    folder = folders.scan(f'{root}{slash}', 'test')
    assert folder.paths == ('test/a/1.png',)
    (example,) = folder.examples(0, 1)
    assert folder.load(example)['image'].numpy() == b'photos/test/a/1.png'
    assert os.path.samefile(
      folder.locate('test/a/1.png'), 'photos/test/a/1.png'
    )


@pytest.mark.parametrize(
  'split, message',
  [
    ('val', r"no split 'val' with images.*choose from \['test', 'train'\]"),
    ('train[:9', r"no split 'train\[:9' with images"),
    ('train[:4]', 'reaches beyond the 3 images'),
    ('train[2:1]', 'holds no image'),
    ('', "no split ''"),
  ],
)
def test_scan_rejects_wrong_splits(tmp_path, split, message):
  make(tmp_path, *(f'train/a/{i}.png' for i in range(3)), 'test/a/1.png')
  with pytest.raises(ValueError, match=message) as caught:
    folders.scan(tmp_path, split)
  assert '\n' not in str(caught.value)


def test_scan_rejects_wrong_folders(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'nowhere is not a folder'):
    folders.scan(tmp_path / 'nowhere', 'test')
  (tmp_path / 'README.md').touch()
  with pytest.raises(ValueError, match=r'no images in .* ROOT/SPLIT/CLASS'):
    folders.scan(tmp_path, 'test')


@pytest.mark.parametrize(
  'names, split, message',
  [
    (
      ['cat/1.png', 'dog/old/2.png'],
      'train',
      r'images right below cat and deeper in dog \(old\)',
    ),
    (
      ['cat/1.png', 'cat/more/1.png'],
      'train[:80%]',
      'these are classes, let their images lie right below them',
    ),
    (
      ['cat/2020/1.png', 'dog/2021/2.png'],
      'test',
      r"'test' .* choose from \['cat', 'dog'\], or, .* such as cat/2020",
    ),
  ],
)
def test_scan_names_folders_that_may_be_classes(
  tmp_path, names, split, message
):
  make(tmp_path, *names)
  with pytest.raises(ValueError, match=message) as caught:
    folders.scan(tmp_path, split)
  assert '\n' not in str(caught.value)


def test_scan_notes_images_beside_the_splits(tmp_path):
  """A class next to the splits was left out without a word."""
  make(tmp_path, 'train/cat/1.png', 'train/dog/1.png', 'bird/1.png')
  (line,) = folders.scan(tmp_path, 'train').notes
  assert 'left out the images right below bird, which' in line
