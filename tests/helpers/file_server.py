"""A real HTTP server of files that misbehaves on demand."""

import contextlib
import dataclasses
import hashlib
import http.server
import threading
import time

PIECE = 2**16  # bytes that are sent at once


@dataclasses.dataclass
class Served:
  """Describes the answer to requests of one path."""

  content: bytes = b''
  status: int = 200
  headers: dict = dataclasses.field(default_factory=dict)
  ranges: bool = True  # honours Range
  if_range: bool = True  # honours If-Range
  cuts: list = dataclasses.field(default_factory=list)  # bytes, each answer
  pause: float = 0.0  # seconds before each of PIECE bytes

  @property
  def etag(self):
    return self.headers.get(
      'ETag', f'"{hashlib.md5(self.content).hexdigest()}"'
    )

  @property
  def validator(self):
    return self.etag or self.headers.get('Last-Modified')


# The answer of Cloud Storage to an anonymous reader of a private bucket.
FORBIDDEN = Served(
  b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>AccessDenied</Code>"
  b'<Message>Access denied.</Message><Details>Anonymous caller does not have '
  b'storage.objects.get access to the Google Cloud Storage object.</Details>'
  b'</Error>',
  403,
  {'Content-Type': 'application/xml; charset=UTF-8'},
)


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers from `server.files`; appends requests to `server.seen`."""

  protocol_version = 'HTTP/1.1'

  def do_GET(self):
    self.server.seen.append((self.path, dict(self.headers)))
    served = self.server.files.get(self.path, Served(b'', 404))
    body, status, headers = served.content, served.status, {}
    start = self._start(served)
    if status == 200 and start is not None:
      size = len(body)
      status, headers['Content-Range'] = 416, f'bytes */{size}'
      if start < size:
        status = 206
        headers['Content-Range'] = f'bytes {start}-{size - 1}/{size}'
      body = body[start:]
    headers |= {
      'Content-Length': str(len(body)),
      'ETag': served.etag,
      'Date': self.date_time_string(),
    }
    if status >= 400:
      headers['Connection'] = 'close'
    self.send_response_only(status)
    for name, value in (headers | served.headers).items():
      if value is not None:
        self.send_header(name, value)
    self.end_headers()
    cut = served.cuts.pop(0) if served.cuts else None
    self._send(body[:cut], served.pause)
    if cut is not None or status >= 400:
      self.close_connection = True

  def do_HEAD(self):
    served = self.server.files.get(self.path, Served(b'', 404))
    self.send_response_only(served.status)
    headers = {'Content-Length': str(len(served.content)), 'ETag': served.etag}
    for name, value in (headers | served.headers).items():
      if value is not None:
        self.send_header(name, value)
    self.end_headers()

  def _start(self, served):
    """Returns the start of the requested range; None for the whole file."""
    asked = self.headers.get('Range')
    if not asked or not served.ranges:
      return None
    if served.if_range and self.headers.get('If-Range') != served.validator:
      return None
    return int(asked.removeprefix('bytes=').removesuffix('-'))

  def _send(self, body, pause):
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
      for at in range(0, len(body), PIECE):
        time.sleep(pause)
        self.wfile.write(body[at : at + PIECE])

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def serving(**files):
  """Yields (base address, files, requests seen) of a server in a thread."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  server.files = {f'/{name}': served for name, served in files.items()}
  server.seen = []
  thread = threading.Thread(target=server.serve_forever, args=(0.02,))
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_port}', server.files, server.seen
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
