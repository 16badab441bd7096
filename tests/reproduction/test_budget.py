"""Tests which rows run and in which order; all fail for lack of weights."""

import json

import pytest

from vit_jax_repro.paper import table
from vit_jax_repro.reproduction import budget, checks
from vit_jax_repro.reproduction.options import Options

pytestmark = pytest.mark.quick

ROWS = [row for row in table.rows() if row.table == 'ViT Table 5']
CHECKABLE = [row for row in ROWS if row.status != table.NOT]


@pytest.fixture
def options(tmp_path):
  return Options(results=str(tmp_path / 'results'), weights_dir=str(tmp_path))


def order(outcomes):
  """Returns the ids of the checked rows, in order."""
  checkable = {row.id for row in CHECKABLE}
  return [row_id for row_id in outcomes if row_id in checkable]


def test_run_many_checks_the_cheapest_rows_first(options, capsys):
  shuffled = {
    row.id: {'share': 7.0, row.id: float(i * 17 % 31)}
    for i, row in enumerate(CHECKABLE)
  }
  outcomes = budget.run_many(
    ROWS, options, cost=lambda check: shuffled[check.row.id]
  )
  wanted = sorted(shuffled, key=lambda row: (sum(shuffled[row].values()), row))
  assert order(outcomes) == wanted and len(set(wanted)) == len(wanted)
  assert 'checking' not in capsys.readouterr().err
  assert set(outcomes) == {row.id for row in ROWS}
  for row in ROWS:
    if row.status == table.NOT:
      assert outcomes[row.id] == 'cannot be checked'
    else:
      assert outcomes[row.id] == 'no weights file'


def test_run_many_orders_rows_by_remaining_compute(options):
  """Evaluations come before fine-tuning, small models before large ones."""
  rows = [
    row
    for row in CHECKABLE
    if row.model in ('ViT-B/16', 'ViT-B/32')
    and row.eval_dataset in ('ImageNet', 'CIFAR-10')
    and row.pretrain_dataset == 'ImageNet-21k'
  ]
  by_id = {row.id: row for row in rows}
  found = [by_id[row_id] for row_id in order(budget.run_many(rows, options))]
  assert [(row.model, row.status) for row in found] == [
    ('ViT-B/32', table.INFERENCE),
    ('ViT-B/16', table.INFERENCE),
    ('ViT-B/32', table.FINETUNE),
    ('ViT-B/16', table.FINETUNE),
  ]


def test_run_many_continues_after_a_row_that_fails(options):
  first, second, third = CHECKABLE[:3]

  def resolve(row):
    if row is first:
      raise ValueError('no such\nchoice')
    return checks.resolve(row)

  def cost(check):
    if check.row is second:
      raise OSError('no such data')
    return {check.row.id: 1.0}

  outcomes = budget.run_many(
    [first, second, third], options, resolve=resolve, cost=cost
  )
  assert outcomes[first.id] == 'no such choice'
  assert outcomes[second.id] == 'no such data'
  assert 'no weights file' in outcomes[third.id]


def test_run_many_checks_budget_hours(options):
  outcomes = budget.run_many(ROWS, options, cost=lambda _: {}, budget_hours=0.0)
  assert set(outcomes.values()) == {'cannot be checked', 'over budget'}
  for hours in (float('nan'), float('inf'), -1.0):
    with pytest.raises(ValueError, match='must be a number of hours'):
      budget.run_many(ROWS, options, cost=lambda _: {}, budget_hours=hours)


def test_run_many_refuses_an_unwritable_folder(tmp_path):
  (tmp_path / 'file').write_text('mine')
  options = Options(results=str(tmp_path / 'file' / 'results'))
  with pytest.raises(OSError, match='cannot write in') as error:
    budget.run_many(ROWS, options)
  assert '\n' not in str(error.value)


def test_run_many_keeps_results_written_by_hand(options, tmp_path):
  """A damaged result is a failure of its row."""
  (tmp_path / 'results').mkdir()
  first, second, none = *CHECKABLE[:2], ROWS[0]
  none = next(row for row in ROWS if row.status == table.NOT)
  for row in (first, none):
    by_hand = {'row': row.id, 'accuracy': 0.5, 'num_examples': 10}
    (tmp_path / 'results' / f'{row.id}.json').write_text(json.dumps(by_hand))
  (tmp_path / 'results' / f'{second.id}.json').write_text('{')
  outcomes = budget.run_many([first, second, none], options)
  assert outcomes[first.id] == outcomes[none.id] == budget.THERE
  assert 'is no result: ' in outcomes[second.id]
  left = (tmp_path / 'results' / f'{first.id}.json').read_text()
  assert json.loads(left)['accuracy'] == 0.5
