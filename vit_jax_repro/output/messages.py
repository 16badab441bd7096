"""What files call things, cut and made printable for one-line messages."""

import difflib
import fnmatch
import sys
from collections.abc import Iterable

import jax

from vit_jax_repro.errors import InputError

LONGEST = 80  # characters of one quoted name or reason
MOST_NAMES = 5


def short(text: object) -> str:
  """Returns the text on one line, printable, at most `LONGEST` characters."""
  line = ' '.join(str(text).split())
  line = ''.join(c if c.isprintable() else '?' for c in line)
  return line if len(line) <= LONGEST else f'{line[: LONGEST - 3]}...'


def quoted(name: str) -> str:
  """Returns a name in quotes, at most `LONGEST` characters of it."""
  return f"'{short(name)}'"


def listed(names: Iterable[str]) -> str:
  """Returns the first few names, sorted, and the number of the others."""
  names = sorted(names)
  shown = ', '.join(short(name) for name in names[:MOST_NAMES])
  more = len(names) - MOST_NAMES
  return f'{shown} and {more} more' if more > 0 else shown or 'none'


_MOST_NAMES = 6  # that a message lists


def fits(pattern: str, *texts: str) -> bool:
  """Returns whether any of the texts fits, whatever the letter case.

  Args:
    pattern: with * or ? a glob for the whole text, or else a part of it; any
      other character stands for itself.
    texts: to be tried.
  """
  pattern = pattern.lower()
  if not set('*?') & set(pattern):
    return any(pattern in text.lower() for text in texts)
  glob = pattern.replace('[', '[[]')
  return any(fnmatch.fnmatchcase(text.lower(), glob) for text in texts)


def pick(wanted: str, names: Iterable[str], what: str, remedy: str) -> str:
  """Returns the one name that is meant, whatever the letter case.

  Args:
    wanted: a name; or else its end, or else a part of it, if no other name has
      it.
    names: all there are.
    what: they are called in a message, such as 'table'.
    remedy: the end of a message, such as 'list has all names'.

  Raises:
    InputError: no name fits, or several do.
  """
  names, key = list(names), wanted.lower()
  for match in (str.__eq__, str.endswith, str.__contains__):
    found = [name for name in names if key and match(name.lower(), key)]
    if len(found) == 1:
      return found[0]
    if found:
      break
  if found:
    shown = ', '.join(map(repr, found[:_MOST_NAMES]))
    more = len(found) - _MOST_NAMES
    more = f' and {more} more' if more > 0 else ''
    raise InputError(f'{what} {wanted!r} may be any of {shown}{more}; {remedy}')
  near = difflib.get_close_matches(key, map(str.lower, names), n=3, cutoff=0.4)
  near = ' or '.join(repr(n) for n in names if n.lower() in near)
  near = f'did you mean {near}? ' if near else ''
  raise InputError(f'no {what} {wanted!r}; {near}{remedy}')


def by(image_size):
  """Returns (224, 384) -> '224x384', for messages."""
  return f'{image_size[0]}x{image_size[1]}'


def note(text, *, every_process=False):
  """Tells the user something that the caller did not ask for.

  Args:
    text: one line.
    every_process: whether it is about this process alone, and so said by
      whichever it is.
  """
  if every_process or jax.process_index() == 0:
    print(f'note: {text}', file=sys.stderr, flush=True)
