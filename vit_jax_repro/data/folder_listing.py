"""Lists folders of images: which files are images, and what is left out."""

import os
from collections import Counter
from collections.abc import Iterator

from vit_jax_repro.data import trees
from vit_jax_repro.output.messages import MOST_NAMES, short

# The usual endings of pillow.FORMATS. Files with other endings are ignored. The
# message on a file that cannot be decoded is `preprocess.undecodable`.
EXTENSIONS = (
  '.jpg',
  '.jpeg',
  '.jfif',
  '.png',
  '.webp',
  '.bmp',
  '.gif',
  '.tif',
  '.tiff',
)
# Folders that systems and tools make, in lower case: thumbnails, snapshots and
# bins of Synology, QNAP and Windows, halves of macOS's files in archives. They
# are neither splits nor classes, and images in them do not count.
TOOL_FOLDERS = (
  '@eadir',
  '@recycle',
  '#recycle',
  '#snapshot',
  '__macosx',
  '$recycle.bin',
  'system volume information',
  'lost+found',
)
_TOOL_FILES = ('thumbs.db', 'ehthumbs.db', 'desktop.ini')  # need no note
# Usual names of splits, in lower case.
SPLIT_NAMES = (
  'train',
  'training',
  'validation',
  'valid',
  'val',
  'dev',
  'test',
  'testing',
)
SPECIAL = 'devices and pipes'
LOOSE = 'images outside of class folders'


def left_out_note(
  folder: str, left_out: Counter[str], where: str = ' in class folders'
) -> str:
  """Returns a line for the user on what a folder holds and is no image.

  Args:
    folder: path of the folder.
    left_out: number of files by kind, from `images`.
    where: the places of images in the folder.
  """
  most = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
  counts = ', '.join(f'{n} {short(what)}' for what, n in most[:MOST_NAMES])
  rest = sum(n for _, n in most[MOST_NAMES:])
  counts += f' and {rest} more' if rest else ''
  return (
    f'{folder}: left out {counts}; images are files {", ".join(EXTENSIONS)}'
    f'{where}'
  )


def images(
  folder: str,
  left_out: Counter[str] | None = None,
  above: tuple[str, ...] = (),
) -> Iterator[str]:
  """Yields the paths of the images below `folder`, sorted level by level.

  Args:
    folder: path of the folder.
    left_out: counts the endings of other files and the folders of tools.
    above: the folders that this one was reached through.
  """
  here = trees.identity(folder)
  if here in above:  # a symbolic link to a parent folder
    return
  for name in entries(folder, folders=False, left_out=left_out):
    path = os.path.join(folder, name)
    if trees.is_folder(path):
      yield from images(path, left_out, (*above, here))
    elif is_image(name):
      if not trees.is_special(path):
        yield path
      elif left_out is not None:
        left_out[SPECIAL] += 1
    elif left_out is not None and name.lower() not in _TOOL_FILES:
      left_out[os.path.splitext(name)[1].lower() or 'without ending'] += 1


def with_images_right_below(root: str | os.PathLike) -> list[str]:
  """Returns the names of the folders in `root` that images lie right below."""
  return [
    name
    for name in entries(root, folders=True)
    if any(
      is_image(each) and not trees.is_folder(os.path.join(root, name, each))
      for each in entries(os.path.join(root, name), folders=False)
    )
  ]


def left_out_beside(folder: str) -> Counter[str]:
  """Counts what lies in the folder of a split and is no class folder."""
  left_out: Counter[str] = Counter()
  for name in entries(folder, folders=False, left_out=left_out):
    if is_image(name) and not trees.is_folder(os.path.join(folder, name)):
      left_out[LOOSE] += 1
  return left_out


def is_image(name: str) -> bool:
  """Returns whether the name of a file ends like that of an image."""
  return name.lower().endswith(EXTENSIONS)


def entries(
  folder: str | os.PathLike,
  *,
  folders: bool,
  left_out: Counter[str] | None = None,
) -> list[str]:
  """Returns the sorted names in a folder without hidden and tools' ones."""
  names = []
  with trees.scandir(folder) as found:
    for entry in found:
      if entry.name.startswith('.'):
        continue
      if entry.name.lower() in TOOL_FOLDERS and entry.is_dir():
        if left_out is not None:
          left_out[f'{entry.name}{os.sep}'] += 1
      elif entry.is_dir() or not folders:
        names.append(entry.name)
  return sorted(names)
