"""VTAB's means, on the columns of the ViT paper's Table 9."""

import math

import pytest

from vit_jax_repro.data import catalogue
from vit_jax_repro.evaluation import vtab
from vit_jax_repro.paper import table

pytestmark = pytest.mark.quick

TASK_OF = {  # column of Table 9: task
  row.column: row.name for row in catalogue.DATA_SETS.values() if row.group
}
IN_TABLE_2 = {  # Table 2 alone says how long models were pre-trained
  ('ViT-H/14', 'JFT-300M'),
  ('ViT-L/16', 'JFT-300M'),
  ('ViT-L/16', 'ImageNet-21k'),
}


def columns():
  """{(model, data it was pre-trained on): {task: (fraction, images)}}."""
  found = {}
  for row in table.select('ViT Table 9'):
    task = TASK_OF.get(row.eval_dataset.removeprefix('VTAB-1k '))
    if task is not None:
      key = row.model, row.pretrain_dataset
      found.setdefault(key, {})[task] = row.value / 100, 1000
  return found


def published(table_name, key, ending):
  (value,) = {
    row.value
    for row in table.select(table_name)
    if (row.model, row.pretrain_dataset) == key
    and row.eval_dataset == f'VTAB-1k {ending}'
  }
  return value


def test_the_groups():
  sizes = {group: len(tasks) for group, tasks in vtab.TASKS.items()}
  assert sizes == dict(natural=7, specialized=4, structured=8, all=19)
  parts = [vtab.TASKS[group] for group in vtab.GROUPS]
  assert sorted(sum(parts, ())) == sorted(vtab.TASKS['all'])


@pytest.mark.parametrize('key', sorted(IN_TABLE_2))
def test_means_of_table_9_are_those_published(key):
  accuracies = columns()[key]
  assert len(accuracies) == 19
  means = vtab.means(accuracies)
  for group in vtab.GROUPS:
    wanted = published('ViT Table 9 (derived)', key, f'{group} mean')
    assert abs(100 * means[group].mean - wanted) <= 0.0051
  wanted = published('ViT Table 2', key, '(19 tasks)')
  assert abs(100 * means['all'].mean - wanted) <= 0.02
  assert all(mean.complete for mean in means.values())


def test_the_variance_is_that_of_a_mean_of_proportions():
  accuracies = dict.fromkeys(vtab.TASKS['all'], (0.5, 100))
  accuracies['eurosat'] = 0.9, 5400
  means = vtab.means({f'vtab/{k}': v for k, v in accuracies.items()})
  one = 0.5 * 0.5 / 100
  assert math.isclose(means['natural'].variance, one / 7)
  assert math.isclose(
    means['specialized'].variance, (3 * one + 0.9 * 0.1 / 5400) / 16
  )
  assert math.isclose(
    means['all'].variance, (18 * one + 0.9 * 0.1 / 5400) / 19**2
  )
  assert math.isclose(means['specialized'].mean, (3 * 0.5 + 0.9) / 4)


def test_missing_tasks_are_named():
  means = vtab.means({'dtd': (0.7, 1880), 'sun397': (0.5, 21750)})
  natural = means['natural']
  assert math.isclose(natural.mean, 0.6) and natural.num_tasks == 2
  assert not natural.complete and 'svhn' in natural.missing
  assert len(natural.missing) == 5 and len(means['all'].missing) == 17
  assert means['structured'].mean is means['structured'].variance is None


@pytest.mark.parametrize(
  'accuracies, message',
  [
    ({'imagenet': (0.5, 10)}, "unknown task 'imagenet' of VTAB; choose from"),
    ({'dtd': (71.0, 1880)}, "accuracy 71.0 of 'dtd' must be a fraction"),
    ({'dtd': (0.5, 0)}, "'dtd' has 0 test images"),
    ({'dtd': (0.5, 9), 'vtab/dtd': (0.5, 9)}, 'given twice'),
  ],
)
def test_wrong_values_are_one_line(accuracies, message):
  with pytest.raises(ValueError, match=message) as caught:
    vtab.means(accuracies)
  assert '\n' not in str(caught.value)
