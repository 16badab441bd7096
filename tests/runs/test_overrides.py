"""Tests the flags --config.KEY=VALUE, on the quickstart and other models."""

import functools
import re

import pytest

from vit_jax_repro import models, recipes, studies
from vit_jax_repro.runs import configuration, overrides, settings

pytestmark = pytest.mark.quick


def quickstart():
  return configuration.create(recipes.QUICKSTART, recipes.QUICKSTART_MODEL)


def changed(*changes, config=None):
  pairs = [tuple(change.split('=', 1)) for change in changes]
  return overrides.apply(config or quickstart(), pairs)


def at(config, key):
  return functools.reduce(lambda section, name: section[name], key, config)


@pytest.mark.parametrize(
  'change, value',
  [
    ('batch=8', 8),
    ('total_steps=1e4', 10_000),
    ('base_lr=1', 1.0),
    ('optim=sgd', 'sgd'),
    ('keep_best=true', True),
    ('keep_best=0', False),
    ('pp.flip=True', True),
    ('pp.crop=24', 24),
    ('pp.crop=24x16', (24, 16)),
    ('pp.resize=None', None),
    ('mesh.fsdp=2', 2),
    ('decay_steps=(2,3)', (2, 3)),
    ('decay_steps=2,3', (2, 3)),
    ('decay_steps=[]', ()),
    ('model.patch_size=4,4', (4, 4)),
    ('model.dtype=bfloat16', 'bfloat16'),
    ('model.gelu=erf', 'erf'),
    ('model.transformer.dropout_rate=0.1', 0.1),
    ('model.stochastic_depth_rate=0.1', 0.1),
    ('model.stem_num_layers=1,1', (1, 1)),
    # None, for settings that may be None.
    ('tfds_data_dir=None', None),
    ('pretrained_dir=None', None),
    ('optim_dtype=None', None),
    ('grad_norm_clip=None', None),
    ('grad_norm_clip=', None),
    ('mesh.data=None', None),
    ('model.gelu=None', None),
    ('model.representation_size=None', None),
  ],
)
def test_apply_sets_a_value_of_the_type_of_its_key(change, value):
  """Values that keep the type of their text or of the value before."""
  found = at(changed(change), change.partition('=')[0].split('.'))
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  'change, field, value',
  [
    ('model.dropout_rate=0.1', 'dropout_rate', 0.1),
    ('model.num_layers=2', 'num_layers', 2),
    ('model.transformer.stochastic_depth_rate=0.2', None, 0.2),
    ('model.transformer.hidden_size=32', 'hidden_size', 32),
    ('model.resnet.num_layers=(1,1)', 'stem_num_layers', (1, 1)),
    ('model.patches.size=(4,4)', 'patch_size', (4, 4)),
  ],
)
def test_apply_sets_a_field_of_the_model_in_any_group(change, field, value):
  """Fields that only the group of the configuration file would take."""
  config = changed(change)
  field = field or change.partition('=')[0].rpartition('.')[2]
  model = models.create(config.model.to_dict(), num_classes=10)
  assert getattr(model, field) == value
  settings.from_config(config)


def test_apply_sets_the_stem_of_a_hybrid():
  """A stem that its group `resnet` sets back."""
  hybrid = configuration.create(
    recipes.vit_finetune('cifar10', 'R50+ViT-B_16'), 'R50+ViT-B_16'
  )
  config = changed('model.stem_num_layers=1,1,1', config=hybrid)
  model = models.create(config.model.to_dict(), num_classes=10)
  assert model.stem_num_layers == (1, 1, 1)


def test_every_field_of_every_class_may_be_set():
  """Fields that a change of the classes leaves out."""
  for name in ('ViT-B_16', 'Mixer-B_16', 'BiT-M-R50x1', 'R50+ViT-B_16'):
    config = configuration.create(recipes.QUICKSTART, name)
    module = models.create(name)
    for field in type(module).__annotations__:
      if field not in ('num_classes', 'parent', 'name'):
        value = getattr(module, field)
        text = ','.join(map(str, value)) if type(value) is tuple else value
        text = 'float32' if field.endswith('dtype') else text
        overrides.apply(config, [(f'model.{field}', str(text))])
    again = models.create(config.model.to_dict(), num_classes=10)
    assert again.clone(**{k: getattr(module, k) for k in ('num_classes',)}) == (
      module.clone(dtype=again.dtype, param_dtype=again.param_dtype)
    )


def test_apply_joins_the_parts_of_a_list():
  """Repeated flags of which only the last counts."""
  assert changed('decay_steps=2', 'decay_steps=3,4').decay_steps == (2, 3, 4)
  assert changed('batch=2', 'batch=3').batch == 3


@pytest.mark.parametrize(
  'change, says',
  [
    ('batch=None', 'config.batch=None must be a whole number; leave it out'),
    ('batch=2.5', 'config.batch=2.5 must be a whole number'),
    ('batch=inf', 'config.batch=inf must be a whole number'),
    ('dataset=None', 'config.dataset=None must be a text; leave it out'),
    ('base_lr=high', 'config.base_lr=high must be a number'),
    ('keep_best=maybe', 'config.keep_best=maybe must be True or False'),
    (
      'decay_steps=a',
      'must be whole numbers, such as --config.decay_steps=2,3',
    ),
    ('decay_steps=1.5', 'config.decay_steps=1.5 must be whole numbers'),
    ('model.patch_size=4', 'must be 2 whole numbers, such as --config.model.p'),
    ('model.remat=2', 'config.model.remat=2 must be True or False'),
    ('pp.crop=(224,224)', '--config.pp.crop=224 or --config.pp.crop=224x224'),
    ('pp.crop=8,8', 'pixels, S or HEIGHTxWIDTH: --config.pp.crop=8 or '),
    ('pp.resize=large', '--config.pp.resize=224 or --config.pp.resize=224x384'),
    ('pp=3', 'config.pp is a group; set one of pp.crop, '),
    ('model.transformer=3', 'config.model.transformer is a group; set one of '),
    ('model.num_classes=3', 'the data set decides the classes; leave it out'),
    ('bas_lr=3', 'unknown key config.bas_lr; did you mean config.base_lr'),
    ('model.hiden_size=3', 'did you mean config.model.hidden_size'),
    ('crop=3', 'unknown key config.crop; did you mean config.pp.crop? '),
    ('dropout_rate=0', 'did you mean config.model.transformer.dropout_rate?'),
    ('lr=3', 'unknown key config.lr; did you mean config.base_lr? '),
    ('accumulation_steps=3', 'did you mean config.accum_steps?'),
    ('log_eval_steps=3', 'did you mean config.eval_every?'),
    ('zzz=3', 'unknown key config.zzz; main --help_config lists all keys'),
    ('trainer=inference_time', 'vit_jax_repro.benchmark infer measures'),
    ('model_type=Mixer', 'config.model_type=Mixer and config.model.model=vit'),
  ],
)
def test_apply_refuses_in_one_line(change, says):
  """Values that would be taken for another type, and keys without effect."""
  with pytest.raises(ValueError, match=re.escape(says)) as error:
    changed(change)
  assert '\n' not in str(error.value)


def test_apply_takes_what_is_true_of_every_run():
  """Keys of the original that the run would refuse afterwards."""
  config = changed('trainer=train', 'model_type=ViT', 'accum_steps=0')
  assert 'trainer' not in config and 'model_type' not in config
  assert settings.from_config(config).accum_steps == 1
  mixer = configuration.create(
    recipes.vit_finetune('cifar10', 'Mixer-B_16'), 'Mixer-B_16'
  )
  changed('model_type=Mixer', config=mixer)


def test_apply_changes_a_stage_of_a_study():
  """Stages whose keys are not typed as those of a run."""
  study = studies.config('pooling', 'short')
  config = changed(
    'study.seeds=(3,)',
    'study.stages.train.grad_norm_clip=None',
    'study.stages.train.model.dropout_rate=0.1',
    config=study,
  )
  assert config.study.seeds == (3,)
  assert config.study.stages.train.grad_norm_clip is None
  assert config.study.stages.train.model.transformer.dropout_rate == 0.1


@pytest.mark.parametrize(
  'change, says',
  [
    ('batch=3', 'unknown key config.batch of a study'),
    ('study.seds=3', "did you mean 'seeds' or"),
    ('study.stages.train.batc=3', 'config.study.stages.train.batch'),
    ('study.stages=3', 'config.study.stages is a group; set stages.train'),
  ],
)
def test_apply_refuses_other_keys_of_a_study(change, says):
  """Keys of a run that a study would ignore."""
  with pytest.raises(ValueError, match=re.escape(says)):
    changed(change, config=studies.config('pooling', 'short'))
