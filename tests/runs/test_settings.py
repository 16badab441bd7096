"""Settings: defaults, checks, and the use of every key."""

import ast
import dataclasses
import pathlib

import pytest

from vit_jax_repro import recipes
from vit_jax_repro.runs import configuration, settings

pytestmark = pytest.mark.quick

PACKAGE = pathlib.Path(settings.__file__).parent
GOOD = dict(
  dataset='digits',
  model={'model': 'vit'},
  base_lr=0.1,
  total_steps=10,
  pp=dict(train='train', test='test', crop=8),
)
DISTILLED = {'objective': 'distillation', 'teacher': 'teacher.npz'}


def test_from_config_fills_in_defaults():
  read = settings.from_config(GOOD)
  assert read.batch == 512 and read.optim == 'sgd' and read.pp.flip


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'bas_lr': 1}, "unknown key config.bas_lr; did you mean 'base_lr' or"),
    ({'pp': {'cropp': 1}}, "unknown key config.pp.cropp; did you mean 'crop'"),
    ({'pp': {'crop': 8}}, r"config.pp lacks the keys \['test', 'train'\]"),
    ({'batch': 0}, 'config.batch=0 must be a whole number of at least 1'),
    ({'keep_checkpoints': 0}, 'config.keep_checkpoints=0 must .* least 1'),
    ({'keep_best': 'yes'}, "config.keep_best='yes' must be True or False"),
    (
      {'keep_best': True, 'eval_every': 3, 'checkpoint_every': 8},
      'set eval_every=3 to a divisor of checkpoint_every=8',
    ),
    (
      {'keep_best': True, 'eval_every': 0},
      'set eval_every=0 to a divisor of checkpoint_every=1000',
    ),
    ({'seed': -1}, 'config.seed=-1 must be a whole number of at least 0'),
    ({'base_lr': float('nan')}, 'config.base_lr=nan must be a number of at'),
    ({'grad_norm_clip': -1}, 'config.grad_norm_clip=-1 must be a number of'),
    ({'seed': 2**63}, 'config.seed=9223372036854775808 must be a whole'),
    ({'optim': 'adam'}, "config.optim='adam' is unknown; choose from"),
    ({'decay_type': 'cos'}, "config.decay_type='cos' is unknown; choose from"),
    ({'label_smoothing': 1}, 'config.label_smoothing=1 must .* and below 1'),
    ({'random_erasing': 1.5}, 'random_erasing=1.5 must .* 0 and at most 1'),
    ({'random_erasing': 'x'}, "config.random_erasing='x' must be a number"),
    (
      {'pp': GOOD['pp'] | {'flip': 'no'}},
      "config.pp.flip='no' must be True or False",
    ),
    ({'cutmix_alpha': -1}, 'config.cutmix_alpha=-1 must be a number of at'),
    ({'transfer_dtype': 'int8'}, "config.transfer_dtype='int8' is unknown"),
    (
      {'grad_reduce_dtype': 'float16'},
      "config.grad_reduce_dtype='float16' is unknown",
    ),
    ({'augreg_strength': 'hard'}, "config.augreg_strength='hard' is unknown"),
    (
      {'augreg_strength': 'light2', 'mixup_alpha': 0.1},
      "config.augreg_strength='light2' sets RandAugment and mixup; leave",
    ),
    ({'loss': 'hinge'}, "config.loss='hinge' is unknown; choose from"),
    ({'polyak_decay': 1}, 'config.polyak_decay=1 must .* and below 1'),
    ({'distillation_alpha': 1.1}, 'distillation_alpha=1.1 must .* at most 1'),
    ({'repeated_augmentation': 0}, 'repeated_augmentation=0 must be a whole'),
    ({'head': 'drop'}, "config.head='drop' is unknown; choose from"),
    (
      {'head': 'keep'},
      "config.head='keep' needs a pretrained_dir; set that",
    ),
    (
      {'shrink': 0.0},
      'config.shrink=0.0 needs a pretrained_dir; set that',
    ),
    (
      {'perturb': 0.1, 'pretrained_dir': ''},
      'config.perturb=0.1 needs a pretrained_dir; set that',
    ),
    ({'decay_type': 'steps'}, 'config.decay_steps is not set; decay_type='),
    (
      {'decay_steps': [3]},
      r"decay_steps=\[3\] needs decay_type='steps'; set that",
    ),
    (
      {'decay_type': 'steps', 'decay_steps': (4, 4)},
      r'config.decay_steps=\[4, 4\] must be whole numbers in rising order',
    ),
    (
      {'decay_type': 'steps', 'decay_steps': (4, 10)},
      r'decay_steps=\[4, 10\] must be .* and below total_steps=10',
    ),
    ({'decay_steps': 5}, 'config.decay_steps=5 must be whole numbers'),
    (
      {'objective': 'guess'},
      "config.objective='guess' is unknown; choose from",
    ),
    ({'objective': 'distillation'}, 'config.teacher is not set; objective='),
    ({'teacher': 'x.npz'}, "teacher='x.npz' needs objective='distillation'"),
    (
      {'distillation': 'soft'},
      "'soft' needs objective='distillation'; set",
    ),
    (
      DISTILLED | {'distillation_tau': 3},
      "config.distillation_tau=3 needs distillation='soft'; set that",
    ),
    (
      DISTILLED | {'distillation': 'soft', 'distillation_tau': 0},
      'config.distillation_tau=0 must be above 0',
    ),
    (
      {'layer_decay': 0},
      'config.layer_decay=0 must be above 0; leave it out for one',
    ),
    (
      DISTILLED | {'loss': 'sigmoid'},
      "loss='sigmoid' has no place in objective='distillation'; leave it out",
    ),
    (
      {'objective': 'masked_patches', 'mixup_alpha': 0.2},
      "mixup_alpha=0.2 has no place in objective='masked_patches'; leave it",
    ),
    (
      dict(
        objective='masked_patches',
        mixup_alpha=None,
        decay_type='bit_hyperrule',
      ),
      "config.mixup_alpha=None has no place in objective='masked_patches'",
    ),
    ({'dataset': ''}, "config.dataset='' must be 'digits'"),
    ({'pp': 3}, 'config.pp=3 must be a group of settings'),
    ({'model': 3}, 'config.model=3 must be a group of settings'),
    ({'mesh': 3}, 'config.mesh=3 must be a group of settings'),
    ({'mesh': {'data': 0}}, 'config.mesh.data=0 must be a whole number of at'),
    ({'mesh': {'fsdp': None}}, 'config.mesh.fsdp=None must be a whole number'),
    ({'mesh': {'rows': 1}}, "config.mesh has 'rows'; its axes are data, fsdp"),
    ({'total_steps': 'abc'}, "config.total_steps='abc' must be a whole number"),
    ({'total_steps': 6.5}, 'config.total_steps=6.5 must be a whole number'),
    ({'total_steps': True}, 'config.total_steps=True must be a whole number'),
    ({'warmup_steps': 'x'}, "config.warmup_steps='x' must be a whole number"),
    ({'base_lr': None}, 'config.base_lr=None must be a number'),
    ({'pretrained_dir': 5}, 'config.pretrained_dir=5 must be a text'),
    ({'pp': GOOD['pp'] | {'test': 5}}, 'config.pp.test=5 must be a text'),
    ({'pp': GOOD['pp'] | {'shift': 0.5}}, 'pp.shift=0.5 must be a whole'),
    ({'total_steps': None}, 'config.total_steps is not known'),
    ({'total_steps': 0}, 'config.total_steps=0 must be at least 1'),
    (
      {'total_steps': 20, 'warmup_steps': 500},
      'warmup_steps=500 must .* below config.total_steps=20; set '
      '--config.warmup_steps=2, a tenth of the steps',
    ),
    ({'warmup_steps': -1}, 'config.warmup_steps=-1 must be at least 0'),
    (
      {'pp': GOOD['pp'] | {'randaugment_magnitude': 15}},
      'randaugment_magnitude=15 needs config.pp.randaugment_layers above 0',
    ),
    (
      {'pp': GOOD['pp'] | {'randaugment_policy': 'deit'}},
      "randaugment_policy='deit' needs config.pp.randaugment_layers above 0",
    ),
    (
      {'batch': 1, 'mixup_alpha': 0.2},
      'mixup_alpha=0.2 would mix each image with itself: config.batch=1',
    ),
    ({'batch': 1, 'cutmix_alpha': 1.0}, 'cutmix_alpha=1.0 would mix each'),
    (
      {'pp': dict(train='train', test='test', crop=None)},
      "config.pp.crop is not known for 'digits'; set it, in pixels",
    ),
  ],
)
def test_from_config_refuses_wrong_settings_in_one_line(change, says):
  with pytest.raises(ValueError, match=says) as error:
    settings.from_config(GOOD | change)
  assert '\n' not in str(error.value)


def outside(field):
  """Yields values that a field's bounds and choices exclude."""
  rules = field.metadata
  if rules['least'] is not None:
    yield rules['least'] - 1
  if rules['below'] is not None:
    yield rules['below']
  if rules['most'] is not None:
    yield rules['most'] + 1
  if rules['choices']:
    yield 'none of the choices'


OUTSIDE = [
  (field.name, value)
  for field in dataclasses.fields(settings.Settings)
  for value in outside(field)
]


@pytest.mark.parametrize(('name', 'value'), OUTSIDE)
def test_from_config_enforces_declared_bounds_and_choices(name, value):
  with pytest.raises(ValueError, match=rf'config\.{name}={value!r} '):
    settings.from_config(GOOD | {name: value})


def test_conditions_of_fields_name_existing_settings():
  fields = {
    field.name: field for field in dataclasses.fields(settings.Settings)
  }
  for field in fields.values():
    other, value = field.metadata['needs'] or ('objective', None)
    choices = fields[other].metadata['choices']
    assert value is None or value in choices
    objectives = set(fields['objective'].metadata['choices'])
    assert set(field.metadata['unused_by']) <= objectives


@pytest.mark.parametrize('name', ['train', 'test'])
def test_from_config_refuses_a_third_split_that_is_another(name):
  pp = GOOD['pp'] | {'validation': GOOD['pp'][name]}
  with pytest.raises(ValueError, match=f'is config.pp.{name}, too'):
    settings.from_config(GOOD | {'pp': pp})


def test_from_config_names_missing_keys():
  with pytest.raises(ValueError, match=r"config lacks the keys \['base_lr'"):
    settings.from_config({'dataset': 'digits', 'model': {}, 'pp': GOOD['pp']})


def test_every_key_is_read_by_the_training_job():
  """The training job reads each key as an attribute of `settings` or `pp`.

  data/augment.py reads the settings of an image as attributes of `wanted`.
  """
  read = {
    ('settings', 'augreg_strength'),  # read by settings.py
    ('settings', 'question'),  # read by reproduction/card.py
    ('settings', 'hypothesis'),
  }
  for name in (
    'optimization.py',
    'pretrained.py',
    'tasks.py',
    'train.py',
    'input.py',
    'batch_sizes.py',
    'update.py',
    '../data/augment.py',
  ):
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
      if isinstance(node, ast.Attribute):
        owner = ast.unparse(node.value).split('.')[-1]
        read.add(('pp' if owner == 'wanted' else owner, node.attr))
  for cls, owner in (
    (settings.Settings, 'settings'),
    (settings.Preprocessing, 'pp'),
  ):
    for field in dataclasses.fields(cls):
      assert (owner, field.name) in read, field.name


@pytest.mark.parametrize(
  'change',
  [
    DISTILLED | {'distillation': 'soft', 'distillation_tau': 3.0},
    DISTILLED | {'mixup_alpha': 0.8, 'label_smoothing': 0.1},
    {'objective': 'masked_patches'},
    {'keep_best': True, 'eval_every': 4, 'checkpoint_every': 8},
    {'keep_best': True, 'eval_every': 0, 'checkpoint_every': 0},
    {'decay_type': 'steps', 'decay_steps': (3, 6)},
    {'pretrained_dir': '.', 'head': 'keep', 'shrink': 0.4, 'perturb': 0.01},
    {'teacher': '', 'weight_decay': 1e-4, 'weight_decay_on': 'kernels'},
  ],
)
def test_from_config_takes_compatible_settings(change):
  read = settings.from_config(GOOD | change)
  for name, value in settings.to_plain(change).items():
    assert getattr(read, name) == value


def test_augreg_strength_sets_randaugment_and_mixup():
  read = settings.from_config(GOOD | {'augreg_strength': 'medium2'})
  pp = read.pp
  found = pp.randaugment_layers, pp.randaugment_magnitude, read.mixup_alpha
  assert found == (2, 15, 0.5)
  assert not settings.from_config(GOOD).pp.randaugment_layers
  none = settings.from_config(GOOD | {'augreg_strength': 'none'})
  assert not none.pp.randaugment_layers and not none.mixup_alpha


def test_configuration_create_has_every_key():
  config = configuration.create(recipes.QUICKSTART, recipes.QUICKSTART_MODEL)
  names = {field.name for field in dataclasses.fields(settings.Settings)}
  assert set(config) == names
  assert config.is_locked
  config.total_steps = 3  # as flags do
  config.warmup_steps = 1
  config.pp.resize = 16
  config.model.dtype = 'bfloat16'
  config.decay_steps = (1, 2)
  config.decay_type = 'steps'
  with pytest.raises(AttributeError, match='does not exist'):
    config.bas_lr = 3
  read = settings.from_config(config)
  assert (read.total_steps, read.pp.resize) == (3, 16)
  assert read.decay_steps == [1, 2]
