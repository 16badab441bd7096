"""The exception for whatever a user can get wrong."""

import os

_LONGEST = 20_000  # characters that are shown of one text


class InputError(ValueError):
  """An argument, flag, setting or file is wrong; the message is for the user.

  The message is one line: what is wrong, the value, what is allowed, the
  remedy. Commands print it without a traceback. Any other ValueError is a bug
  and keeps its traceback.
  """


def printable(text: str) -> str:
  """Returns a text on one line, which cannot command a terminal.

  Line breaks, escapes and other unprintable characters, and bytes of names that
  are not UTF-8, become escapes such as '\\x1b' and '\\udcff'. The middle of a
  text of more than 20,000 characters is left out.
  """
  if len(text) > _LONGEST:
    half = _LONGEST // 2
    text = f'{text[:half]}... {len(text):,} characters ...{text[-half:]}'
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
  )


def one_line(text: object) -> str:
  """Returns a text as `printable` does, with a space for each white space."""
  return printable(' '.join(str(text).split()))


def line_of(error: InputError | OSError) -> str:
  """Returns the one-line message of an error."""
  if isinstance(error, OSError) and error.strerror and error.filename:
    name = os.fsdecode(error.filename)
    return printable(f'{error.strerror}: {name}')
  return one_line(error)
