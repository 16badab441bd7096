"""Fine-tuning recipes compared with each cell of the published settings."""

import re

import pytest

from vit_jax_repro import models
from vit_jax_repro.data import catalogue
from vit_jax_repro.paper import table
from vit_jax_repro.recipes import finetuning
from vit_jax_repro.recipes.finetuning.vit import FIVE, VTAB
from vit_jax_repro.recipes.recipe import RecipeRequest, num_examples
from vit_jax_repro.runs import settings

pytestmark = pytest.mark.quick

ROWS = table.read_csv('finetuning')
DATA_SETS = {
  'ImageNet': ('imagenet2012',),
  'CIFAR-10': ('cifar10',),
  'CIFAR-100': ('cifar100',),
  'CIFAR-10; CIFAR-100': ('cifar10', 'cifar100'),
  'Oxford-IIIT Pets': ('oxford_iiit_pet',),
  'Oxford Flowers-102': ('oxford_flowers102',),
  'KITTI distance': ('vtab/kitti-distance',),
  'Resisc45': ('vtab/resisc45',),
  'VTAB-1k (each of 19)': VTAB,
  'VTAB (19 tasks, Table 5)': VTAB,
  'all five': FIVE,
  'user supplied (e.g. oxford_iiit_pet)': ('oxford_iiit_pet', './photos'),
  'small: < 20k examples': ('oxford_iiit_pet', 'vtab/dtd'),
  'medium: < 500k examples': ('cifar10',),
  'large: >= 500k examples': ('imagenet2012',),
}
MODELS = {
  'vit-paper-table2-imagenet': 'ViT-L_16',
  'vit-paper-resnets': 'BiT-M-R50x1',
  'vit_jax.ipynb': 'ViT-B_32',
  'bv-transfer': 'ViT-B_32',
  're_vit-vit': 'ViT-L_16',
  're_vit-bit': 'BiT-M-R152x4',
}


def model_of(row):
  name = row['recipe']
  by_family = 'BiT-M-R50x1' if name.startswith('bit') else 'ViT-L_32'
  by_family = 'DeiT-B_16' if name.startswith('deit') else by_family
  return MODELS.get(name, by_family)


def numbers(text):
  """Returns the numbers of a cell, except for those in parentheses."""
  text = re.sub(r'\(.*?\)', '', text)
  return [float(n) for n in re.findall(r'\d+(?:\.\d+)?(?:e-\d+)?', text)]


def recipes_of(row):
  """Yields a recipe of a row for each data set and number of steps."""
  steps = [int(n) for n in numbers(row['steps'])] or [None]
  variant = 'vtab' if 'Table 5' in row['dataset'] else None
  for dataset in DATA_SETS[row['dataset']]:
    for total in steps:
      # A recipe with one schedule has a default number of steps.
      several = dict(steps=total) if len(steps) > 1 else {}
      found = finetuning.find(
        row['recipe'], dataset, model_of(row), variant=variant, **several
      )
      yield total, found


ROW_IDS = [f'{row["recipe"]}-{row["dataset"]}' for row in ROWS]
EACH_ROW = pytest.mark.parametrize('row', ROWS, ids=ROW_IDS)


def test_rules_have_all_45_rows():
  assert len(ROWS) == 45
  assert {row['recipe'] for row in ROWS} == set(finetuning.RULES)


@EACH_ROW
def test_settings_are_valid_for_a_run(row):
  for _, found in recipes_of(row):
    assert found.source and found.notes and found.settings['eval_every'] == 0
    assert found.settings['base_lr'] in found.base_lrs
    assert list(found.base_lrs) == sorted(found.base_lrs)
    assert (found.tune is None) == (len(found.base_lrs) == 1)
    fields = models.variant(model_of(row))
    model = found.architecture(fields)
    assert models.create(model)
    config = dict(found.settings, model=model, pretrained_dir='.')
    settings.from_config(config)
    if found.tune:
      settings.from_config(dict(config, pp=dict(config['pp'], **found.tune)))


@EACH_ROW
def test_schedule_matches_the_row(row):
  for total, found in recipes_of(row):
    have = found.settings
    batch = numbers(row['batch_size'])
    assert not batch or have['batch'] == batch[0]
    if row['epochs']:
      epochs, examples = int(row['epochs']), examples_of(row, found)
      assert have['total_steps'] == epochs * examples // have['batch']
    elif total:
      assert have['total_steps'] == total
    check_warmup(row, found)
    check_decay(row, found)
    clip = numbers(row['grad_clip_norm'])
    assert have['grad_norm_clip'] == (clip[0] if clip else None)


def examples_of(row, found):
  sizes = catalogue.find(found.dataset).sizes
  percent = re.match(r'(\d+)%', row['train_split'])
  return sizes['train'] * (int(percent[1]) if percent else 100) // 100


def check_warmup(row, found):
  have, warmup = found.settings['warmup_steps'], row['warmup_steps']
  if warmup == '5 epochs':
    batch = found.settings['batch']
    assert have == 5 * examples_of(row, found) // batch
  elif 'no warmup' in row['schedule']:
    assert have == 0
  elif numbers(warmup):
    number = [int(n) for n in numbers(row['steps'])].index(
      found.settings['total_steps']
    )
    assert have == numbers(warmup)[number]
  elif 'not stated' in warmup:
    assert (
      have
      == {500: 100, 2500: 200, 10_000: 500, 20_000: 500}[
        found.settings['total_steps']
      ]
    )
    assert any('warm' in note for note in found.notes)


def check_decay(row, found):
  have, schedule = found.settings, row['schedule']
  if 'flat' in schedule or 'FixEfficientNet' in schedule:
    assert have['decay_type'] == 'constant'
  elif schedule.startswith('cosine'):
    assert have['decay_type'] == 'cosine'
  else:
    drops = {
      'step decay x0.1 at 30%, 60%, 90% of the steps': [
        have['total_steps'] * part // 100 for part in (30, 60, 90)
      ],
      'as bit-hyperrule-code': [3000, 6000, 9000],
    }.get(schedule, numbers(schedule)[1:])
    assert have['decay_type'] == 'steps'
    assert list(have['decay_steps']) == drops


@EACH_ROW
def test_optimiser_and_rates_match_the_row(row):
  for _, found in recipes_of(row):
    have = found.settings
    adam = row['optimizer'].startswith('AdamW')
    assert have['optim'] == ('adamw' if adam else 'sgd')
    half = 'bfloat16' in row['optimizer'] or 'momentum_hp' in row['optimizer']
    if half or row['status'] == 'paper':
      assert have.get('optim_dtype', 'float32') == (
        'bfloat16' if half else 'float32'
      )
    rates = numbers(row['base_lr'])
    if rates:
      assert list(found.base_lrs) == pytest.approx(rates)
    decay = numbers(row['weight_decay'])
    if decay:
      assert (have.get('weight_decay') or 0) == decay[0]
    polyak = numbers(row['polyak_or_ema'])
    wanted = polyak[0] if 'Polyak' in row['polyak_or_ema'] else 0
    assert have.get('polyak_decay', 0) == wanted
    if row['head_init']:
      kept = row['head_init'] == 'kept'
      assert have.get('head', 'reset') == ('keep' if kept else 'reset')


@EACH_ROW
def test_regularisation_matches_the_row(row):
  for _, found in recipes_of(row):
    have, fields = found.settings, found.model_fields
    mixup = numbers(row['mixup'].partition('/')[0])
    if mixup:
      assert have.get('mixup_alpha', 0) == mixup[-1]
    cutmix = re.search(r'CutMix ([\d.]+)', row['mixup'])
    if cutmix:
      assert have['cutmix_alpha'] == float(cutmix[1])
    smoothing = numbers(row['label_smoothing'])
    if smoothing:
      assert have['label_smoothing'] == smoothing[0]
    if 'dropout_rate' in fields:
      assert fields['dropout_rate'] == numbers(row['dropout'])[0]
    if row['dropout'].startswith('0.0 for B/16'):  # by the model's name
      assert not fields


@EACH_ROW
def test_images_match_the_row(row):
  for _, found in recipes_of(row):
    pp = found.settings['pp']
    if row['recipe'] != 'bit-hyperrule-paper':
      assert pp['crop'] in numbers(row['train_resolution'])
    known = catalogue.find(found.dataset)
    cropped = known is None or known.random_crop is not False
    flipped = known is None or known.random_flip is not False
    if 'random crop' in row['train_crop']:
      assert pp['inception_crop'] is False and bool(pp['resize']) == cropped
    elif re.search('inception|RandomResizedCrop', row['train_crop']):
      assert pp.get('inception_crop', True) and not pp.get('resize')
    elif row['recipe'] == 'augreg-paper':  # not stated: an Inception crop
      assert pp['inception_crop'] == cropped and 'resize' not in pp
    elif row['train_crop'].startswith('none'):
      assert not pp['inception_crop'] and not pp.get('resize')
    resize = numbers(row['resize_before_crop'])
    if len(resize) == 1 and cropped:
      assert pp['resize'] == resize[0]
    assert pp.get('flip', True) == (row['flip'] != 'no' and flipped)


@EACH_ROW
def test_splits_match_the_row(row):
  for _, found in recipes_of(row):
    train = catalogue.split_of(found.dataset, found.settings['pp']['train'])
    text = row['train_split']
    if text.startswith(('all of train', 'dev phase')):
      group = found.dataset in VTAB
      assert train == (
        catalogue.find(found.dataset).splits['train800val200']
        if group
        else 'train'
      )
    elif text.startswith('train['):
      assert text.startswith(train)
    elif row['recipe'] == 'scenic-vtab':
      count = found.dataset == 'vtab/clevr-count'
      assert num_examples(found.dataset, train) == (1200 if count else 1000)
    elif re.match(r'\d+%', text):
      assert train == f'train[:{text.partition("%")[0]}%]'
    held_out = re.match(r'(\d+)% of train', row['dev_split'])
    if held_out and found.dataset not in VTAB:
      part = catalogue.split_of(found.dataset, found.tune['test'])
      assert part == f'train[{100 - int(held_out[1])}%:]'
    if row['test_split'] in ('test', 'validation'):
      have = catalogue.split_of(found.dataset, found.settings['pp']['test'])
      assert (
        have == catalogue.find(found.dataset).test
        if (found.dataset in VTAB)
        else have == row['test_split']
      )


def test_resolution_equals_the_bit_paper():
  """Crops 384 of 448 pixels, R152x4 480 of 512, small images 128 of 160."""
  found = {
    (dataset, model): (pp['resize'], pp['crop'])
    for dataset in ('cifar10', 'imagenet2012')
    for model in ('BiT-M-R50x1', 'BiT-M-R152x4')
    for pp in [
      finetuning.find('bit-hyperrule-paper', dataset, model).settings['pp']
    ]
  }
  assert list(found.values()) == [(160, 128)] * 2 + [(448, 384), (512, 480)]


def test_resolution_equals_table_2_of_the_vit_paper():
  for model, crop in (('ViT-L_16', 512), ('ViT-H_14', 518)):
    found = finetuning.find('vit-paper-table2-imagenet', 'imagenet2012', model)
    assert found.settings['pp']['crop'] == crop
    assert found.settings['pp']['resize'] == round(crop * 448 / 384)
  with pytest.raises(ValueError, match=r'Table 2 .* no resolution'):
    finetuning.find('vit-paper-table2-imagenet', 'imagenet2012', 'ViT-B_16')


def test_find_applies_its_options():
  def find(*arguments, **options):
    return finetuning.find(*arguments, **options)

  found = find('vit_jax-vit.py', 'cifar10', 'ViT-B_16', dropout=0.1)
  assert found.base_lrs == (0.01,)
  assert found.model_fields == {'dropout_rate': 0.1}
  assert not find(
    'bit-hyperrule-code', 'cifar10', 'BiT-M-R50x1', dropout=0.1
  ).model_fields
  found = find('vit-paper', 'cifar10', 'ViT-B_16', image_size=224)
  assert (found.settings['pp']['crop'], found.settings['pp']['resize']) == (
    224,
    261,
  )
  found = find('vit-paper', 'cifar10', 'ViT-B_16', variant='inception')
  assert found.settings['pp'] == dict(
    train='train', test='test', crop=384, inception_crop=True, flip=True
  )
  found = find('vit-paper', 'imagenet2012', 'ViT-H_14')
  assert any('patches of 14 cover 378' in note for note in found.notes)
  found = find(
    'vit-paper-resnets', 'cifar10', 'BiT-M-R50x1', variant='hyperrule'
  )
  assert found.settings['decay_steps'] == (3000, 6000, 9000)
  found = find(
    'bit-hyperrule-paper', './photos', 'BiT-M-R50x1', num_examples=20_000
  )
  assert found.settings['total_steps'] == 10_000
  found = find(
    'bit-hyperrule-code', 'cifar10', 'BiT-M-R50x1', variant='pytorch'
  )
  assert found.settings['pp']['train'] == 'train'
  # Without a known size, the run computes the schedule.
  found = find('bit-hyperrule-code', './photos', 'BiT-M-R50x1')
  assert found.settings['decay_type'] == 'bit_hyperrule'


def test_variants_depend_on_recipe_and_data_set():
  def variants(*arguments):
    request = RecipeRequest(*arguments, 'ViT-B_16', variant='')
    return finetuning.RULES[request.name].variants(request)

  assert variants('augreg-paper', 'vtab/resisc45') == ('table4', 'vtab')
  assert variants('augreg-paper', 'vtab/dtd') == ('vtab',)
  assert variants('vit-paper', 'cifar10') == ('square', 'inception')
  assert variants('vit_jax-vit.py', 'cifar10') == ('',)


def test_differences_of_paper_and_code_are_in_the_table():
  known = {row['id'] for row in table.read_csv('differences')}
  tasks = [
    *(('vit', dataset, 'ViT-L_16') for dataset in (*FIVE, *VTAB)),
    *(('bit', dataset, 'BiT-M-R50x1') for dataset in (*FIVE, *VTAB)),
    ('deit', 'imagenet2012', 'DeiT-B_16'),
  ]
  for task in tasks:
    for difference in finetuning.differences(*task):
      assert difference.ids and set(difference.ids) <= known, difference
  found = finetuning.differences('vit', 'cifar10', 'ViT-B_16')
  assert {d.key: (d.paper, d.code) for d in found} == {
    'base_lrs': ((0.001, 0.003, 0.01, 0.03), (0.01,)),
    'tune': (dict(train='minitrain', test='minival'), None),
    'optim_dtype': ('float32', 'bfloat16'),
    'pp.resize': (448, None),
    'pp.inception_crop': (False, True),
    'pp.train': ('train', 'train[:98%]'),
    'model.dropout_rate': (0.1, None),
  }
  found = finetuning.differences('augreg', 'cifar100', 'ViT-B_32')
  assert 'pp.train' not in [d.key for d in found]  # one split, two names
  found = finetuning.differences('bit', 'oxford_iiit_pet', 'BiT-M-R50x1')
  drops = ((150, 300, 450), (200, 300, 400))
  assert ('decay_steps', *drops, ('pvc-52',)) in [
    (d.key, d.paper, d.code, d.ids) for d in found
  ]


def test_recipe_for_returns_the_recipe_of_a_family():
  names = {
    (family, kind): finetuning.recipe_for(family, dataset, model, kind).name
    for family, dataset, model in (
      ('vit', 'oxford_iiit_pet', 'R50+ViT-B_16'),
      ('augreg', 'cifar100', 'ViT-B_32'),
      ('bit', './photos', 'BiT-M-R50x1'),
      ('deit', 'imagenet2012', 'DeiT-B_16'),
      ('mixer', 'cifar10', 'Mixer-B_16'),
    )
    for kind in ('paper', 'code')
    if (family, kind) not in [('mixer', 'paper'), ('bit', 'paper')]
  }
  assert names == {
    ('vit', 'paper'): 'vit-paper',
    ('vit', 'code'): 'bv-transfer',
    ('augreg', 'paper'): 'augreg-paper',
    ('augreg', 'code'): 'bv-transfer',
    ('bit', 'code'): 'bit-hyperrule-code',
    ('deit', 'paper'): 'deit-paper-finetune-384',
    ('deit', 'code'): 'deit-finetune-384',
    ('mixer', 'code'): 'vit_jax-vit.py',
  }


def test_notes_name_existing_differences():
  known = {row['id'] for row in table.read_csv('differences')}
  for row in ROWS:
    for _, found in recipes_of(row):
      assert set(re.findall(r'pvc-\d+', ' '.join(found.notes))) <= known
      assert all('\n' not in note for note in found.notes)


B16 = 'ViT-B_16'


@pytest.mark.parametrize(
  ('function', 'arguments', 'options', 'message'),
  [
    ('find', ('vit', 'cifar10', B16), {}, "unknown fine-tuning recipe 'vit'"),
    ('find', ('vit-paper', 'mnist', B16), {}, "no settings .* 'mnist'; choose"),
    (
      'find',
      ('vit-paper', 'cifar10', B16),
      dict(variant='x'),
      r"no variant 'x' .* choose from \['square', 'inception'\]",
    ),
    (
      'find',
      ('augreg-paper', 'oxford_iiit_pet', B16),
      dict(steps=1000),
      r'no schedule of 1000 steps .* choose from \[500, 2500\]',
    ),
    (
      'find',
      ('bit-hyperrule-paper', './photos', 'BiT-M-R50x1'),
      {},
      "training images, which .* for './photos'; give num_examples",
    ),
    (
      'recipe_for',
      ('mixer', 'cifar10', 'Mixer-B_16'),
      {},
      "no paper recipe of 'mixer'",
    ),
    (
      'recipe_for',
      ('swin', 'cifar10', B16),
      {},
      "no recipe of kind='paper' for .*; choose kind from .* and family from",
    ),
    ('find', ('x', 'cifar10', B16), {}, 'unknown fine-tuning recipe'),
  ],
)
def test_wrong_requests_have_one_line_errors(
  function, arguments, options, message
):
  with pytest.raises(ValueError, match=message) as caught:
    getattr(finetuning, function)(*arguments, **options)
  assert '\n' not in str(caught.value)
