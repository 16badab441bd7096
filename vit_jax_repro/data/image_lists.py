"""The images that a command line names: files, folders, patterns, lists.

  cat.jpg         a file, whatever its ending
  photos          a folder: all images below it, see folder_listing.py
  'photos/*.jpg'  a pattern with * ? [ ]; ** matches folders at any depth
  @images.txt     a list: a file with the path of one image in each line
  -               such a list from standard input

Arguments keep their order. Folders and patterns give their images in natural
order (img2 before img10), the same on every machine. An image given twice is
used twice. A path of no file is kept: reading it fails then, as for a damaged
image, and the other images are not lost.
"""

import codecs
import dataclasses
import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from vit_jax_repro.data import folder_listing as listing
from vit_jax_repro.data import trees
from vit_jax_repro.errors import InputError, printable
from vit_jax_repro.output import files, waiting
from vit_jax_repro.output.messages import note, short

STANDARD_INPUT, LIST = '-', '@'
HELP = (
  'an image, a folder of images, a pattern such as "photos/*.jpg", a list of '
  'paths (@images.txt), or - for a list from standard input'
)
_COMMENT = b'#'
_PATTERN = re.compile(r'[*?[]')
_COUNTED = 1000  # images between two updates of the line on progress
_DIGITS = re.compile(r'([0-9]+)')


@dataclasses.dataclass(frozen=True)
class ImageList:
  """The images that a user named."""

  paths: tuple[str, ...]
  lists: tuple[str, ...] = ()  # files that paths were read from

  def require_one(self) -> None:
    """Raises a FileNotFoundError if none of the files exists."""
    if not any(map(os.path.exists, self.paths)):
      first, number = printable(self.paths[0]), len(self.paths)
      if number == 1:
        raise FileNotFoundError(f'no such image: {first}')
      raise FileNotFoundError(
        f'none of the {number:,} images exists; the first is {first}, seen '
        f'from {os.getcwd()}'
      )

  def check_outputs(
    self,
    outputs: Sequence[str | os.PathLike],
    keep: Iterable[str | os.PathLike] = (),
  ) -> None:
    """Raises an OSError if a file cannot be written, or replaces an input.

    Args:
      outputs: paths of the files to write.
      keep: further files that must not be replaced.
    """
    for place, output in enumerate(outputs):
      files.check_writable(
        output,
        keep=[*keep, *self.lists, *outputs[:place], *self._same(output)],
      )

  def _same(self, output):
    """Returns the images that are the file `output`, also by links."""
    if not os.path.exists(output):
      return []
    place = _place(output)
    return [path for path in self.paths if _place(path) == place]


def expand(arguments: Sequence[str]) -> ImageList:
  """Returns the images that arguments of a command line name.

  Notes on files that are left out, and on images that are named more than once,
  go to standard error.

  Args:
    arguments: see the top of this file.

  Raises:
    InputError: there is no argument, a folder or list holds no image, a pattern
      matches none, or a list is no text.
    OSError: a list or folder cannot be read.
  """
  if not arguments:
    raise InputError(f'no image; give at least one: {HELP}')
  paths, lists = [], []
  for argument in arguments:
    if argument == STANDARD_INPUT:
      with waiting.doing('reading the list of images from standard input'):
        text = sys.stdin.buffer.read()
      paths += _listed(text, 'the list on standard input')
    elif argument.startswith(LIST):
      lists.append(argument[len(LIST) :])
      paths += _read_list(lists[-1])
    elif os.path.isdir(argument):
      paths += _in_folder(argument)
    elif _PATTERN.search(argument) and not os.path.lexists(argument):
      paths += _matching(argument)
    else:
      paths.append(argument)
  again = len(paths) - len(set(paths))
  if again:
    note(f'{again:,} of the {len(paths):,} images are named more than once')
  return ImageList(tuple(paths), tuple(lists))


def natural_key(path: str) -> list[list[str | int]]:
  """Returns a key that sorts paths folder by folder and numbers by value."""
  return [
    [
      int(part) if place % 2 else part
      for place, part in enumerate(_DIGITS.split(name))
    ]
    for name in path.split(os.sep)
  ]


def _place(path):
  try:
    found = os.stat(path)
  except OSError:
    return None
  return found.st_dev, found.st_ino


def _in_order(paths: Iterable[str]) -> list[str]:
  return sorted(paths, key=lambda path: (natural_key(path), path))


def _in_folder(folder):
  left_out: Counter[str] = Counter()
  with waiting.doing(f'counting the images in {folder}'):
    paths = _in_order(_counted(listing.images(folder, left_out), folder))
  if left_out:
    note(listing.left_out_note(folder, left_out, ''))
  if not paths:
    raise InputError(
      f'folder {folder} holds no image ({", ".join(listing.EXTENSIONS)}); give '
      'another folder, or the files themselves'
    )
  return paths


def _counted(paths, where) -> Iterator[str]:
  for number, path in enumerate(paths, start=1):
    if number % _COUNTED == 0:
      waiting.now_doing(f'counting the images in {where}: {number:,} so far')
    yield path


def _matching(pattern):
  """Returns the images that a pattern matches, and those in folders it does."""
  literal = {part.lower() for part in pattern.split(os.sep)}
  tools = {*listing.TOOL_FOLDERS} - literal
  found, others = {}, 0
  with waiting.doing(f'looking for {pattern}'):
    for path in _counted(glob.iglob(pattern, recursive=True), pattern):
      if tools & {part.lower() for part in path.split(os.sep)}:
        continue
      if os.path.isdir(path):
        found |= dict.fromkeys(listing.images(path))
      elif listing.is_image(path) and not trees.is_special(path):
        found[path] = None
      else:
        others += 1
  if not found:
    kinds = ', '.join(listing.EXTENSIONS)
    but = f' ({others:,} other files match)' if others else ''
    raise InputError(f'no image ({kinds}) matches {short(pattern)!r}{but}')
  if others:
    note(f'{short(pattern)}: left out {others:,} files that are no images')
  return _in_order(found)


def _read_list(path):
  if not path:
    raise InputError(
      f'{LIST} must be followed by the path of a list, such as @images.txt'
    )
  if os.path.isdir(path):
    raise InputError(
      f'{path} is a folder, not a list of images; leave the {LIST} out'
    )
  if not os.path.exists(path):
    raise InputError(
      f'no list of images {path}; for an image whose name begins with {LIST} '
      f'give ./{LIST}{path}'
    )
  with open(path, 'rb') as file:
    return _listed(file.read(), f'list {path}')


def _listed(text, name):
  """Returns the paths in a list.

  Each line is a path, or each text between NUL bytes (`find -print0`). Empty
  lines and lines that begin with # are left out. Paths may be any bytes.
  """
  if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise InputError(f'{name} is UTF-16; save it as UTF-8')
  text = text.removeprefix(codecs.BOM_UTF8)
  if b'\0' in text:
    lines = [line for line in text.split(b'\0') if line]
  else:
    lines = [line.removesuffix(b'\r') for line in text.split(b'\n')]
    for number, line in enumerate(lines, start=1):
      if line.startswith(_COMMENT) and os.path.exists(line):
        raise InputError(
          f'line {number} of {name} is a comment, because it begins with #, '
          f'but there is a file of this name; write ./{os.fsdecode(line)}'
        )
    lines = [
      line for line in lines if line.strip() and not line.startswith(_COMMENT)
    ]
  if not lines:
    raise InputError(f'{name} holds no path; write one path in each line')
  return [os.fsdecode(line) for line in lines]
