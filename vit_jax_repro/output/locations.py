"""Whether a text of the user is an address or a path; else it may be a name."""

import os
import re

_ADDRESS = re.compile(r'[a-z][a-z0-9+.-]+:/', re.IGNORECASE)
_PATH = re.compile(r'[/\\.~]|[a-z]:[/\\]', re.IGNORECASE)


def is_address(text: str | os.PathLike) -> bool:
  """Returns whether a text begins with a protocol, such as gs:// or https://.

  One slash is enough, for the error about a slash that was forgotten. A single
  letter is a drive of Windows, and no protocol.
  """
  return _ADDRESS.match(os.fspath(text)) is not None


def is_path(text: str | os.PathLike) -> bool:
  r"""Returns whether a text can only be a path: /x, ./x, ~/x, \x or C:\x.

  A path that begins with the name of a folder may also be another name.
  """
  return _PATH.match(os.fspath(text)) is not None
