"""Downloads from a server that interrupts, refuses or sends wrong data."""

import base64
import hashlib
import socket
import time

import numpy as np
import pytest
from file_server import Served, serving

from vit_jax_repro.published import download

pytestmark = pytest.mark.quick

K = download.CHUNK_BYTES
CONTENT = np.random.default_rng(0).bytes(5 * K)
OTHER = np.random.default_rng(1).bytes(6 * K)
NO_WAITS = (0.0,) * 5


@pytest.fixture(name='path')
def target_path(tmp_path):
  return tmp_path / 'file.bytes'


def get(url, path, **settings):
  settings = dict(waits=NO_WAITS, timeout=(5, 5)) | settings
  return download.download(url, path, **settings)


def left(path):
  """Returns the names of all files in the folder of `path`."""
  return sorted(each.name for each in path.parent.iterdir())


def ranges(seen):
  return [headers.get('Range') for _, headers in seen]


def test_download_writes_the_whole_file(path):
  watched = []
  with serving(file=Served(CONTENT)) as (base, _, seen):
    checked = get(f'{base}/file', path, watch=lambda *it: watched.append(it))
  assert path.read_bytes() == CONTENT and left(path) == ['file.bytes']
  assert checked == () and ranges(seen) == [None]
  assert watched[0] == (0, 5 * K) and watched[-1] == (5 * K, 5 * K)


def test_download_resumes_after_each_break(path):
  served = Served(CONTENT, cuts=[2 * K, 1, K])
  with serving(file=served) as (base, _, seen):
    get(f'{base}/file', path)
  assert path.read_bytes() == CONTENT and left(path) == ['file.bytes']
  kept = (2 * K, 2 * K + 1, 3 * K + 1)
  assert ranges(seen) == [None, *(f'bytes={number}-' for number in kept)]
  assert {h.get('If-Range') for _, h in seen[1:]} == {served.etag}


def test_download_resumes_the_part_of_an_earlier_call(path):
  served = Served(CONTENT, cuts=[K, K, K])
  with serving(file=served) as (base, _, seen):
    with pytest.raises(download.SourceError, match=f'{3 * K} bytes are kept'):
      get(f'{base}/file', path, waits=(0, 0))
    assert left(path) == ['file.bytes.part', 'file.bytes.part.json']
    get(f'{base}/file', path, waits=())
  assert path.read_bytes() == CONTENT and left(path) == ['file.bytes']
  assert ranges(seen)[-1] == f'bytes={3 * K}-'


DATED = {'ETag': None, 'Last-Modified': 'Tue, 20 Oct 2020 10:00:00 GMT'}


def test_download_resumes_by_date_without_an_etag(path):
  served = Served(CONTENT, cuts=[2 * K, K], headers=DATED)
  with serving(file=served) as (base, files, seen):
    with pytest.raises(download.SourceError, match=f'{3 * K} bytes are kept'):
      get(f'{base}/file', path, waits=(0,))
    get(f'{base}/file', path, waits=())
    assert path.read_bytes() == CONTENT
    assert ranges(seen) == [None, f'bytes={2 * K}-', f'bytes={3 * K}-']
    assert seen[1][1]['If-Range'] == DATED['Last-Modified']
    # Another date is another file.
    served.cuts.append(K)
    with pytest.raises(download.SourceError):
      get(f'{base}/file', path, waits=())
    later = DATED | {'Last-Modified': 'Tue, 20 Oct 2020 10:00:01 GMT'}
    files['/file'] = Served(OTHER[: 5 * K], headers=later, if_range=False)
    get(f'{base}/file', path, waits=(0,))
  assert path.read_bytes() == OTHER[: 5 * K]


@pytest.mark.parametrize(
  'headers',
  [
    {'ETag': None},
    {'ETag': 'W/"1"'},
    # RFC 9110, 13.1.5 allows no date in addition to an ETag.
    DATED | {'ETag': 'W/"1"'},
    DATED | {'Last-Modified': 'lately'},
    DATED | {'Date': DATED['Last-Modified']},  # within that second
    None,  # ranges do not work
  ],
)
def test_download_removes_a_part_it_cannot_resume(path, headers):
  served = Served(CONTENT, cuts=[K], headers=headers or {})
  waits = ()
  if headers is None:  # the second response is the whole file
    served.ranges, served.cuts, waits = False, [K, K], (0,)
  with serving(file=served) as (base, *_):
    with pytest.raises(
      download.SourceError, match='cannot continue a download; repeat'
    ):
      get(f'{base}/file', path, waits=waits)
    assert left(path) == []
    get(f'{base}/file', path, waits=())
  assert path.read_bytes() == CONTENT


def test_download_waits_longer_after_each_break(path):
  served = Served(CONTENT, cuts=[1, 1, 1])
  started = time.monotonic()
  with serving(file=served) as (base, _, _seen):
    get(f'{base}/file', path, waits=(0.1, 0.2, 0.3))
  assert time.monotonic() - started > 0.6
  assert list(download.WAITS) == sorted(set(download.WAITS))


@pytest.mark.parametrize(
  'second, requests',
  [
    (Served(CONTENT, ranges=False), 1),
    (Served(OTHER), 1),
    (Served(OTHER, if_range=False), 2),
    (Served(OTHER[: 5 * K], if_range=False), 2),  # as long as the first
    (Served(CONTENT[:K], if_range=False), 2),  # shorter than the part
  ],
  ids=['no ranges', 'another file', 'no If-Range', 'as long', 'shorter'],
)
def test_download_starts_over_for_changed_content(path, second, requests):
  first = Served(CONTENT, cuts=[2 * K])
  with serving(file=first) as (base, files, seen):
    with pytest.raises(download.SourceError):
      get(f'{base}/file', path, waits=())
    files['/file'] = second
    get(f'{base}/file', path, waits=(0,) * (requests - 1))
  assert ranges(seen) == [None, f'bytes={2 * K}-', None][: 1 + requests]
  assert path.read_bytes() == second.content and left(path) == ['file.bytes']


def test_download_rejects_another_range(path):
  first = Served(CONTENT, cuts=[2 * K])
  with serving(file=first) as (base, files, _):
    with pytest.raises(download.SourceError):
      get(f'{base}/file', path, waits=())
    part = {'ETag': first.etag, 'Content-Range': f'bytes 0-{5 * K - 1}/{5 * K}'}
    files['/file'] = Served(CONTENT[:-1], 206, headers=part)
    with pytest.raises(download.SourceError, match='another range than was'):
      get(f'{base}/file', path, waits=())
  assert left(path) == []


def test_download_resumes_after_a_truncated_response(path):
  served = Served(CONTENT, cuts=[2 * K])
  with serving(file=served) as (base, files, seen):
    with pytest.raises(download.SourceError):
      get(f'{base}/file', path, waits=())
    files['/file'] = Served(CONTENT, headers={'Content-Length': str(K)})
    with pytest.raises(download.SourceError, match=f'after {3 * K} of {5 * K}'):
      get(f'{base}/file', path, waits=())
    files['/file'] = Served(CONTENT)
    get(f'{base}/file', path)
  assert ranges(seen)[1:] == [f'bytes={2 * K}-', f'bytes={3 * K}-']
  assert path.read_bytes() == CONTENT


def test_download_starts_over_for_another_url_or_without_an_etag(path):
  served = {
    'a': Served(CONTENT, cuts=[K]),
    'b': Served(OTHER, cuts=[K], headers={'ETag': None}),
    'c': Served(CONTENT, cuts=[K], headers={'ETag': 'W/"1"'}),
  }
  with serving(**served) as (base, _, seen):
    for name in 'abbcc':
      try:
        get(f'{base}/{name}', path, waits=())
      except download.SourceError:
        continue
      assert path.read_bytes() == served[name].content
  assert ranges(seen) == [None] * 5


def test_download_accepts_a_complete_part(path):
  with serving(file=Served(CONTENT, cuts=[4 * K])) as (base, files, seen):
    with pytest.raises(download.SourceError):
      get(f'{base}/file', path, waits=())
    with open(f'{path}.part', 'ab') as file:
      file.write(CONTENT[4 * K :])
    get(f'{base}/file', path)
    assert files['/file'].content == CONTENT
  assert ranges(seen) == [None, f'bytes={5 * K}-']
  assert path.read_bytes() == CONTENT and left(path) == ['file.bytes']


@pytest.mark.parametrize('notes', [b'', b'{}', b'{"a": 1}', b'[]', b'\xff'])
def test_download_ignores_damaged_notes_of_a_part(path, notes):
  path.with_name('file.bytes.part').write_bytes(OTHER)
  path.with_name('file.bytes.part.json').write_bytes(notes)
  with serving(file=Served(CONTENT)) as (base, _, _seen):
    get(f'{base}/file', path)
  assert path.read_bytes() == CONTENT and left(path) == ['file.bytes']


@pytest.mark.parametrize('status', [401, 403, 404, 429, 500, 503])
def test_download_keeps_the_part_on_an_http_error(path, status):
  with serving(file=Served(b'<Error/>', status)) as (base, files, seen):
    with pytest.raises(download.SourceError, match=f'^{status} '):
      get(f'{base}/file', path)
    assert len(seen) == 1 and left(path) == []
    # An error does not remove an existing part either.
    files['/file'] = Served(CONTENT, cuts=[K])
    with pytest.raises(download.SourceError):
      get(f'{base}/file', path, waits=())
    files['/file'] = Served(b'', status)
    with pytest.raises(download.SourceError, match=f'^{status} '):
      get(f'{base}/file', path)
  assert path.with_name('file.bytes.part').read_bytes() == CONTENT[:K]


def test_download_retries_a_server_error_halfway(path):
  served = Served(CONTENT, cuts=[K])
  with serving(file=served) as (base, files, seen):

    def watch(done, _):
      if done == K:
        files['/file'] = Served(b'', 503)

    with pytest.raises(download.SourceError, match=r'503 .*after all retries'):
      get(f'{base}/file', path, watch=watch)
    assert len(seen) == 6


PAGE = b'\n<!DOCTYPE html><title>Sign in</title>'


@pytest.mark.parametrize(
  'name, served, message',
  [
    ('x', {'headers': {'Content-Type': 'text/html; charset=x'}}, 'HTML page'),
    ('x.npz', {'content': PAGE}, 'an HTML or XML page instead of a .npz file'),
    ('x.npz', {'content': b'version https://git-lfs'}, "bytes such as b'versi"),
    ('x.npz', {'content': b''}, 'bytes such as'),
    ('x.safetensors', {'content': PAGE}, 'HTML or XML page instead'),
    ('x.pth', {'content': PAGE}, 'HTML or XML page instead'),
    ('x', {'headers': {'Content-Encoding': 'gzip'}}, 'gzip-encoded'),
    ('x', {'status': 206}, '206 '),
    ('x', {'status': 204}, '204'),
  ],
)
def test_download_rejects_a_response_of_another_kind(
  tmp_path, name, served, message
):
  with (
    serving(file=Served(**{'content': CONTENT, **served})) as (base, *_),
    pytest.raises(download.SourceError, match=message),
  ):
    get(f'{base}/file', tmp_path / name)
  assert not list(tmp_path.iterdir())


def test_download_rejects_more_bytes_than_declared(path):
  first = Served(CONTENT, cuts=[2 * K])
  with serving(file=first) as (base, files, _):
    with pytest.raises(download.SourceError):
      get(f'{base}/file', path, waits=())
    files['/file'] = Served(
      CONTENT + b'more',
      if_range=False,
      headers={
        'ETag': first.etag,
        'Content-Range': f'bytes {2 * K}-{5 * K - 1}/{5 * K}',
      },
    )
    with pytest.raises(
      download.SourceError, match=f'more than the declared {5 * K} bytes'
    ):
      get(f'{base}/file', path)
  assert left(path) == []


def md5_header(content):
  digest = base64.b64encode(hashlib.md5(content).digest()).decode()
  return {'x-goog-hash': f'crc32c=AAAAAA==, md5={digest}'}


def sha256(content):
  return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
  'headers, hashes, checked',
  [
    (md5_header(CONTENT), (), f'md5:{hashlib.md5(CONTENT).hexdigest()}'),
    ({'x-goog-hash': 'crc32c=AAAAAA=='}, (), None),
    (
      md5_header(OTHER) | {'x-goog-stored-content-encoding': 'gzip'}, (), None
    ),
    (
      {'X-Linked-Etag': f'"{sha256(CONTENT)}"'}, (), f'sha256:{sha256(CONTENT)}'
    ),
    ({'X-Linked-Etag': f'"{"0" * 40}"'}, (), None),
    ({}, (f'sha256:{sha256(CONTENT)[:8]}',), f'sha256:{sha256(CONTENT)[:8]}'),
  ],
)  # fmt: skip
def test_download_returns_the_checked_hashes(path, headers, hashes, checked):
  # After a break, the hashes of the first response are compared.
  served = Served(CONTENT, headers=headers, cuts=[K])
  with serving(file=served) as (base, *_):
    found = get(f'{base}/file', path, hashes=hashes)
  assert found == (() if checked is None else (checked,))
  assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
  'headers, hashes',
  [
    (md5_header(OTHER), ()),
    ({'X-Linked-Etag': f'"{sha256(OTHER)}"'}, ()),
    ({}, (f'sha256:{sha256(OTHER)[:8]}',)),
  ],
)
def test_download_rejects_wrong_hashes(path, headers, hashes):
  with (
    serving(file=Served(CONTENT, headers=headers)) as (base, *_),
    pytest.raises(download.SourceError, match='wrong bytes: their'),
  ):
    get(f'{base}/file', path, hashes=hashes)
  assert left(path) == []


def test_download_removes_a_file_its_check_rejects(path):
  def check(part):
    assert part.read_bytes() == CONTENT
    raise ValueError('not this one')

  with (
    serving(file=Served(CONTENT)) as (base, *_),
    pytest.raises(download.SourceError, match=r'^not this one$'),
  ):
    get(f'{base}/file', path, check=check)
  assert left(path) == []


def test_download_follows_a_redirect_without_the_token(path):
  """The redirect has the hash. The other server does not get the token."""
  with (
    serving(blob=Served(CONTENT, cuts=[K])) as (store, _, stored),
    serving() as (hub, files, asked),
  ):
    files['/file'] = Served(
      b'',
      302,
      headers={
        'Location': f'{store}/blob',
        'X-Linked-Etag': f'"{sha256(CONTENT)}"',
      },
    )
    checked = get(f'{hub}/file', path, token='secret')
    files['/file'].headers['Location'] = f'{hub}/file'
    with pytest.raises(download.SourceError, match='redirects'):
      get(f'{hub}/file', path)
  assert checked == (f'sha256:{sha256(CONTENT)}',)
  assert path.read_bytes() == CONTENT
  assert asked[0][1]['Authorization'] == 'Bearer secret'
  assert not any('Authorization' in headers for _, headers in stored)
  assert ranges(stored) == [None, f'bytes={K}-']


def test_download_names_connection_problems(path):
  with socket.socket() as unused:
    unused.bind(('127.0.0.1', 0))
    port = unused.getsockname()[1]
    with pytest.raises(download.SourceError, match='connection refused'):
      get(f'http://127.0.0.1:{port}/file', path)
    unused.listen()
    with pytest.raises(download.SourceError, match='no answer in time'):
      get(f'http://127.0.0.1:{port}/file', path, timeout=(0.2, 0.2))
  with pytest.raises(download.SourceError, match='not found'):
    get('http://there-is-no-such-host.invalid/file', path)
  for address in ('nonsense', 'ftp://host/file', 'http://'):
    with pytest.raises(download.SourceError):
      get(address, path)
  assert left(path) == []


def test_download_times_out_on_a_silent_server(path):
  served = Served(CONTENT, pause=1)
  with (
    serving(file=served) as (base, *_),
    pytest.raises(download.SourceError, match='no answer in time, after all'),
  ):
    get(f'{base}/file', path, timeout=(0.2, 0.2), waits=())


def test_download_rejects_a_file_above_the_free_space(path):
  served = Served(CONTENT, headers={'Content-Length': str(10**18)})
  with (
    serving(file=served) as (base, *_),
    pytest.raises(OSError, match=f'bytes free, .* needs {10**18}; free') as e,
  ):
    get(f'{base}/file', path)
  assert not isinstance(e.value, download.SourceError)
