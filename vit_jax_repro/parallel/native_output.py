"""What libraries in C++ print, kept in a file and off the terminal.

Gloo and JAX's coordination service print lines of their own in every process.
They write to the descriptors 1 and 2, which lead to the file. Python's
`sys.stdout` and `sys.stderr` lead to the terminal as before.
"""

import os
import pathlib
import shutil
import sys
import tempfile

_path: list[pathlib.Path] = []  # the file, if there is one


def divert() -> None:
  """Begins to keep the output in a temporary file, see `move`."""
  if _path:
    return
  descriptor, name = tempfile.mkstemp('.log', 'vit_jax_repro-')
  for name_of, standard in (('stdout', 1), ('stderr', 2)):
    old = getattr(sys, name_of)
    old.flush()
    copy = os.dup(standard)
    new = open(  # noqa: SIM115 (it stays open until the process ends)
      copy, 'w', buffering=1, encoding=old.encoding, errors=old.errors
    )
    setattr(sys, name_of, new)
    os.dup2(descriptor, standard)
  os.close(descriptor)
  _path.append(pathlib.Path(name))


def move(path: str | os.PathLike) -> None:
  """Appends what was kept so far to a file, and keeps the rest there.

  Does nothing if nothing is diverted.
  """
  if not _path or _path[0] == pathlib.Path(path):
    return
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'ab') as new, open(_path[0], 'rb') as old:
    for standard in (1, 2):
      os.dup2(new.fileno(), standard)
    shutil.copyfileobj(old, new)
  _path[0].unlink()
  _path[0] = path


def read() -> str:
  """Returns what was kept; '' if nothing is diverted."""
  if not _path:
    return ''
  return _path[0].read_text(encoding='utf-8', errors='replace')


def end() -> None:
  """Removes the file if it is a temporary one."""
  if _path and _path[0].parent == pathlib.Path(tempfile.gettempdir()):
    _path[0].unlink(missing_ok=True)
