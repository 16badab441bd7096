"""Notices within seconds that another process of a job has ended.

Each process holds a connection to process 0. When a process is killed, its
machine closes the connection, and process 0 informs the others. JAX alone
notices it after up to 100 seconds, or by an error of the operation that was
running.
"""

import contextlib
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable

import jax

from vit_jax_repro.parallel import processes

_TOKEN = 16  # bytes; a stranger who connects does not know them
_HELLO = struct.Struct(f'!{_TOKEN}si')  # token, number of the process
# b'L', number of the process, whether it has printed an error.
_LOST = struct.Struct('!ci?')
_BYE = b'B'  # this process ends in order
_FAIL = b'F'  # this process ends because of an error, which it has printed
_SECONDS = 30  # until all processes have connected
_CONNECT_SECONDS = 5
# A machine without power closes nothing. It is asked after this many seconds
# of silence, at this interval, this many times.
_IDLE, _INTERVAL, _TIMES = 10, 10, 3


class Peers:
  """The connections of this process to the others of its job."""

  def __init__(
    self, on_loss: Callable[[int, bool], None], host: str | None = None
  ):
    """Connects; all processes must call this together.

    Nothing is noticed if the machines cannot connect to each other.

    Args:
      on_loss: called once in a thread with the number of a process that has
        ended without `leave`, and whether it has called `fail`.
      host: address of process 0 for the others; None: found by its name.
    """
    self._on_loss, self._lock = on_loss, threading.Lock()
    self._is_done, self._last = False, b''
    self._connections: dict[int, socket.socket] = {}
    self._readers: list[threading.Thread] = []
    server, text = None, None
    if processes.is_first():
      both = socket.has_dualstack_ipv6()
      server = socket.create_server(
        ('', 0),
        family=socket.AF_INET6 if both else socket.AF_INET,
        dualstack_ipv6=both,
        backlog=jax.process_count(),
      )
      token = secrets.token_hex(_TOKEN)
      host = host or socket.gethostname()
      text = f'{host} {server.getsockname()[1]} {token}'
    host, port, token = (processes.first_text(text) or '').split()
    token = bytes.fromhex(token)
    if server is None:
      self._connect((host, int(port)), token)
    else:
      threading.Thread(
        target=self._accept, args=(server, token), daemon=True
      ).start()

  def leave(self) -> None:
    """Reports to the others that this process ends in order."""
    self._end(_BYE)

  def fail(self) -> None:
    """Reports to the others that this process ends because of an error."""
    self._end(_FAIL)

  def has_all(self) -> bool:
    """Returns whether all processes that this one follows have connected."""
    following = jax.process_count() - 1 if processes.is_first() else 1
    return len(self._connections) == following

  def wait(self, seconds: float) -> None:
    """Waits until the connected processes have ended, at most so long."""
    end = time.monotonic() + seconds
    for reader in list(self._readers):
      reader.join(max(0, end - time.monotonic()))

  def _end(self, kind):
    with self._lock:
      self._is_done, self._last = True, kind
      for connection in self._connections.values():
        _send(connection, kind)

  def _accept(self, server, token):
    server.settimeout(_SECONDS)
    try:
      while len(self._connections) < jax.process_count() - 1:
        connection, _ = server.accept()
        connection.settimeout(_CONNECT_SECONDS)
        hello = _receive(connection, _HELLO.size)
        if len(hello) < _HELLO.size or _HELLO.unpack(hello)[0] != token:
          connection.close()
          continue
        self._follow(_HELLO.unpack(hello)[1], connection)
    except OSError:
      pass  # JAX's own detection remains
    server.close()

  def _connect(self, where, token):
    try:
      connection = socket.create_connection(where, timeout=_CONNECT_SECONDS)
    except OSError:
      return  # JAX's own detection remains
    _send(connection, _HELLO.pack(token, jax.process_index()))
    self._follow(0, connection)

  def _follow(self, number, connection):
    """Reads from a connection in a thread until it ends."""
    connection.settimeout(None)
    _keep_alive(connection)
    with self._lock:
      self._connections[number] = connection
      _send(connection, self._last)
    reader = threading.Thread(
      target=self._read, args=(number, connection), daemon=True
    )
    reader.start()
    self._readers.append(reader)

  def _read(self, number, connection):
    kind = _receive(connection, 1)
    if kind == _BYE:
      _receive(connection, 1)  # nothing comes until the process has ended
      return
    has_failed = kind == _FAIL
    if kind == b'L':
      rest = _receive(connection, _LOST.size - 1)
      if len(rest) == _LOST.size - 1:
        _, number, has_failed = _LOST.unpack(kind + rest)
    with self._lock:
      if self._is_done:
        return
      self._is_done = True
      for other, each in self._connections.items():
        if other != number:
          _send(each, _LOST.pack(b'L', number, has_failed))
    self._on_loss(number, has_failed)


def _keep_alive(connection):
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in (
    ('TCP_KEEPIDLE', _IDLE),
    ('TCP_KEEPINTVL', _INTERVAL),
    ('TCP_KEEPCNT', _TIMES),
  ):
    if hasattr(socket, name):  # not on every platform
      option = getattr(socket, name)
      connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _send(connection, content):
  # If the other process has ended, the thread that reads notices it.
  with contextlib.suppress(OSError):
    connection.sendall(content)


def _receive(connection, size):
  """Returns `size` bytes, or fewer if the connection ends."""
  content = b''
  try:
    while len(content) < size:
      more = connection.recv(size - len(content))
      if not more:
        break
      content += more
  except OSError:
    pass
  return content
