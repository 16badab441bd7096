"""Messages: names shortened, matched and suggested on one line; notes."""

import difflib
import fnmatch
import urllib.parse
from collections.abc import Collection, Iterable, Mapping, Sequence

import jax

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import waiting

LONGEST = 80  # characters of one quoted name or reason
MOST_NAMES = 6  # listed in a message
# ImageNet-21k's longest name of a class, with its synonyms, has 175.
LONGEST_CLASS_NAME = 1000
_MOST_SUGGESTIONS = 3
_SHORTEST_PREFIX = 3  # letters that suggest all names that begin with them
_SIMILARITY = 0.5  # lowest ratio (difflib) of a suggestion


def short(text: object) -> str:
  """Returns the text on one line, printable, at most `LONGEST` characters."""
  line = ' '.join(str(text).split())
  line = ''.join(c if c.isprintable() else '?' for c in line)
  return line if len(line) <= LONGEST else f'{line[: LONGEST - 3]}...'


def without_secrets(url: str) -> str:
  """Returns an address without user, password and query: they may be secret."""
  parts = urllib.parse.urlsplit(url)
  host = parts.netloc.rpartition('@')[2]
  return urllib.parse.urlunsplit((parts.scheme, host, parts.path, '', ''))


def quoted(name: str) -> str:
  """Returns a name in quotes, at most `LONGEST` characters of it."""
  return f"'{short(name)}'"


def is_unicode(text: str) -> bool:
  """Returns whether a text has no half of a surrogate pair.

  Python reads bytes that are not UTF-8 as such halves, in names of files.
  """
  return not any('\ud800' <= character <= '\udfff' for character in text)


def check_class_names(names: Iterable[str], where: str) -> None:
  """Raises if a name is too long to print it with each image.

  Args:
    names: of classes.
    where: who gives them, for the message, such as the path of a file.

  Raises:
    InputError: a name has over `LONGEST_CLASS_NAME` characters.
  """
  for name in names:
    if len(name) > LONGEST_CLASS_NAME:
      raise InputError(
        f'{where} has the class name {quoted(name[:LONGEST])} of {len(name):,} '
        f'characters; at most {LONGEST_CLASS_NAME:,} are allowed'
      )


def listed(names: Iterable[str]) -> str:
  """Returns the first few names, sorted, and the number of the others."""
  names = sorted(names)
  shown = ', '.join(short(name) for name in names[:MOST_NAMES])
  more = len(names) - MOST_NAMES
  return f'{shown} and {more} more' if more > 0 else shown or 'none'


def fits(pattern: str, *texts: str) -> bool:
  """Returns whether any of the texts fits, whatever the letter case.

  Args:
    pattern: with * or ? a glob for the whole text, or else a part of it; any
      other character matches itself.
    texts: the texts to match.
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
    names: all names.
    what: kind of the names in a message, such as 'table'.
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
    shown = ', '.join(map(repr, found[:MOST_NAMES]))
    more = len(found) - MOST_NAMES
    more = f' and {more} more' if more > 0 else ''
    raise InputError(f'{what} {wanted!r} may be any of {shown}{more}; {remedy}')
  raise InputError(f'no {what} {wanted!r}; {did_you_mean(key, names)}{remedy}')


def did_you_mean(name: str, choices: Iterable[str] | Mapping[str, str]) -> str:
  """Returns "did you mean 'a' or 'b'? ", or '' if `nearest` finds nothing."""
  near = ' or '.join(map(repr, nearest(name, choices)))
  return f'did you mean {near}? ' if near else ''


def nearest(name: str, choices: Iterable[str] | Mapping[str, str]) -> list[str]:
  """Returns the few choices that a misspelt name may mean, the likeliest first.

  Args:
    name: the misspelt name, in any letter case.
    choices: names, or a mapping from spellings to names.
  """
  if not isinstance(choices, Mapping):
    choices = {choice: choice for choice in choices}
  known: dict[str, str] = {}
  for spelling, choice in choices.items():
    known.setdefault(spelling.lower(), choice)
  name = name.lower()
  begun = sorted(spelling for spelling in known if spelling.startswith(name))
  close = difflib.get_close_matches(
    name, known, _MOST_SUGGESTIONS, cutoff=_SIMILARITY
  )
  found = [*(begun if len(name) >= _SHORTEST_PREFIX else []), *close]
  return list(dict.fromkeys(known[each] for each in found))[:_MOST_SUGGESTIONS]


def by(image_size: Sequence[int]) -> str:
  """Converts an image size for messages: (224, 384) to '224x384'."""
  return f'{image_size[0]}x{image_size[1]}'


def note(text: str, *, every_process: bool = False) -> None:
  """Prints a note to stderr, in the first process only.

  Args:
    text: one line.
    every_process: whether the note is about this process, so that each process
      prints its own.
  """
  if every_process or jax.process_index() == 0:
    waiting.show(f'note: {text}')


def note_unapplied(
  turned: Collection[str] | None, remedy: str = '--orientation=exif'
) -> None:
  """Notes how many images have an EXIF orientation that is not applied.

  Args:
    turned: names of these images, of this process; None or empty: no note.
    remedy: the flag that applies it.
  """
  if turned:
    note(
      f'{len(turned)} image{"s carry" if len(turned) > 1 else " carries"} an '
      f'EXIF orientation that is not applied; {remedy} applies it',
      every_process=True,
    )
