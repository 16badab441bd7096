import collections
import dataclasses
import functools

import pytest

from vit_jax_repro import models
from vit_jax_repro.data import catalogue, preprocess
from vit_jax_repro.paper import table
from vit_jax_repro.published import catalogue as published
from vit_jax_repro.recipes import finetuning
from vit_jax_repro.reproduction import checks
from vit_jax_repro.runs import settings

pytestmark = pytest.mark.quick

CHECKABLE = [row for row in table.rows() if row.status != table.NOT]


def resolved(part, **choices):
  return checks.resolve(table.find(part), **choices)


@functools.cache
def all_checks():
  return [checks.resolve(row) for row in CHECKABLE]


@pytest.mark.slow
def test_resolve_settles_every_checkable_row_or_lists_choices():
  counts = collections.Counter()
  for row, check in zip(CHECKABLE, all_checks(), strict=True):
    counts[check.kind] += 1
    assert (check.kind == checks.EVALUATE) == (row.status == table.INFERENCE)
    assert check.model == models.canonical_name(check.model)
    preprocess.pick_preprocessing(check.preprocessing)
    assert len(check.image_sizes) == len(check.datasets)
    assert all(16 <= size <= 800 for size in check.image_sizes)
    for dataset in check.datasets:
      known = catalogue.find(dataset)
      assert known or dataset in ('cars196', 'i_naturalist2018', 'resisc45')
      assert known is None or check.split in ('test', *known.sizes)
    if check.pick:
      assert all(each.startswith('--') for each in check.pick)
      continue
    assert check.files and check.datasets
    if row.checkpoint and not set('{*<') & set(row.checkpoint):
      (name,) = check.files
      assert published.find(name).model == check.model
    if check.kind == checks.FINE_TUNE:
      assert len(check.recipes) == len(check.datasets)
      assert all(check.recipes)
  assert counts == {checks.EVALUATE: 647, checks.FINE_TUNE: 470}


def test_resolve_gives_each_data_set_its_own_recipe():
  several = 0
  for check in all_checks():
    of_vtab = [name for name in check.datasets if name.startswith('vtab/')]
    for name, tried in zip(check.datasets, check.recipes, strict=False):
      if of_vtab:
        assert {recipe.dataset for recipe in tried} == {name}
        assert {r.settings['dataset'] for r in tried} == {name}
    several += len(check.recipes) > 1
  assert several > 30


def test_resolve_lists_every_task_of_a_mean():
  for check in all_checks():
    assert len(check.datasets) in (0, check.row.num_tasks)


def test_resolve_leaves_known_choices_open():
  left = collections.Counter(
    each.split(':')[0] for check in all_checks() for each in check.pick
  )
  # --weights: files of AugReg's tables. --dataset: ObjectNet and iNaturalist
  # 2019. --recipe: DeiT's transfer and one PyTorch port, without published
  # settings.
  assert left == {'--weights': 65, '--dataset': 44, '--recipe': 38}
  numbers = collections.Counter(len(check.pick) for check in all_checks())
  assert numbers == {0: 974, 1: 139, 2: 4}
  twice = [check.row.table for check in all_checks() if len(check.pick) == 2]
  assert set(twice) == {'DeiT Table 7'}


def test_resolve_gives_valid_training_settings():
  seen = set()
  for check in all_checks():
    for tried in check.recipes:
      for recipe in tried:
        key = str(recipe)
        if key not in seen:
          seen.add(key)
          given = dict(recipe.settings, pretrained_dir='.', model={})
          settings.from_config(given)
  assert len(seen) > 60


@pytest.mark.parametrize(
  'row, wanted',
  [
    (
      'vit-table-5-vit-l-16-imagenet-21k-30-or-90ep-imagenet-real',
      dict(
        kind='evaluate',
        files=('imagenet21k+imagenet2012/ViT-L_16',),
        datasets=('imagenet2012_real',),
        split='validation',
        image_sizes=(384,),
        preprocessing='vit_jax',
        metric='accuracy',
      ),
    ),
    (
      'deit-table-3-deit-s-distilled-class-token-only-imagenet-300ep-imagenet',
      dict(
        head='class',
        preprocessing='deit',
        image_sizes=(224,),
        model='DeiT-S_16-distilled',
      ),
    ),
    (
      'vit-table-9-vit-l-16-imagenet-21k-vtab-1k-svhn',
      dict(kind='fine-tune', datasets=('vtab/svhn',), image_sizes=(384,)),
    ),
    (
      'vit-table-2-noisy-student-efficientnet-l2-jft-300m-unlabelled-'
      'imagenet-real-2',
      dict(
        kind='evaluate',
        model='EfficientNet-L2',
        files=('tf_efficientnet_l2.ns_jft_in1k',),
        image_sizes=(800,),
        preprocessing='efficientnet',
      ),
    ),
    (
      'timm2026-timm-results-imagenet-csv-2026-08-tf-efficientnet-b0-ns-jft-'
      'in1k-jft-300m-unlabelled-imagenet-top5-pct',
      dict(
        metric='top5_accuracy',
        image_sizes=(224,),
        preprocessing='deit:crop_pct=0.875',
      ),
    ),
  ],
)
def test_resolve_equals_rows_written_by_hand(row, wanted):
  check = resolved(row)
  assert {name: getattr(check, name) for name in wanted} == wanted


def test_resolve_takes_preprocessing_from_timm():
  rows = [row for row in CHECKABLE if row.table.startswith('timm')]
  readings = {
    checks.resolve(row).preprocessing for row in rows if row.family == 'BiT'
  }
  assert readings == {
    'timm:crop_pct=1,interpolation=bilinear', 'timm:crop_pct=0.875',
    'timm:crop_pct=1',
  }  # fmt: skip
  deit = {
    checks.resolve(row).preprocessing for row in rows if row.family == 'DeiT'
  }
  assert deit == {'deit:crop_pct=0.9', 'deit:crop_pct=1'}


def test_resolve_names_the_tasks_of_a_mean():
  whole = resolved('vit-table-9-vit-l-16-imagenet-21k-vtab-1k-mean')
  assert len(whole.datasets) == 19
  group = [
    row
    for row in CHECKABLE
    if row.eval_dataset == 'VTAB-1k specialized mean' and row.family == 'ViT'
  ]
  check = checks.resolve(group[0])
  assert [name.removeprefix('vtab/') for name in check.datasets] == [
    'patch_camelyon', 'eurosat', 'resisc45', 'diabetic_retinopathy',
  ]  # fmt: skip


def test_resolve_picks_files_and_image_sizes_per_task():
  (row,) = [
    row
    for row in CHECKABLE
    if row.table == 'README VTAB-1k results'
    and row.eval_dataset == 'VTAB-1k (19 tasks)'
    and 'R152x4' in row.model
  ]
  check = checks.resolve(row)
  assert check.model == 'BiT-M-R152x4'
  assert check.file_for(check.files[1], 'vtab/clevr-count') == (
    'vtab/BiT-M-R152x4-run1-clevr-count'
  )
  sizes = dict(zip(check.datasets, check.image_sizes, strict=True))
  assert sizes['vtab/svhn'] == 128 and sizes['vtab/dtd'] == 480


def test_resolve_takes_dropout_steps_and_shots_from_the_row():
  def recipe(text):
    (row,) = [r for r in CHECKABLE if r.id.endswith(text)]
    (tried,) = checks.resolve(row).recipes
    return tried[0]

  with_dropout = recipe(
    'r50-vit-b-16-fine-tune-dropout-0-1-imagenet-21k-cifar-10'
  )
  assert with_dropout.model_fields['dropout_rate'] == 0.1
  short = recipe(
    'short-schedules-vit-b-16-steps-warmup-500-50-imagenet-21k-cifar-10'
  )
  assert short.settings['total_steps'] == 500
  few = [
    row
    for row in CHECKABLE
    if row.train_examples == '5 per class' and row.eval_dataset == 'CIFAR-100'
  ]
  (tried,) = checks.resolve(few[0]).recipes
  assert tried[0].settings['pp']['train'] == 'train@5'
  assert tried[0].settings['total_steps'] == 500  # of 500 images


def test_resolve_tries_eight_settings_of_augreg():
  row = next(r for r in CHECKABLE if r.table.startswith('AugReg Table 5'))
  check = checks.resolve(row)
  tried = [
    (recipe.settings['total_steps'], rate)
    for recipe in check.recipes[0]
    for rate in recipe.base_lrs
  ]
  assert len(tried) == len(set(tried)) == 8


def test_resolve_accepts_choices_of_the_user():
  row = next(r for r in CHECKABLE if '{0.01|0.03}' in r.checkpoint)
  check = checks.resolve(row)
  assert check.pick
  name = row.checkpoint.replace('{0.01|0.03}', '0.03')
  assert not checks.resolve(row, weights=name).pick
  row = next(r for r in CHECKABLE if r.eval_dataset == 'ObjectNet')
  assert checks.resolve(row, dataset='./objectnet').datasets == ('./objectnet',)
  row = next(r for r in CHECKABLE if r.table == 'DeiT Table 7')
  check = checks.resolve(row, recipe='vit-paper')
  assert not check.pick and check.recipes[0][0].name == 'vit-paper'


def test_resolve_trains_models_for_objectnet_on_imagenet():
  row = next(
    r
    for r in CHECKABLE
    if r.eval_dataset == 'ObjectNet' and r.status == table.FINETUNE
  )
  check = checks.resolve(row, dataset='./objectnet')
  assert check.recipes[0][0].dataset == 'imagenet2012'


def test_resolve_refuses_wrong_choices_in_one_line():
  row = next(r for r in table.rows() if r.status == table.NOT)
  with pytest.raises(ValueError, match='cannot be checked') as caught:
    checks.resolve(row)
  assert '\n' not in str(caught.value)
  with pytest.raises(ValueError, match="no published file 'x'"):
    checks.resolve(CHECKABLE[0], weights='x')
  row = next(r for r in CHECKABLE if r.status == table.FINETUNE)
  with pytest.raises(ValueError, match="recipe 'x'"):
    checks.resolve(row, recipe='x')
  unknown = dataclasses.replace(CHECKABLE[0], eval_dataset='VTAB-1k Moon')
  with pytest.raises(ValueError, match="unknown VTAB task 'Moon'"):
    checks.resolve(unknown)


def test_resolve_uses_known_recipes():
  names = {
    recipe.name
    for check in all_checks()
    for tried in check.recipes
    for recipe in tried
  }
  assert names <= finetuning.RULES.keys() and len(names) >= 12
