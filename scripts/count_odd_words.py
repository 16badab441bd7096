"""Counts odd words in docstrings, comments and Markdown, and prints the lines.

    python scripts/count_odd_words.py

Prose in this project is plain technical English. The words of `ODD` belong to
an earlier style that readers found hard to understand. The script exits with 1
if there is more than one of them per 1,000 lines.
"""

import ast
import io
import pathlib
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
ODD = re.compile(
  r'\b(says|said|tells|told|nobody|stands|so many|goes on|anew|beside|likewise)'
  r'\b',
  re.IGNORECASE,
)
MOST_PER_1000 = 1.0
# Phrases in which the word is the right one.
RIGHT = ()


def prose(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Yields (line number, text) of a file's docstrings and comments.

  For a Markdown file, yields all lines.
  """
  source = path.read_text(encoding='utf-8')
  lines = source.splitlines()
  if path.suffix == '.md':
    yield from enumerate(lines, 1)
    return
  for node in ast.walk(ast.parse(source)):
    if isinstance(
      node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    ) and ast.get_docstring(node, clean=False):
      text = node.body[0]
      for number in range(text.lineno, text.end_lineno + 1):
        yield number, lines[number - 1]
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      yield token.start[0], token.string


def odd_lines(path: pathlib.Path) -> list[tuple[int, str, int]]:
  """Returns (line number, line, number of odd words) of lines that have any."""
  found = []
  for number, line in sorted(prose(path)):
    text = line
    for phrase in RIGHT:
      text = text.replace(phrase, '')
    hits = len(ODD.findall(text))
    if hits:
      found.append((number, line.strip(), hits))
  return found


def main() -> None:
  """Prints every line with odd words, the worst first, and the rate."""
  listed = subprocess.run(
    ['git', 'ls-files', '*.py', '*.md'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  paths = [ROOT / name for name in listed if (ROOT / name).exists()]
  this = pathlib.Path(__file__)
  lines, hits, odd = 0, 0, []
  for path in paths:
    if path.samefile(this):
      continue
    lines += len(path.read_text(encoding='utf-8').splitlines())
    for number, line, times in odd_lines(path):
      hits += times
      odd.append((-times, f'{path.relative_to(ROOT)}:{number}: {line}'))
  for _, line in sorted(odd):
    print(line)
  rate = 1000 * hits / lines
  print(f'{hits} odd words in {lines} lines: {rate:.2f} per 1,000')
  if rate > MOST_PER_1000:
    sys.exit(f'more than {MOST_PER_1000:g} per 1,000; write plain English')


if __name__ == '__main__':
  main()
