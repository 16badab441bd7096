"""Pre-training recipes compared with each cell of the published settings."""

import re

import pytest

from vit_jax_repro import models
from vit_jax_repro.models.variants import DROPOUT
from vit_jax_repro.paper import table
from vit_jax_repro.published import catalogue
from vit_jax_repro.recipes import pretraining
from vit_jax_repro.recipes.recipe import RecipeRequest
from vit_jax_repro.recipes.rules import AUGREG_STRENGTHS
from vit_jax_repro.runs import settings

pytestmark = pytest.mark.quick

ROWS = table.read_csv('pretraining')
IMAGES = {'JFT': 303_000_000, 'ImageNet-21k': 14_197_122, 'ImageNet': 1_281_167}
HEAD_BIASES = {'JFT': -10.0, 'ImageNet-21k': -10.0, 'ImageNet': -6.9}
BY_SOURCE = {
  'DeiT Table 9 (column ViT-B)': 'deit-paper-vit-b',
  'DeiT Table 9': 'deit-paper',
  'argparse defaults': 'deit-code',
  'B.1.2': 'vit-paper-masked',
  'vit_s16_i1k.py': 'bv-vit_s16_i1k',
  'vit_i21k.py': 'bv-vit_i21k',
  'vit_i1k.py': 'bv-vit_i1k',
  'bit_i21k.py': 'bv-bit_i21k',
  'bit_i1k.py': 'bv-bit_i1k',
}
BY_DATA = {
  ('ViT Table 3', 'JFT'): 'vit-paper-jft',
  ('ViT Table 3', 'ImageNet-21k'): 'vit-paper-i21k',
  ('ViT Table 3', 'ImageNet'): 'vit-paper-i1k',
  ('BiT', 'JFT'): 'bit-l',
  ('BiT', 'ImageNet-21k'): 'bit-m',
  ('BiT', 'ImageNet'): 'bit-s',
  ('AugReg', 'ImageNet-21k'): 'augreg-paper-i21k',
  ('AugReg', 'ImageNet'): 'augreg-paper-i1k',
}


def data_of(row):
  return next(name for name in IMAGES if row['dataset'].startswith(name))


def recipe_of(row):
  where = f'{row["table"]} {row["source"]}'
  for text, name in BY_SOURCE.items():
    if text in where:
      return name
  return next(
    name
    for (text, data), name in BY_DATA.items()
    if where.startswith(text) and data == data_of(row)
  )


def models_of(row):
  """Returns the names of a row's models; 'ViT-B/{16,32}' has two."""
  text = row['model'].split(' masked')[0].replace('/', '_')
  if recipe_of(row).startswith(('bit', 'bv-bit')):
    return ['BiT-M-R50x1']
  if recipe_of(row).startswith('deit'):
    return ['DeiT-B_16']
  if recipe_of(row).startswith(('bv', 'augreg')):
    names = ['B_16'] if 'all' in text else text.split(', ')
    return [f'ViT-{name}' for name in names]
  if 'all' in text:
    return ['ViT-B_32', 'ViT-H_14', 'R50+ViT-B_16']
  brace = re.fullmatch(r'(.*)\{(.*)\}', text)
  names = [brace[1] + end for end in brace[2].split(',')] if brace else [text]
  return [name if 'ViT' in name else f'BiT-L-{name}' for name in names]


def numbers(text):
  text = re.sub(r'\(.*?\)', '', text)
  return [float(n) for n in re.findall(r'\d+(?:\.\d+)?(?:e-\d+)?', text)]


def variants_of(row):
  """Returns the numbers of epochs of a row, each with its variant."""
  name, epochs = (
    recipe_of(row),
    [int(n) for n in re.findall(r'\d+', row['epochs'])],
  )
  if name.startswith('augreg'):
    return [(n, f'{n}ep') for n in epochs]
  return [(n, str(n) if len(epochs) > 1 else None) for n in epochs]


def recipes_of(row):
  for model in models_of(row):
    for epochs, variant in variants_of(row):
      found = pretraining.find(recipe_of(row), None, model, variant=variant)
      yield model, epochs, found


def images_of(row):
  images = IMAGES[data_of(row)]
  images -= 51_200 if '[51200:]' in row['dataset'] else 0
  in_99_percent = ':99%' in row['dataset'] or (
    recipe_of(row) == 'augreg-paper-i1k'
  )
  return round(images * 0.99) if in_99_percent else images


EACH_ROW = pytest.mark.parametrize(
  'row', ROWS, ids=[f'{recipe_of(row)}-{row["model"]}' for row in ROWS]
)


def test_rules_have_all_27_rows():
  assert len(ROWS) == 27
  assert {recipe_of(row) for row in ROWS} == set(pretraining.RULES)


@EACH_ROW
def test_settings_are_valid_for_a_run(row):
  for model, _, found in recipes_of(row):
    assert found.source and found.tune is None
    fields = found.architecture(models.variant(model))
    assert models.create(fields)
    # The user has to name private data.
    private = data_of(row) != 'ImageNet'
    assert found.dataset == ('' if private else 'imagenet2012')
    config = dict(found.settings, model=fields)
    config['dataset'] = config['dataset'] or './images'
    settings.from_config(config)


@EACH_ROW
def test_schedule_matches_the_row(row):
  for _, epochs, found in recipes_of(row):
    have = found.settings
    batch = 1024 if 'per GPU' in row['batch_size'] else int(row['batch_size'])
    assert have['batch'] == batch
    total = int(epochs * images_of(row) / batch)
    if 'masked' in found.name:  # the paper's own number
      assert have['total_steps'] == 1e6 == pytest.approx(total, rel=0.04)
    else:
      assert have['total_steps'] == total
    warmup = numbers(row['warmup_steps'])[0]
    if 'epochs' in row['warmup_steps']:
      warmup = int(warmup * images_of(row) / batch)
    assert have['warmup_steps'] == warmup
    if ' at epochs ' in row['lr_decay']:
      drops = [
        int(epoch * images_of(row) / batch)
        for epoch in numbers(row['lr_decay'])[1:]
      ]
      assert have['decay_type'] == 'steps'
      assert list(have['decay_steps']) == drops
    else:
      assert have['decay_type'] == row['lr_decay']


@EACH_ROW
def test_optimiser_and_rate_match_the_row(row):
  for _, _, found in recipes_of(row):
    have = found.settings
    text = row['base_lr'].partition(';')[0]
    rate, *rest = numbers(text)
    if rest:  # 'x batch/N'
      rate *= have['batch'] / rest[-1]
    assert found.base_lrs == (pytest.approx(rate),)
    sgd = row['optimizer'].startswith('SGD')
    assert have['optim'] == ('sgd' if sgd else 'adamw')
    if 'bfloat16' in row['optimizer']:
      assert have['optim_dtype'] == 'bfloat16'
    check_weight_decay(row, found)
    clip = numbers(row['grad_clip_norm'])
    wanted = clip[0] if clip else None
    wanted = 1.0 if row['grad_clip_norm'] == 'yes' else wanted
    assert have['grad_norm_clip'] == wanted


def check_weight_decay(row, found):
  have, cell = found.settings, row['weight_decay']
  if not cell:
    assert have['weight_decay'] is None
    return
  assert have['weight_decay_on'] == 'kernels'
  if 'independent' in row['wd_convention']:  # code: not multiplied by the rate
    assert have['weight_decay'] * have['base_lr'] == pytest.approx(float(cell))
  elif 'x batch' in cell:
    # Not multiplied here either. SGD's momentum adds an L2 term up to 10 times.
    code = numbers(cell)[0] * have['batch'] / 256
    applied = have['weight_decay'] * have['base_lr'] / (1 - 0.9)
    assert applied == pytest.approx(code)
  else:
    assert have['weight_decay'] in numbers(cell)


@EACH_ROW
def test_regularisation_matches_the_row(row):
  for model, _, found in recipes_of(row):
    have, fields = found.settings, found.model_fields
    if numbers(row['dropout']):
      assert fields.get('dropout_rate', 0) in numbers(row['dropout'])
    depth = numbers(row['stochastic_depth'])
    assert fields.get('stochastic_depth_rate', 0) in (depth or [0])
    smoothing = numbers(row['label_smoothing'])
    assert have.get('label_smoothing', 0) == (smoothing or [0])[0]
    cutmix = numbers(row['cutmix'])
    assert have.get('cutmix_alpha', 0) == (cutmix or [0])[0]
    if have.get('augreg_strength'):
      strength = AUGREG_STRENGTHS[have['augreg_strength']]
      assert strength == strengths_of(row)[model]
    else:
      assert have.get('mixup_alpha', 0) == (numbers(row['mixup']) or [0])[0]
      check_deit(row, have)


def check_deit(row, have):
  keys = ('layers', 'magnitude', 'policy')
  found = [have['pp'].get(f'randaugment_{key}') for key in keys]
  randaugment = row['randaug'] not in ('', 'none')
  assert found == ([2, 9, 'deit'] if randaugment else [None] * 3)
  erased = 'random erasing 0.25' in row['other_aug']
  assert have.get('random_erasing', 0) == (0.25 if erased else 0)
  repeated = 'repeated augmentation' in row['other_aug']
  assert have.get('repeated_augmentation', 1) == (3 if repeated else 1)


def test_augreg_strengths_equal_those_of_the_rows():
  (row,) = {r['randaug'] for r in ROWS if recipe_of(r).startswith('augreg')}
  pairs = [(int(a), int(b)) for a, b in re.findall(r'\((\d),(\d+)\)', row)]
  assert [(0, 0), *pairs] == [
    strength[:2] for strength in AUGREG_STRENGTHS.values()
  ]


def strengths_of(row):
  """Returns {model: (layers, magnitude, mixup)}; the cells name them all."""
  light1, light2, medium = (2, 0, 0), (2, 10, 0.2), (2, 15, 0.5)
  small = {'ViT-Ti_16': (0, 0, 0), 'ViT-S_32': (0, 0, 0), 'ViT-S_16': light1}
  found = {
    'bv-vit_i21k': dict.fromkeys(('ViT-B_32', 'ViT-B_16'), light2)
    | {'ViT-L_16': medium, **small},
    'bv-vit_i1k': dict.fromkeys(models.names(), medium)
    | {'ViT-Ti_16': light1, 'ViT-S_32': (2, 15, 0.2)},
    'bv-vit_s16_i1k': {'ViT-S_16': light2},
    'augreg-paper-i21k': {'ViT-B_16': (2, 15, 0.2)},  # of its released file
    'augreg-paper-i1k': {'ViT-B_16': (2, 20, 0.8)},  # of its released file
  }[recipe_of(row)]
  text = f'{row["randaug"]} {row["mixup"]}'
  for layers, magnitude, mixup in found.values():
    assert f'({layers},{magnitude})' in text or not layers
    assert str(mixup) in text
  return found


@EACH_ROW
def test_objective_and_head_match_the_row(row):
  for model, _, found in recipes_of(row):
    have, fields = found.settings, found.model_fields
    bias = {'-10': -10.0, '-6.9': -6.9}.get(row['head_bias_init'])
    if bias or (row['loss'].startswith('not') and found.name != 'bit-s'):
      assert have['loss'] == 'sigmoid'
      assert fields['head_bias_init'] == (bias or HEAD_BIASES[data_of(row)])
    elif 'softmax' in row['loss']:
      assert 'loss' not in have and 'head_bias_init' not in fields
    elif '512 colours' in row['loss']:
      assert have['objective'] == 'masked_patches'
    architecture = found.architecture(models.variant(model))
    hidden = architecture.get('hidden_size')
    tanh = 'tanh' in row['classifier'] and hidden and not bias_free(found)
    if row['classifier'] and found.name != 'augreg-paper-i1k':
      width = architecture.get('representation_size')
      assert width == (hidden if tanh else None)
    pooled = row['classifier'].startswith('GAP')
    assert fields.get('classifier', 'token') == ('gap' if pooled else 'token')
    fixed = 'sincos' in row['posemb']
    assert fields.get('position_embedding', 'learned') == (
      'sincos2d' if fixed else 'learned'
    )
    assert have['pp']['crop'] == int(row['resolution'])
    assert 'inception' not in row['crop'] or (
      have['pp'].get('inception_crop', True)
    )


def bias_free(found):
  """Returns whether the objective is colours, which have their own head."""
  return found.settings.get('objective') == 'masked_patches'


def test_find_returns_distillation_recipes_of_deit():
  def find(recipe, variant):
    return pretraining.find(
      recipe, None, 'DeiT-B_16-distilled', variant=variant
    )

  keys = ('objective', 'distillation', 'distillation_alpha', 'distillation_tau')
  found = {
    (recipe, variant): [find(recipe, variant).settings.get(k) for k in keys]
    for recipe in ('deit-paper', 'deit-code')
    for variant in ('hard', 'soft')
  }
  assert found == {  # pvc-71
    ('deit-paper', 'hard'): ['distillation', 'hard', None, None],
    ('deit-paper', 'soft'): ['distillation', 'soft', 0.1, 3.0],
    ('deit-code', 'hard'): ['distillation', 'hard', None, None],
    ('deit-code', 'soft'): ['distillation', 'soft', 0.5, 1.0],
  }
  recipe = find('deit-paper', 'hard')
  model = recipe.architecture(models.variant('DeiT-B_16-distilled'))
  config = dict(recipe.settings, model=model)
  with pytest.raises(ValueError, match='teacher is not set'):
    settings.from_config(config)
  settings.from_config(dict(config, teacher='BiT-M-R152x2.npz'))
  half = pretraining.find('deit-paper', None, 'DeiT-S_16', batch=512)
  assert half.base_lrs == (5e-4,)  # in proportion
  assert half.settings['total_steps'] == 300 * 1_281_167 // 512


def test_find_accepts_a_part_of_an_augreg_file_name():
  found = pretraining.find(
    'augreg-paper-i21k',
    './i21k',
    'ViT-L_16',
    variant='30ep-lr_0.001-aug_strong2-wd_0.03-do_0.1-sd_0.1',
    num_examples=12_800_000,
  )
  assert found.settings['total_steps'] == 30 * 12_800_000 // 4096
  assert found.settings['augreg_strength'] == 'strong2'
  assert found.settings['weight_decay'] == 0.03
  assert found.model_fields['dropout_rate'] == 0.1
  assert found.model_fields['stochastic_depth_rate'] == 0.1
  assert found.settings['pp'] == dict(train='train', test='test', crop=224)
  found = pretraining.find('augreg-paper-i1k', None, 'ViT-B_32')
  assert found.settings['augreg_strength'] == 'medium2'
  assert found.settings['pp']['train'] == 'train[:99%]'


def test_notes_name_existing_differences():
  known = {row['id'] for row in table.read_csv('differences')}
  for row in ROWS:
    for _, _, found in recipes_of(row):
      assert set(re.findall(r'pvc-\d+', ' '.join(found.notes))) <= known


def test_variants_depend_on_recipe_and_model():
  def variants(name, model):
    request = RecipeRequest(name, '', model, variant='')
    return pretraining.RULES[name].variants(request)

  assert variants('vit-paper-jft', 'ViT-L_16') == ('14', '7')
  assert variants('vit-paper-i21k', 'ViT-L_16') == ('90', '30')
  assert variants('bit-m', 'BiT-M-R50x1') == ('',)
  assert variants('augreg-paper-i1k', 'ViT-B_16') == ()


@pytest.mark.parametrize(
  ('recipe', 'dataset', 'model', 'variant', 'message'),
  [
    ('vit', None, 'ViT-B_16', None, "unknown pre-training recipe 'vit'"),
    # pvc-32: no row for it.
    ('vit-paper-i21k', None, 'ViT-H_14', None, "no row for 'ViT-H_14'; Table"),
    (
      'vit-paper-i21k',
      None,
      'ViT-L_16',
      '60',
      r"no variant '60' .* \['90', '30",
    ),
    ('bit-m', './mine', 'BiT-M-R50x1', None, 'give num_examples'),
    ('bv-vit_i1k', None, 'ViT-H_14', None, "no augmentation for 'ViT-H_14'"),
    ('augreg-paper-i21k', None, 'ViT-B_16', 'aug_mild', "choose variant='aug_"),
    ('augreg-paper-i21k', None, 'ViT-H_14', None, "choose variant='aug_NAME'"),
    ('augreg-paper-i21k', None, 'ViT-B_16', 'x_1', "not know 'x_1' in the var"),
    ('augreg-paper-i21k', None, 'ViT-B_16', 'wd_1.2.3', 'numbers of the var'),
  ],
)
def test_wrong_requests_have_one_line_errors(
  recipe, dataset, model, variant, message
):
  with pytest.raises(ValueError, match=message) as caught:
    pretraining.find(recipe, dataset, model, variant=variant)
  assert '\n' not in str(caught.value)


RECOMMENDED = {  # README of vision_transformer; B/8: big_vision/models/vit.py
  'ViT-Ti_16': ('none', 0.03, 0.0, 0.0),
  'ViT-S_32': ('none', 0.1, 0.0, 0.0),
  'ViT-S_16': ('light1', 0.03, 0.0, 0.0),
  'ViT-B_32': ('light1', 0.1, 0.0, 0.0),
  'ViT-B_16': ('medium1', 0.1, 0.0, 0.0),
  'ViT-B_8': ('medium2', 0.1, 0.0, 0.0),
  'ViT-L_16': ('strong1', 0.1, 0.0, 0.0),
  'R+ViT-Ti_16': ('none', 0.03, 0.0, 0.0),
  'R26+ViT-S_32': ('light1', 0.1, 0.0, 0.0),
  'R50+ViT-L_32': ('medium1', 0.1, 0.1, 0.1),
}


@pytest.mark.parametrize('model', RECOMMENDED)
def test_find_has_the_settings_of_the_recommended_augreg_file(model):
  """A recipe that trains with settings of a file that is not recommended."""
  found = pretraining.find('augreg-paper-i21k', None, model)
  strength, decay, dropout, depth = RECOMMENDED[model]
  assert found.settings['augreg_strength'] == strength
  assert found.settings['weight_decay'] == decay
  assert found.model_fields['dropout_rate'] == dropout
  assert found.model_fields['stochastic_depth_rate'] == depth
  name = '_'.join(re.sub(r'ViT-', '', model).split('+'))
  file = (
    f'{name}-i21k-300ep-lr_0.001-aug_{strength}-wd_{decay}-do_{dropout}'
    f'-sd_{depth}.npz'
  )
  entry = next(e for e in catalogue.table() if e.file_name == file)
  assert (entry.model, entry.num_classes) == (model, 21_843)


def test_recommended_augreg_settings_equal_those_of_the_published_rows():
  """A list of recommended files that differs from the README's table."""
  rows = table.select('README recommended AugReg checkpoints')
  parts = re.compile(r'aug_(\w+)-wd_([\d.]+)-do_([\d.]+)-sd_([\d.]+)--')
  found = [parts.search(row.checkpoint).groups() for row in rows]
  found = sorted((name, *map(float, rest)) for name, *rest in found)
  wanted = {
    key: value for key, value in RECOMMENDED.items() if key != 'ViT-B_8'
  }
  assert found == sorted(wanted.values())
  fine_tuned = {entry.path for entry in catalogue.table()}
  assert all('vit_models/' + row.checkpoint in fine_tuned for row in rows)


def test_dropout_differences_name_the_models_of_the_code():
  """A difference that leaves out a model whose code has dropout."""
  (row,) = (r for r in table.read_csv('differences') if r['id'] == 'pvc-08')
  named = row['second'].split(' and 0.0')[0].removeprefix('0.1 for ')
  assert named.split(', ') == ['L/16', 'H/14', 'R50+B/16', 'R50+L/32']
  spelt = [name.replace('ViT-', '').replace('_', '/') for name in DROPOUT]
  assert named.split(', ') == spelt


def test_deit_notes_tell_the_schedule_of_the_code():
  """A note on epochs that the original program never runs."""
  notes = ' '.join(pretraining.find('deit-code', None, 'DeiT-B_16').notes)
  assert 'changes once an epoch' in notes
  assert 'further epochs' not in notes
