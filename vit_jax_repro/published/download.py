"""Download of one file by HTTP, which continues after an interruption.

A partial file is continued by Range and If-Range (RFC 9110, sections 13.1.5 and
14) if the server identifies versions by a strong ETag or, without one, a strong
Last-Modified. Otherwise it is removed. The file gets its name only after its
size and its hashes, as the server declares them, have been checked.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

from vit_jax_repro.output import messages, waiting
from vit_jax_repro.published import headers, partial_download

TIMEOUT = (10.0, 60.0)  # seconds to connect, and to wait for the next bytes
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds to wait before each retry
_BROKEN = 'the connection broke off'
_NO_ANSWER = 'no answer in time'
_NO_NAME = 'its host name is not found (offline?)'
# Part of the type or text of an exception: why the host does not answer. The
# texts of a missing name are those of Linux, macOS and Windows.
_SILENT = {
  'Timeout:': _NO_ANSWER,
  'timed out': _NO_ANSWER,
  'Name or service not known': _NO_NAME,
  'name resolution': _NO_NAME,
  'nodename nor servname': _NO_NAME,
  'getaddrinfo failed': _NO_NAME,
  'ProxyError': 'the proxy does not answer',
  'SSLError': 'no secure connection (TLS)',
  '[SSL': 'no secure connection (TLS)',
  'onnection refused': 'connection refused',
  'etwork is unreachable': 'no network (offline?)',
  'No route to host': 'no network (offline?)',
}
CHUNK_BYTES = 2**16  # the most that is read at once
# Bytes of a file whose size the server does not declare; every published file
# has fewer.
MOST_UNDECLARED = 2**34
# Bytes a second below which a server only keeps the connection busy.
_LEAST_RATE = 1000


class SourceError(OSError):
  """An address did not deliver the file; the message is the reason."""


class UnreachableError(SourceError):
  """The host of an address does not answer."""


class _BreakError(Exception):
  """The connection broke and a retry may fetch the missing bytes."""


def download(
  url: str,
  path: str | os.PathLike,
  *,
  hashes: Iterable[str] = (),
  check: Callable[[pathlib.Path], Any] = lambda path: None,
  token: str | None = None,
  timeout: tuple[float, float] = TIMEOUT,
  waits: Iterable[float] = WAITS,
  watch: Callable[[int, int | None], None] = lambda done, total: None,
) -> tuple[str, ...]:
  """Downloads a file; continues a partial file.

  Args:
    url: address of the file; redirects are followed.
    path: path of the file, which is replaced if it exists. Only one call at a
      time may use it. The first bytes of .npz, .safetensors, .pth and .bin
      files are checked.
    hashes: 'sha256:HEX' or 'md5:HEX' (or the first digits) that the file must
      have, in addition to those that the server declares.
    check: called with the path of the complete file before it gets its name; a
      ValueError rejects the file.
    token: sent as bearer token, to the host of `url` only.
    timeout: seconds to connect, and to wait for the next bytes. Their sum is
      the longest time until the headers of the file, after all redirects.
    waits: seconds to wait before each retry after the connection broke.
    watch: called with the number of bytes so far and the total, if known.

  Returns:
    The hashes that were checked.

  Raises:
    SourceError: the address does not have the file, or sends something else,
      which is removed; or the connection breaks more than len(waits) times,
      and the partial file is kept if it can be continued.
    OSError: the file cannot be written; the partial file is kept.
  """
  part = partial_download.PartialFile(path)
  transfer = _Transfer(url, part, timeout, watch)
  waits = iter(waits)
  with _session(token) as session:
    while True:
      try:
        transfer.request_rest(session)
        break
      except _BreakError as error:
        wait = next(waits, None)
        if wait is None:
          raise SourceError(
            f'{error}, after all retries; {transfer.keep()}'
          ) from None
        time.sleep(wait)
  assert part.known is not None, 'a finished transfer has set it'
  checked = tuple(dict.fromkeys([*part.known['hashes'], *hashes]))
  try:
    part.finish(checked, check)
  except partial_download.WrongBytesError as error:
    raise SourceError(str(error)) from None
  return checked


def _session(token):
  import requests

  session = requests.Session()
  # Ranges and sizes refer to the stored bytes, without compression.
  session.headers['Accept-Encoding'] = 'identity'
  if token:
    # requests removes it on a redirect to another host.
    session.headers['Authorization'] = f'Bearer {token}'
  session.hooks['response'].append(_check_redirect)
  return session


def _check_redirect(response, **_):
  """Closes a redirect; its body may have no end.

  Raises:
    SourceError: https redirects to an address without TLS.
  """
  if not response.is_redirect:
    return
  response.close()
  if not response.url.startswith('https:'):
    return
  try:
    target = urllib.parse.urljoin(response.url, response.headers['Location'])
  except ValueError:
    target = ''
  scheme = target.partition(':')[0]
  if scheme != 'https':
    raise SourceError(
      f'it redirects from https to {messages.short(scheme) or "no address"}, '
      'where others could change the file'
    )


class _Transfer:
  """The requests that complete one partial file."""

  def __init__(self, url, part, timeout, watch):
    self.url, self.part = url, part
    self.name = messages.without_secrets(url)
    self.timeout, self.watch = timeout, watch
    self.answered = False  # the address has begun to send the file
    self.refuses_ranges = False  # it sent the whole file for a range request

  def request_rest(self, session):
    """Requests the missing bytes and writes them.

    Raises:
      _BreakError: bytes are still missing.
      SourceError, OSError: see `download`.
    """
    import requests

    wanted = self._range()
    try:
      with self._get(session, wanted) as response:
        if response.status_code == 416 and wanted:
          return self._check_complete(response)
        self._check_is_file(response, ranged=bool(wanted))
        if not wanted or not self._continues(response):
          self._begin(headers.known(response, self.name))
        self.answered = True
        return self._write(response)
    except requests.RequestException as error:
      if self.answered:
        raise _BreakError(silence(error) or _BROKEN) from None
      if reason := silence(error):
        raise UnreachableError(reason) from None
      is_mistake = isinstance(error, ValueError | requests.TooManyRedirects)
      reason = str(error).replace(self.url, self.name)
      raise SourceError(
        messages.short(reason) if is_mistake else _BROKEN
      ) from None

  def _get(self, session, wanted):
    import requests

    def get():
      return session.get(
        self.url, headers=wanted, stream=True, timeout=self.timeout
      )

    try:
      # requests waits for each byte of a header, and for each redirect.
      return waiting.within(sum(self.timeout), get)
    except TimeoutError as error:
      raise requests.Timeout(str(error)) from None
    except ValueError as error:
      if isinstance(error, OSError):  # of requests
        raise
      raise SourceError('it redirects to no valid address') from None

  def _range(self):
    """Returns the headers that request the missing bytes; {} requests all."""
    known, start = self.part.known, self.part.size()
    if (
      not start
      or not known
      or known['url'] != self.name
      or not headers.tag(known)
    ):
      return {}
    return {'Range': f'bytes={start}-', 'If-Range': headers.tag(known)}

  def _begin(self, known):
    """Starts over: the server sent the whole file, not the missing range."""
    before = self.part.known
    if self.part.size() and before and before['url'] == self.name:
      self.refuses_ranges = headers.tag(before) == headers.tag(known)
    self.part.begin(known)

  def keep(self):
    """Removes the partial file unless it can be continued; returns a remark."""
    known = self.part.known
    if not self.refuses_ranges and known and headers.tag(known):
      return (
        f'{self.part.size()} bytes are kept; repeat the command to continue '
        'from there'
      )
    self.part.remove()
    return (
      'this server cannot continue a download; repeat the command to start '
      'from the beginning'
    )

  def _check_complete(self, response):
    """Checks that the part is complete if the server has no further bytes."""
    whole = f'bytes */{self.part.size()}'
    if response.headers.get('Content-Range') != whole:
      self.part.remove()
      raise _BreakError(_status(response))

  def _check_is_file(self, response, ranged):
    status = response.status_code
    if status >= 500 and self.answered:
      raise _BreakError(_status(response))
    if status != 200 and not (ranged and status == 206):
      raise SourceError(_status(response))
    if 'text/html' in response.headers.get('Content-Type', '').lower():
      raise SourceError('an HTML page instead of the file')
    encoding = response.headers.get('Content-Encoding', 'identity')
    if encoding != 'identity':
      raise SourceError(f'sends the file {messages.short(encoding)}-encoded')
    size = response.headers.get('Content-Length', '')
    if not headers.is_size(size):
      raise SourceError(f'declares the size {messages.quoted(size)}')

  def _continues(self, response):
    """Returns whether the response is the missing range of the part.

    Returns False if it is the whole file.

    Raises:
      _BreakError: it is another range, or a range of another version.
    """
    if response.status_code != 206:
      return False
    known, start = self.part.known, self.part.size()
    size = known['size']
    wanted = f'bytes {start}-{size - 1}/{size}' if size else f'bytes {start}-'
    if (
      not response.headers.get('Content-Range', '').startswith(wanted)
      or response.headers.get('ETag', known['etag']) != known['etag']
      or response.headers.get('Last-Modified', known['modified'])
      != known['modified']
    ):
      self.part.remove()
      raise _BreakError('the server sent another range than was requested')
    return True

  def _write(self, response):
    path, size = self.part.path, self.part.known['size']
    done = self.part.size()
    free = shutil.disk_usage(path.parent).free
    if size and size - done > free:
      raise OSError(
        f'{path.parent} has {free} bytes free, but the download needs '
        f'{size - done}; free space or give another folder'
      )
    with open(path, 'ab', buffering=0) as file:
      self.watch(done, size)
      for chunk in _chunks(response, self.timeout[1]):
        self._write_chunk(file, chunk)
        done += len(chunk)
        self.watch(done, size)
        if size is None and done > MOST_UNDECLARED:
          self.part.remove()
          raise SourceError(
            f'the server declares no size, and sent over {done:,} bytes'
          )
    if size is not None and done < size:
      raise _BreakError(f'the connection ended after {done} of {size} bytes')
    if size is not None and done > size:
      self.part.remove()
      raise SourceError(f'the server sent more than the declared {size} bytes')

  def _write_chunk(self, file, chunk):
    rest = memoryview(chunk)
    try:
      while rest:
        rest = rest[file.write(rest) :]
    except OSError as error:
      raise OSError(
        f'cannot write {file.name}: {error.strerror}; {self.keep()}'
      ) from None


def _chunks(response, patience):
  """Yields the bytes as they come.

  Raises:
    _BreakError: the connection broke, or is slower than _LEAST_RATE for
      `patience` seconds.
  """
  from requests import exceptions

  try:
    # Of the same connection; `response` may close its own at the end.
    connection = socket.socket(fileno=socket.dup(response.raw.fileno()))
  except (OSError, ValueError):  # there are no further bytes
    return
  count, fault, ended = 0, '', threading.Event()

  def watch():
    """Ends a read that waits: sizes of chunks and trailers may never end."""
    nonlocal fault
    before = count
    while not ended.wait(patience):
      if count - before < _LEAST_RATE * patience:
        fault = f'fewer than {_LEAST_RATE} bytes a second come'
        if count == before:
          fault = _NO_ANSWER
        with contextlib.suppress(OSError):
          connection.shutdown(socket.SHUT_RDWR)
        return
      before = count

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    while True:
      try:
        chunk = response.raw.read1(CHUNK_BYTES)
      except exceptions.BaseHTTPError as error:  # of urllib3
        raise _BreakError(fault or silence(error) or _BROKEN) from None
      count += len(chunk)
      if fault:
        raise _BreakError(fault)
      if not chunk:
        return
      yield chunk
  finally:
    ended.set()
    thread.join()
    connection.close()


def _status(response):
  reason = messages.short(response.reason or '')
  return f'{response.status_code} {reason}'.strip()


def silence(error: Exception) -> str | None:
  """Returns why a host does not answer; None if it does.

  Args:
    error: an exception of requests or httpx.
  """
  text = f'{type(error).__name__}: {error}'
  return next(
    (reason for part, reason in _SILENT.items() if part in text), None
  )
