"""Tests the table and the failures of a check of many rows."""

import json

import pytest

from vit_jax_repro.paper import table
from vit_jax_repro.reproduction import budget, checks
from vit_jax_repro.reproduction.options import Options

pytestmark = pytest.mark.quick

ROWS = table.select('ViT Table 5', 'b-16')


def resolve(row):
  return checks.resolve(row, weights='imagenet21k/ViT-B_16')


def test_plan_separates_rows_that_refuse_a_choice():
  view, refused = budget.plan(ROWS, resolve)
  shown = {record['row'] for record in view.records}
  checkable = {row.id for row in budget.checkable(ROWS)}
  assert shown and refused and shown | refused.keys() == checkable
  assert not shown & refused.keys()
  with pytest.raises(ValueError, match='leave --weights out'):
    budget.plan([row for row in ROWS if row.id in refused], resolve)


def test_run_shows_every_row_and_names_failures(tmp_path):
  options = Options(results=str(tmp_path / 'new'), weights_dir=str(tmp_path))
  view, late, failed = budget.run(ROWS, options, checks.resolve, None)
  checkable = [row.id for row in budget.checkable(ROWS)]
  assert [record['id'] for record in view.records] == checkable
  assert not late and sorted(failed) == sorted(checkable)
  (line,) = budget.failures(failed, ROWS, options, checks.resolve)
  assert line.startswith(f'weights files missing in {str(tmp_path)!r}: 2, of ')
  assert f'of {len(checkable)} of the rows: ' in line
  assert 'imagenet21k/ViT-B_16' in line and 'give --fetch' in line
  _, late, failed = budget.run(ROWS, options, checks.resolve, 0.0)
  assert not failed and set(late.values()) == {'over budget'}


def test_run_names_a_single_missing_file_in_full(tmp_path):
  """Kind of fault: a name that is cut short where a command needs it whole."""
  rows = table.select('matched-frequency.csv', 'vit-tiny-patch16-224')
  options = Options(results=str(tmp_path), weights_dir=str(tmp_path))
  failed = {row.id: budget.NO_WEIGHTS for row in rows}
  (line,) = budget.failures(failed, rows, options, checks.resolve)
  (name,) = checks.resolve(rows[0]).files
  assert len(name) > 100 and f': {name} (0.02 GB)' in line


def test_run_shows_existing_results(tmp_path):
  options = Options(results=str(tmp_path), weights_dir=str(tmp_path))
  good, bad = budget.checkable(ROWS)[:2]
  by_hand = {'row': good.id, 'accuracy': 0.5, 'num_examples': 10}
  (tmp_path / f'{good.id}.json').write_text(json.dumps(by_hand))
  (tmp_path / f'{bad.id}.json').write_text('{')
  view, _, failed = budget.run([good, bad], options, checks.resolve, None)
  assert [record['measured'] for record in view.records] == [50.0, None]
  assert list(failed) == [bad.id] and 'is no result' in failed[bad.id]


def test_checkable_refuses_a_table_without_checkable_rows():
  with pytest.raises(ValueError) as error:
    budget.checkable(table.select('ViT Table 6'))
  line = str(error.value)
  assert line.startswith('none of these rows can be checked (JFT-300M weights')
  assert '\n' not in line
