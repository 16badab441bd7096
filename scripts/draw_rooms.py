"""Draws docs/rooms.svg: an arrow for each import from one room to another.

    python scripts/draw_rooms.py [--check]

Reads the imports of every module, including those inside functions. With
--check, writes nothing and exits with 1 if the picture in docs/ is out of date.
"""

import ast
import graphlib
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = 'vit_jax_repro'
PICTURE = ROOT / 'docs' / 'rooms.svg'
# Every room may import these two, so the picture leaves out their arrows.
COMMON = {'errors', 'output'}
COMMANDS = 'commands'  # one box for all modules that run with -m
SHELL = {'command_line', 'subcommands', 'compilation_cache'}
_COLOURS = (
  '#4477aa', '#ee6677', '#228833', '#b8860b', '#66aacc', '#aa3377', '#777777',
)  # fmt: skip
_WIDTH, _BOX_WIDTH, _BOX_HEIGHT, _STEP = 880, 104, 28, 92


def arrows(package: pathlib.Path) -> dict[str, set[str]]:
  """Returns the rooms that each room imports, except those of `COMMON`."""
  found: dict[str, set[str]] = {}
  for path in sorted(package.rglob('*.py')):
    room = _room(path.relative_to(package).with_suffix('').parts[0], package)
    if room is None:
      continue
    others = found.setdefault(room, set())
    for name in _imported(ast.parse(path.read_text(encoding='utf-8'))):
      other = _room(name, package)
      if other not in (None, room):
        others.add(other)
  return found


def _imported(tree):
  """Yields the room or module of each import from this package."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
      names = [f'{PACKAGE}.{alias.name}' for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module or '']
    else:
      continue
    for name in names:
      package, _, rest = name.partition('.')
      if package == PACKAGE and rest:
        yield rest.partition('.')[0]


def _room(name, package):
  if name in COMMON | SHELL or name.startswith('__init__'):
    return None
  if (package / name).is_dir() or name in ('jobs', 'lessons'):
    return name
  return COMMANDS


def levels(graph: dict[str, set[str]]) -> list[list[str]]:
  """Returns the rooms in rows; each imports only rooms of the rows below it."""
  height: dict[str, int] = {}
  for room in graphlib.TopologicalSorter(graph).static_order():
    height[room] = 1 + max((height[o] for o in graph[room]), default=-1)
  rows = [[] for _ in range(max(height.values()) + 1)]
  for room in sorted(graph):
    rows[height[room]].append(room)
  return rows[::-1]


def svg(graph: dict[str, set[str]]) -> str:
  """Returns the picture as SVG text."""
  rows = levels(graph)
  places = {}
  for y, row in enumerate(rows):
    for x, room in enumerate(row):
      shift = 0.5 + 0.1 * (-1) ** y  # keeps arrows off the boxes between
      places[room] = (
        _WIDTH * (x + shift) / len(row),
        40 + _STEP * y,
      )
  height = 80 + _STEP * (len(rows) - 1)
  lines = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
    f'width="{_WIDTH}" height="{height}" font-family="sans-serif" '
    'font-size="13">',
    f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
  ]
  colours = {
    room: _COLOURS[i % len(_COLOURS)] for i, room in enumerate(sorted(graph))
  }
  for room, colour in colours.items():
    lines.append(
      f'<marker id="{room}" viewBox="0 0 8 8" refX="7" refY="4" '
      'markerWidth="7" markerHeight="7" orient="auto">'
      f'<path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
    )
  for room in sorted(graph):
    for other in sorted(graph[room]):
      (x0, y0), (x1, y1) = places[room], places[other]
      start, end = y0 + _BOX_HEIGHT / 2, y1 - _BOX_HEIGHT / 2
      to = x1 + max(-40, min(40, (x0 - x1) / 8))
      bend = (end - start) / 2
      lines.append(
        f'<path d="M{x0:.0f} {start:.0f}C{x0:.0f} {start + bend:.0f} {to:.0f} '
        f'{end - bend:.0f} {to:.0f} {end:.0f}" fill="none" '
        f'stroke="{colours[room]}" stroke-width="1.3" stroke-opacity="0.75" '
        f'marker-end="url(#{room})"><title>{room} -> {other}</title></path>'
      )
  for room, (x, y) in places.items():
    lines += [
      f'<rect x="{x - _BOX_WIDTH / 2:.0f}" y="{y - _BOX_HEIGHT / 2:.0f}" '
      f'width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="5" fill="#f7f7f7" '
      f'stroke="{colours[room]}" stroke-width="1.5"/>',
      f'<text x="{x:.0f}" y="{y + 4.5:.0f}" text-anchor="middle">{room}</text>',
    ]
  return '\n'.join([*lines, '</svg>', ''])


def main() -> None:
  """Writes the picture or, with --check, compares it with the file."""
  text = svg(arrows(ROOT / PACKAGE))
  if '--check' not in sys.argv[1:]:
    PICTURE.write_text(text, encoding='utf-8')
  elif not PICTURE.exists() or PICTURE.read_text(encoding='utf-8') != text:
    sys.exit(f'{PICTURE.name} is out of date; run python {sys.argv[0]}')


if __name__ == '__main__':
  main()
