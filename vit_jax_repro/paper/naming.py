"""Finding things by a part of their name."""

import difflib
import fnmatch
from collections.abc import Iterable

_MOST_NAMES = 6  # that a message lists


def fits(pattern: str, *texts: str) -> bool:
  """Whether any of the texts fits, whatever the letter case.

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
  """The one name that is meant, whatever the letter case.

  Args:
    wanted: a name; or else its end, or else a part of it, if no other name has
      it.
    names: all there are.
    what: they are called in a message, such as 'table'.
    remedy: the end of a message, such as 'list has all names'.

  Raises:
    ValueError: no name fits, or several do.
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
    raise ValueError(f'{what} {wanted!r} may be any of {shown}{more}; {remedy}')
  near = difflib.get_close_matches(key, map(str.lower, names), n=3, cutoff=0.4)
  near = ' or '.join(repr(n) for n in names if n.lower() in near)
  near = f'did you mean {near}? ' if near else ''
  raise ValueError(f'no {what} {wanted!r}; {near}{remedy}')
