"""The images that a command line names."""

import codecs
import io
import os
import sys

import pytest

from vit_jax_repro.data import image_lists
from vit_jax_repro.errors import InputError

pytestmark = pytest.mark.quick


@pytest.fixture
def photos(tmp_path, monkeypatch):
  """A folder of empty files, which is the working directory's `photos`."""
  for name in (
    'img10.jpg', 'img2.JPG', 'b/1.png', 'a2/x.tif', 'a10/x.tif', 'notes.txt',
    '.hidden.jpg', '@eaDir/img2.jpg', 'b/@eaDir/1.jpg', 'Thumbs.db',
  ):  # fmt: skip
    path = tmp_path / 'photos' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  monkeypatch.chdir(tmp_path)
  return tmp_path / 'photos'


FOUND = [
  'photos/a2/x.tif', 'photos/a10/x.tif', 'photos/b/1.png', 'photos/img2.JPG',
  'photos/img10.jpg',
]  # fmt: skip


def test_expand_lists_a_folder_in_natural_order(photos, capsys):
  assert list(image_lists.expand(['photos']).paths) == FOUND
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('note: photos: left out 2 @eaDir/, 1 .txt; images are')


def test_expand_takes_patterns_and_what_is_in_matching_folders(photos, capsys):
  for pattern, found in (
    ('photos/*.[jJ]*', FOUND[3:]),
    ('photos/**', FOUND),
    ('photos/**/*.tif', FOUND[:2]),
    ('photos/**/1.*', FOUND[2:3]),  # without those in @eaDir
    ('photos/@eaDir/*', ['photos/@eaDir/img2.jpg']),
    ('photo?', FOUND),
  ):
    assert list(image_lists.expand([pattern]).paths) == found, pattern
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('note: photos/**: left out 2 files that are no images')


def test_expand_keeps_named_files_as_they_are(photos, capsys):
  (photos / 'x[1].jpg').touch()
  named = ['no.jpg', 'photos/notes.txt', 'photos/x[1].jpg', 'no.jpg']
  assert list(image_lists.expand(named).paths) == named
  assert capsys.readouterr().err == (
    'note: 1 of the 4 images are named more than once\n'
  )


@pytest.mark.parametrize(
  'text',
  [
    b'# mine\n\nb 1.jpg\r\n \n"a,\xff".jpg\r\n',
    codecs.BOM_UTF8 + b'b 1.jpg\n"a,\xff".jpg',
    b'b 1.jpg\0"a,\xff".jpg\0',
  ],
)
def test_expand_reads_lists_of_any_bytes(text, tmp_path, monkeypatch):
  (tmp_path / 'list').write_bytes(text)
  wanted = ('b 1.jpg', os.fsdecode(b'"a,\xff".jpg'))
  found = image_lists.expand([f'@{tmp_path}/list'])
  assert found.paths == wanted and found.lists == (f'{tmp_path}/list',)
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(text)))
  assert image_lists.expand(['-']).paths == wanted


def test_expand_reads_names_with_newlines_between_nul_bytes(tmp_path):
  (tmp_path / 'list').write_bytes(b'a\nb.jpg\0#c.jpg\0')
  assert image_lists.expand([f'@{tmp_path}/list']).paths == (
    'a\nb.jpg',
    '#c.jpg',
  )


@pytest.mark.parametrize(
  'argument, wanted',
  [
    ('empty', 'folder empty holds no image (.jpg, .jpeg'),
    ('*.gif', 'no image (.jpg, .jpeg, .jfif, .png, .webp, .bmp, .gif, .tif, '),
    ('@no.txt', 'no list of images no.txt; for an image whose name begins'),
    ('@', '@ must be followed by the path of a list'),
    ('@photos', 'photos is a folder, not a list of images'),
    ('@blank', 'list blank holds no path; write one path in each line'),
    ('@utf16', 'list utf16 is UTF-16; save it as UTF-8'),
    ('@sharp', 'line 2 of list sharp is a comment, because it begins with #'),
  ],
)
def test_expand_refuses_wrong_arguments_in_one_line(argument, wanted, photos):
  (photos.parent / 'empty').mkdir()
  for name, text in (
    ('blank', b'\n# x\n \n'),
    ('utf16', 'a.jpg\n'.encode('utf-16')),
    ('sharp', b'a.jpg\n#1.jpg\n'),
    ('#1.jpg', b''),
  ):
    (photos.parent / name).write_bytes(text)
  with pytest.raises(InputError) as caught:
    image_lists.expand([argument])
  assert wanted in str(caught.value) and '\n' not in str(caught.value)


def test_check_outputs_keeps_images_and_lists(photos):
  (photos.parent / 'list').write_text('photos/img2.JPG\n')
  os.link(photos / 'img2.JPG', photos.parent / 'hard')
  images = image_lists.expand(['@list'])
  images.check_outputs(['new.csv', 'new.json'])
  for outputs in (['hard'], ['list'], ['new.csv', './new.csv'], ['kept']):
    with pytest.raises(OSError, match='it would replace'):
      images.check_outputs(outputs, keep=['kept'])
