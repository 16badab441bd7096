"""Hostile servers, and addresses and tokens that must not be shown."""

import contextlib
import io
import os
import pathlib
import socketserver
import ssl
import tempfile
import threading
import time

from hostile import Hostile

from vit_jax_repro.published import download, fetching, hub

# A certificate of localhost with its key, which no machine trusts.
_CERTIFICATE = str(pathlib.Path(__file__).parents[1] / 'data' / 'localhost.pem')
_SECRET = 'hf_secret0123456789'
_PATIENCE = 1.0  # seconds to wait for bytes; 60 for users
_LIMIT = 2**26  # bytes of a file without a size; 16 GiB for users


class _Server(socketserver.ThreadingTCPServer):
  allow_reuse_address = True
  daemon_threads = True
  block_on_close = False


@contextlib.contextmanager
def _serving(answer, *, tls=False):
  """Yields the address of a server that answers requests by a function.

  Args:
    answer: called with (send, request), where `send` sends bytes.
    tls: whether to serve https.
  """

  class Handler(socketserver.BaseRequestHandler):
    def handle(self):
      with contextlib.suppress(OSError):
        request = b''
        while b'\r\n\r\n' not in request:
          request += self.request.recv(2**16)
        answer(self.request.sendall, request)

    def finish(self):
      with contextlib.suppress(OSError):
        self.request.close()

  class Server(_Server):
    def get_request(self):
      connection, address = super().get_request()
      if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_CERTIFICATE)
        connection = context.wrap_socket(connection, server_side=True)
      return connection, address

  with Server(('127.0.0.1', 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
      yield f'http{"s" * tls}://localhost:{server.server_address[1]}'
    finally:
      server.shutdown()
      thread.join()


@contextlib.contextmanager
def _environment(**values):
  before = {name: os.environ.get(name) for name in values}
  os.environ.update(values)
  try:
    yield
  finally:
    for name, value in before.items():
      os.environ.pop(name)
      if value is not None:
        os.environ[name] = value


def _head(status, *headers):
  return '\r\n'.join([f'HTTP/1.1 {status}', *headers, '', '']).encode()


_CHUNKED = _head('200 OK', 'Transfer-Encoding: chunked')


def _sends(*parts):
  """Returns an answer of fixed bytes."""

  def answer(send, request):
    del request
    for part in parts:
      send(part)

  return answer


def _redirects(location):
  return _sends(_head('302 Found', f'Location: {location}'))


def _endless(pause, piece):
  """Returns an answer that never ends."""

  def answer(send, request):
    del request
    send(_head('200 OK', 'Content-Type: application/octet-stream'))
    send(b'PK')
    while True:
      send(piece)
      time.sleep(pause)

  return answer


def _repeats(first, piece, pause=0.0):
  """Returns an answer that begins and then repeats bytes for ten seconds."""

  def answer(send, request):
    del request
    send(first)
    end = time.monotonic() + 10 * _PATIENCE
    while time.monotonic() < end:
      send(piece)
      time.sleep(pause)

  return answer


def _silent(send, request):
  del send, request
  time.sleep(3 * _PATIENCE)


def _downloaded(answer, *, tls=False, trusted=False, token=None):
  """Returns a function that downloads from a server, as `fetch` does."""

  def run(folder):
    most, download.MOST_UNDECLARED = download.MOST_UNDECLARED, _LIMIT
    trust = {'REQUESTS_CA_BUNDLE': _CERTIFICATE} if trusted else {}
    try:
      with _serving(answer, tls=tls) as url, _environment(**trust):
        download.download(
          f'{url}/model.npz',
          folder / 'model.npz',
          timeout=(_PATIENCE, _PATIENCE),
          waits=(),
          token=token,
        )
    finally:
      download.MOST_UNDECLARED = most
      _remove_parts(folder)
    return 'downloaded'

  return run


def _remove_parts(folder):
  """Removes what a broken download keeps for its continuation."""
  for path in folder.glob('model.npz.part*'):
    path.unlink()


def _shown(function):
  """Returns what a function prints and raises, and fails if it has a secret."""

  def run(folder):
    out = io.StringIO()
    error = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
      try:
        function(folder)
      except (ValueError, OSError) as found:
        error = found
    notes = ' '.join(getattr(error, '__notes__', ()))
    text = ' '.join(f'{out.getvalue()} {error} {notes}'.split())
    assert _SECRET not in text, text
    return text

  return run


def _user_in_address(folder):
  """Fetches from a mirror whose address has a password."""
  with (
    _serving(_sends(_head('403 Forbidden', 'Content-Length: 0'))) as url,
    tempfile.TemporaryDirectory() as out,
  ):
    address = url.replace('://', f'://user:{_SECRET}@')
    with _environment(
      VIT_JAX_REPRO_STORAGE=address,
      VIT_JAX_REPRO_RELEASES=f'{address}?key={_SECRET}',
      HF_ENDPOINT=address,
    ):
      fetching.fetch('imagenet21k/ViT-B_16', out)


def _password_kept(folder):
  """Breaks a download off; fails if the rest's description has a secret."""
  cut = _sends(_head('200 OK', 'Content-Length: 99', 'ETag: "1"'), b'PK')
  with _serving(cut) as url:
    path = folder / 'model.npz'
    address = f'{url.replace("://", f"://user:{_SECRET}@")}/x?key={_SECRET}'
    try:
      download.download(address, path, waits=())
    finally:
      kept = pathlib.Path(f'{path}.part.json').read_text(encoding='utf-8')
      _remove_parts(folder)
      assert 'localhost' in kept and _SECRET not in kept, kept


def _broken_token(folder):
  with _environment(HF_TOKEN=f'{_SECRET}\nX-Other: 1'):
    hub.download_repository('user/repo')


def _token_to_others(folder):
  """Downloads with a token from a host that redirects to another one."""
  seen = []

  def answer(send, request):
    seen.append(request)
    send(_head('200 OK', 'Content-Length: 2'))
    send(b'PK')

  with (
    _serving(answer) as other,
    _serving(_redirects(other.replace('localhost', '127.0.0.1'))) as url,
  ):
    path = folder / 'model.npz'
    download.download(f'{url}/x', path, token=_SECRET, waits=())
    path.unlink()
  assert seen and _SECRET.encode() not in seen[0]
  return f'{len(seen)} request without the token'


def _hub(answer):
  """Returns a function that gets a repository from a hostile Hub."""

  def run(folder):
    del folder
    longest, hub.LONGEST = hub.LONGEST, _PATIENCE
    try:
      with (
        tempfile.TemporaryDirectory() as cache,
        _serving(answer) as url,
        _environment(HF_ENDPOINT=url, VIT_JAX_REPRO_CACHE=cache),
      ):
        hub.download_repository('user/repo')
    finally:
      hub.LONGEST = longest

  return run


def _is(name, opens, shows, **options):
  return Hostile(name, lambda folder: folder, opens, shows, **options)


CASES = (
  _is(
    'redirect from https to http',
    _downloaded(_redirects('http://localhost:1/x'), tls=True, trusted=True),
    'from https to http',
  ),
  _is(
    'redirect to file:///etc/passwd',
    _downloaded(_redirects('file:///etc/passwd')),
    'file:///etc/passwd',
  ),
  _is(
    'redirect to itself', _downloaded(_redirects('/model.npz')), '30 redirects'
  ),
  _is(
    'redirect with terminal escapes',
    _downloaded(_redirects('http://\x1b[2J')),
    'no valid address',
  ),
  _is(
    'self-signed certificate',
    _downloaded(_sends(b''), tls=True),
    'no secure connection (TLS)',
  ),
  _is(
    'file without end, at full speed',
    _downloaded(_endless(0, bytes(2**20))),
    'declares no size',
  ),
  _is(
    'file without end, ten bytes a second',
    _downloaded(_endless(0.1, b'x')),
    'bytes a second',
  ),
  _is('server that never answers', _downloaded(_silent), 'no answer in time'),
  _is(
    '100 Continue without end',
    _downloaded(_repeats(b'', _head('100 Continue') * 100)),
    'no answer in time',
  ),
  _is(
    'header that comes byte by byte',
    _downloaded(_repeats(b'HTTP/1.1 200 OK\r\nA: ', b'b', 0.1)),
    'no answer in time',
  ),
  _is(
    'redirect to itself whose body has no end',
    _downloaded(
      _repeats(_head('302 Found', 'Location: /model.npz'), b'x' * 1000)
    ),
    '30 redirects',
  ),
  _is(
    'size of a chunk that comes byte by byte',
    _downloaded(_repeats(_CHUNKED, b'0', 0.1)),
    'no answer in time',
  ),
  _is(
    'trailers without end',
    _downloaded(_repeats(_CHUNKED + b'0\r\n', b'A: b\r\n' * 1000)),
    'no answer in time',
  ),
  _is(
    'size of -1',
    _downloaded(_sends(_head('200 OK', 'Content-Length: -1'), b'PK')),
    "declares the size '-1'",
  ),
  _is(
    '1,000 header lines',
    _downloaded(_sends(_head('200 OK', *['A: b'] * 1000))),
    '',
  ),
  _is(
    'header line of 1 MB',
    _downloaded(_sends(_head('200 OK', f'A: {"b" * 2**20}'))),
    '',
  ),
  _is(
    'status with terminal escapes',
    _downloaded(_sends(_head('404 \x1b[2J'))),
    '404 ?[2J',
  ),
  _is('answer that is no HTTP', _downloaded(_sends(b'\x00' * 1000)), ''),
  _is(
    'file of 1 EB',
    _downloaded(_sends(_head('200 OK', f'Content-Length: {10**18}'))),
    'bytes free',
  ),
  _is(
    'size of 5,000 digits',
    _downloaded(_sends(_head('200 OK', f'Content-Length: {"9" * 5000}'))),
    "declares the size '999",
  ),
  _is(
    'damaged hash',
    _downloaded(
      _sends(
        _head('200 OK', 'x-goog-hash: md5=a', 'ETag: "1"'), b'not an archive'
      )
    ),
    'instead of a .npz file',
  ),
  _is(
    'gzip bomb as encoding',
    _downloaded(_sends(_head('200 OK', 'Content-Encoding: gzip'))),
    'gzip-encoded',
  ),
  _is(
    'page in place of a file',
    _downloaded(_sends(_head('200 OK', 'Content-Type: text/html'))),
    'an HTML page',
  ),
  _is(
    'Hub: commit ../../evil',
    _hub(
      _sends(_head('200 OK', 'Content-Length: 0', 'X-Repo-Commit: ../../evil'))
    ),
    'cache has no copy',
  ),
  _is(
    'Hub: header that comes byte by byte',
    _hub(_repeats(b'HTTP/1.1 200 OK\r\nA: ', b'b', 0.1)),
    'cache has no copy',
  ),
  _is(
    'password in the address of a mirror',
    _shown(_user_in_address),
    '',
    refused=False,
  ),
  _is(
    'password in the rest of a download',
    _shown(_password_kept),
    '',
    refused=False,
  ),
  _is(
    'HF_TOKEN with a line break',
    _shown(_broken_token),
    'HF_TOKEN holds',
    refused=False,
  ),
  _is(
    'redirect of a token to another host',
    _token_to_others,
    '1 request without',
    refused=False,
  ),
)
