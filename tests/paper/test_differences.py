"""Differences between papers and code, and the rows they concern."""

import dataclasses

import pytest

from vit_jax_repro.paper import differences, table

pytestmark = pytest.mark.quick

ALL = {each.id: each for each in differences.all_differences()}


def test_all_differences_has_every_line():
  assert list(ALL) == [f'pvc-{number:02}' for number in range(1, 81)]
  assert ALL['pvc-80'].status == 'open'
  assert ALL['pvc-11'].topic == 'Polyak averaging'
  assert all(each.scope and each.first for each in ALL.values())


@pytest.mark.parametrize(
  'alternative',
  sorted(
    {
      alternative
      for each in ALL.values()
      for alternative in each.concerns.split(' or ')
      if alternative
    }
  ),
)
def test_conditions_hold_for_some_rows_but_not_for_all(alternative):
  difference = dataclasses.replace(ALL['pvc-01'], concerns=alternative)
  touched = [row for row in table.rows() if difference.touches(row)]
  assert 0 < len(touched) < len(table.rows())


@pytest.mark.parametrize(
  'row, touching, others',
  [
    (
      'vit-table-2-vit-l-16-imagenet-21k-30-or-90ep-imagenet',
      {'pvc-01', 'pvc-10', 'pvc-11', 'pvc-16'},
      {'pvc-06', 'pvc-32', 'pvc-66', 'pvc-77'},
    ),
    (
      'vit-table-5-vit-b-16-imagenet-21k-90ep-imagenet-real',
      {'pvc-06', 'pvc-43', 'pvc-77'},
      {'pvc-01', 'pvc-05', 'pvc-30'},
    ),
    (
      'vit-table-5-vit-h-14-imagenet-21k-cifar-10',
      {'pvc-32', 'pvc-80'},
      {'pvc-04', 'pvc-33'},
    ),
    (
      'bit-readme-cifar-results-bit-m-r50x1-jax-5-per-class-imagenet-21k-'
      'cifar-10',
      {'pvc-52', 'pvc-54', 'pvc-56', 'pvc-57'},
      {'pvc-50', 'pvc-01'},
    ),
    (
      'deit-table-5-deit-ti-imagenet-300ep-imagenet',
      {'pvc-66', 'pvc-76'},
      {'pvc-67', 'pvc-72', 'pvc-17'},
    ),
  ],
)
def test_touching_returns_the_differences_of_a_row(row, touching, others):
  found = {each.id for each in differences.touching(table.find(row))}
  assert touching <= found and not others & found


def test_touches_no_row_without_conditions():
  assert not any(ALL['pvc-13'].touches(row) for row in table.rows())


def test_select_searches_ids_topics_and_scopes():
  assert differences.select() == list(ALL.values())
  assert [each.id for each in differences.select('polyak')] == ['pvc-11']
  assert differences.select('PVC-07') == [ALL['pvc-07']]
  assert {each.scope for each in differences.select('DeiT *')} >= {'DeiT eval'}
  with pytest.raises(ValueError, match="no difference fits 'zzz'"):
    differences.select('zzz')
