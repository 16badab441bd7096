"""Tests choices that the source of a row leaves open, and their messages."""

import os

import pytest

from vit_jax_repro.paper import table
from vit_jax_repro.reproduction import checks

pytestmark = pytest.mark.quick

NAMED = table.find('vit-table-5-vit-b-16-imagenet-21k-90ep-cifar-10')
EITHER = next(row for row in table.rows() if '{0.01|0.03}' in row.checkpoint)
PATTERN = next(
  row
  for row in table.rows()
  if row.checkpoint.startswith('augreg/B_16-i21k-30ep')
  and row.checkpoint.endswith('lr_*-res_384.npz')
  and row.status == table.INFERENCE
)
MEAN = next(
  row
  for row in table.rows()
  if row.num_tasks == 19 and row.status == table.FINETUNE
)
OBJECTS = next(
  row
  for row in table.rows()
  if row.eval_dataset == 'ObjectNet' and row.status != table.NOT
)
ALL_OF_VTAB = next(
  row
  for row in table.rows()
  if row.table.startswith('AugReg Table 5')
  and row.eval_dataset.endswith('SVHN')
)
FITTING = (
  'augreg/B_16-i21k-30ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--'
  'imagenet2012-steps_20k-lr_0.01-res_384'
)


def test_resolve_accepts_every_fitting_weights_file():
  assert not checks.resolve(NAMED, weights='imagenet21k/ViT-B_16').pick
  for rate in ('0.01', '0.03'):
    name = EITHER.checkpoint.replace('{0.01|0.03}', rate)
    (file,) = checks.resolve(EITHER, weights=name).files
    assert rate in file and not checks.resolve(EITHER).files
  assert checks.resolve(PATTERN, weights=FITTING).files == (FITTING,)


@pytest.mark.parametrize(
  'row, weights, says',
  [
    (NAMED, 'imagenet21k/ViT-L_16', 'names imagenet21k/ViT-B_16; leave --weig'),
    (EITHER, 'imagenet21k/ViT-B_16', 'choose one of them'),
    (
      PATTERN,
      'imagenet21k/ViT-B_16',
      'needs a file that matches augreg/B_16-i21k',
    ),
    (PATTERN, FITTING.replace('384', '224'), 'needs a file that matches'),
    (PATTERN, FITTING.replace('B_16', 'B_32'), 'needs a file that matches'),
    (PATTERN, FITTING.partition('--')[0], 'needs a file that matches'),
    (PATTERN, FITTING.replace('30ep', '300ep'), 'needs a file that matches'),
  ],
)
def test_resolve_refuses_other_weights_files(row, weights, says):
  refused(row, says, weights=weights)


def test_resolve_records_a_replaced_data_set():
  check = checks.resolve(NAMED, dataset='./mine')
  assert check.datasets == ('./mine',)
  assert check.substituted == {'data': os.path.abspath('mine')}
  assert check.recipes[0][0].dataset == 'cifar10'
  assert checks.resolve(NAMED, dataset='cifar10').substituted == {}
  other = checks.resolve(NAMED, dataset='cifar10:3.0.2')
  assert other.substituted == {'data': 'cifar10:3.0.2'}
  (trained,) = checks.resolve(ALL_OF_VTAB, dataset='./mine').recipes
  assert {recipe.dataset for recipe in trained} == {'vtab/svhn'}
  # A row that needs a folder replaces nothing.
  assert not checks.resolve(OBJECTS, dataset='/objects').substituted


@pytest.mark.parametrize(
  'row, dataset, says',
  [
    (NAMED, 'cifar100', 'was measured on CIFAR-10; give a folder'),
    (NAMED, 'vtab/svhn', 'was measured on CIFAR-10; give a folder'),
    (OBJECTS, 'imagenet2012', 'was measured on ObjectNet; give a folder'),
    (MEAN, './mine', 'is a mean over 19 tasks; leave --dataset out'),
  ],
)
def test_resolve_refuses_other_data_sets(row, dataset, says):
  refused(row, says, dataset=dataset)


def test_resolve_records_a_replaced_recipe():
  assert checks.resolve(NAMED, recipe='vit-paper') == checks.resolve(NAMED)
  check = checks.resolve(NAMED, recipe='bit-hyperrule-paper')
  assert check.substituted == {'recipe': 'bit-hyperrule-paper'}
  open_row = next(r for r in table.rows() if r.table == 'DeiT Table 7')
  assert not checks.resolve(open_row, recipe='vit-paper').substituted
  # The recipe of the source itself keeps all its settings.
  check = checks.resolve(ALL_OF_VTAB, recipe='augreg-paper')
  assert check == checks.resolve(ALL_OF_VTAB) and len(check.recipes[0]) == 2


def test_resolve_notes_a_recipe_for_less_data():
  """The row trains on all images of a task, the recipe on 1000."""
  check = checks.resolve(ALL_OF_VTAB, recipe='vit-paper')
  assert check.substituted['recipe'] == (
    'vit-paper, which trains on train800val200, 1000 of the images'
  )
  assert check.notes[-1].startswith('the recipe is for other data')
  vtab_1k = next(
    r
    for r in table.rows()
    if r.eval_dataset == 'VTAB-1k SVHN' and r.status == table.FINETUNE
  )
  assert not checks.resolve(vtab_1k).substituted


def refused(row, says, **choice):
  with pytest.raises(ValueError) as error:
    checks.resolve(row, **choice)
  line = str(error.value)
  assert says in line and row.id in line and '\n' not in line
