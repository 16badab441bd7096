"""Partial files; test_download.py tests downloads."""

import pytest

from vit_jax_repro.published import partial_download

pytestmark = pytest.mark.quick

KNOWN = {
  'url': 'http://a/b',
  'etag': '"1"',
  'modified': '',
  'size': 3,
  'hashes': [],
}


def test_partial_file_finds_an_earlier_part(tmp_path):
  part = partial_download.PartialFile(tmp_path / 'a.b')
  assert part.known is None and part.size() == 0
  part.begin(KNOWN)
  part.path.write_bytes(b'abc')
  again = partial_download.PartialFile(str(tmp_path / 'a.b'))
  assert again.known == KNOWN and again.size() == 3
  again.begin({**KNOWN, 'url': 'http://a/c'})
  assert again.size() == 0
  again.path.write_bytes(b'def')
  again.finish(['sha256:cb8379ac'])
  assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [
    ('a.b', b'def')
  ]


@pytest.mark.parametrize(
  'name, start, good',
  [
    ('x.npz', b'PK\3\4', True),
    ('x.npz', b'\x93NUMPY', False),
    # The length of a header may look like the start of a page.
    ('x.safetensors', b' <\0\0\0\0\0\0{"a"', True),
    ('x.safetensors', b'PK\3\4\0\0\0\0\0', False),
    ('x.pth', b'\x80\2', True),
    ('x.bin', b'PK\3\4', True),
    ('x.pth', b'<html>', False),
    ('x.csv', b'name,ds', True),
  ],
)
def test_finish_checks_the_start_of_the_file(tmp_path, name, start, good):
  part = partial_download.PartialFile(tmp_path / name)
  part.begin(KNOWN)
  part.path.write_bytes(start)
  if good:
    part.finish()
    assert (tmp_path / name).read_bytes() == start
  else:
    with pytest.raises(
      partial_download.WrongBytesError, match=r'instead of a \.'
    ):
      part.finish()
    assert not list(tmp_path.iterdir())


def test_alone_locks_one_file_at_a_time(tmp_path):
  path = tmp_path / 'a.npz'
  with partial_download.alone(path):
    with (
      pytest.raises(OSError, match=r'in use by process .*; wait until it'),
      partial_download.alone(path),
    ):
      pass
    with partial_download.alone(tmp_path / 'b.npz'):
      pass
  with partial_download.alone(path):
    pass
  assert not list(tmp_path.iterdir())
