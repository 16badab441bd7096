"""What files call things, cut and made printable for one-line messages."""

from collections.abc import Iterable

LONGEST = 80  # characters of one quoted name or reason
MOST_NAMES = 5


def short(text: object) -> str:
  """The text on one line, printable, at most `LONGEST` characters."""
  line = ' '.join(str(text).split())
  line = ''.join(c if c.isprintable() else '?' for c in line)
  return line if len(line) <= LONGEST else f'{line[: LONGEST - 3]}...'


def quoted(name: str) -> str:
  """A name in quotes, at most `LONGEST` characters of it."""
  return f"'{short(name)}'"


def listed(names: Iterable[str]) -> str:
  """The first few of many names, sorted, and how many more there are."""
  names = sorted(names)
  shown = ', '.join(short(name) for name in names[:MOST_NAMES])
  more = len(names) - MOST_NAMES
  return f'{shown} and {more} more' if more > 0 else shown or 'none'
