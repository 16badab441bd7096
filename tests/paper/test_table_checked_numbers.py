"""Tests docs/checked_numbers.md against the tables of published numbers."""

import pathlib
import random
import re

import pytest

from vit_jax_repro.paper import table

pytestmark = pytest.mark.quick

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'checked_numbers.md'


def sections():
  """Returns (text of the page, ids that it lists)."""
  text = PAGE.read_text('utf-8')
  (block,) = re.findall(r'```text\n(.*?)```', text, re.DOTALL)
  return text, block.split()


def test_checked_ids_are_rows_of_the_tables():
  """A list of checked rows that names a row which does not exist."""
  _, listed = sections()
  assert len(listed) == len(set(listed)) == 200
  assert set(listed) <= {row.id for row in table.rows()}


def test_checked_ids_are_those_that_the_command_draws():
  """A sample that cannot be repeated by the seed that the page states."""
  text, listed = sections()
  (seed,) = map(int, re.findall(r'random\.Random\((\d+)\)', text))
  known = ('ViT Table 2', 'ViT Table 5', 'ViT Table 7', 'ViT Table 8')
  others = sorted(
    row.id
    for row in table.rows()
    if row.table not in known
    and not row.table.startswith(('README', 'Noisy Student'))
    and not row.table.endswith('(2026-08)')
  )
  assert sorted(random.Random(seed).sample(others, 200)) == sorted(listed)


def test_checked_counts_equal_those_of_the_tables():
  """A table of counts that does not add up to the rows that were drawn."""
  text, listed = sections()
  by_id = {
    row.id: row.table
    for row in table.rows()
    if not row.table.endswith('(2026-08)')
  }
  total = [0] * 4
  for line in re.findall(r'^\| (.+?) \|(.+)\|$', text, re.MULTILINE):
    names = line[0].split(', ')
    cells = line[1].split('|')
    if not cells[0].strip().isdigit():
      continue  # the heading and the line below it
    drawn, two, one, none, wrong, rows = map(int, cells[:6])
    if names == ['all']:
      assert [drawn, two, one, none] == total
      assert rows == 1162
      continue
    fits = [
      row_id
      for row_id, name in by_id.items()
      if any(name.startswith(each) for each in names)
    ]
    assert drawn == two + one + none == len(set(fits) & set(listed)), names
    assert rows == len(fits), names
    assert wrong == 0
    total = [a + b for a, b in zip(total, (drawn, two, one, none), strict=True)]
  assert total[0] == len(listed)
