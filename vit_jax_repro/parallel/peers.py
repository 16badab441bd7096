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
from collections.abc import Callable

import jax

from vit_jax_repro.parallel import processes

_TOKEN = 16  # bytes; a stranger who connects does not know them
_HELLO = struct.Struct(f'!{_TOKEN}si')  # token, number of the process
# b'L', number of the process, whether it has printed an error.
_LOST = struct.Struct('!ci?')
_BYE = b'B'  # this process has finished; from process 0: all have
_APART = b'A'  # from process 0, which has finished: not all have connected
_FAIL = b'F'  # this process ends because of an error, which it has printed
_SECONDS = 30  # until all processes have connected
_END_SECONDS = 300  # until all have ended after the last has finished
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
    self._on_loss = on_loss
    self._is_done, self._last = False, b''
    self._finished: set[int] = set()  # processes that have sent `_BYE`
    self._ended: set[int] = set()  # those from which nothing more comes
    self._news = threading.Condition()  # guards the others, too
    self._connections: dict[int, socket.socket] = {}
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

  def leave(self) -> bool:
    """Waits until all processes have called this.

    A process that ended earlier would close its connections to the others, and
    an operation of theirs that is not over yet would fail. Process 0 waits
    until the others have ended, too, because JAX aborts a process that is still
    there when process 0 has ended.

    Returns:
      Whether all have called it. They have not if one has been lost, and it is
      not known if not all could connect.
    """
    if processes.is_first():
      others = set(range(1, jax.process_count()))
      with self._news:
        if others == self._connections.keys():
          self._news.wait_for(lambda: self._finished | self._ended >= others)
        have_all = others == self._finished
      self._end(_BYE if have_all else _APART)
      if have_all:
        self.wait(_END_SECONDS)
      return have_all
    with self._news:
      self._report(_BYE)
      self._news.wait_for(lambda: self._finished or self._ended)
      return bool(self._finished)

  def fail(self) -> None:
    """Reports to the others that this process ends because of an error."""
    self._end(_FAIL)

  def wait(self, seconds: float) -> None:
    """Waits until the connected processes have ended, at most so long."""
    with self._news:
      self._news.wait_for(
        lambda: self._ended >= self._connections.keys(), seconds
      )

  def _end(self, kind):
    with self._news:
      self._is_done = True
      self._report(kind)

  def _report(self, kind):
    """Reports how this process ends, later connections included."""
    self._last = kind
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
    with self._news:
      self._connections[number] = connection
      _send(connection, self._last)
    threading.Thread(
      target=self._read, args=(number, connection), daemon=True
    ).start()

  def _read(self, number, connection):
    kind = _receive(connection, 1)
    if kind == _BYE:
      with self._news:
        self._finished.add(number)
        # After process 0 has sent it, the end of a process is no loss.
        self._is_done |= not processes.is_first()
        self._news.notify_all()
      kind = _receive(connection, 1)  # comes if the process fails to end
    lost, has_failed = number, kind == _FAIL
    if kind == b'L':
      rest = _receive(connection, _LOST.size - 1)
      if len(rest) == _LOST.size - 1:
        _, lost, has_failed = _LOST.unpack(kind + rest)
    with self._news:
      self._ended.add(number)
      self._news.notify_all()
      if self._is_done or kind == _APART:
        return
      self._is_done = True
      for other, each in self._connections.items():
        if other != lost:
          _send(each, _LOST.pack(b'L', lost, has_failed))
    self._on_loss(lost, has_failed)


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
