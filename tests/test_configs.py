"""Tests every configuration file with the arguments in its docstring."""

import importlib.util
import pathlib

import pytest

from vit_jax_repro import models
from vit_jax_repro.runs import settings

pytestmark = pytest.mark.quick

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'


def load(name, *arguments):
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*arguments)


@pytest.mark.parametrize(
  ('name', 'argument'),
  [
    *(('vit', f'{m},cifar10') for m in ('b16', 'l32', 'h14', 'r50_b16')),
    *(('vit', f'{m},imagenet2012') for m in ('ViT-B_16', 'mixer_b16')),
    ('vit', 'b16_gap_norep,cifar100'),
    ('bit', 'BiT-M-R50x1,cifar10'),
    ('bit', 'BiT-M-R152x4,imagenet2012'),
    ('bit', 'BiT-S-R101x1,oxford_iiit_pet'),
    ('quickstart', 'digits'),
    ('paper', 'vit-paper,b16,vtab/dtd,variant=inception'),
    ('paper', 'bit-hyperrule-paper,BiT-M-R50x1,./mine,num_examples=900'),
    ('paper', 'deit-finetune-384,DeiT-B_16-distilled,imagenet2012'),
    ('pretrain', 'vit-paper-i1k,h14'),
    ('pretrain', 'vit-paper-masked,b16,./mine,num_examples=1000000'),
    ('pretrain', 'bit-m,BiT-M-R50x1,./mine,num_examples=12800000'),
    ('pretrain', 'deit-paper,DeiT-Ti_16'),
  ],
)
def test_get_config_gives_complete_settings(name, argument):
  config = load(name, argument)
  settings.from_config(config)
  assert models.create(config.model.to_dict(), num_classes=3)


def test_get_config_loads_without_an_argument():
  for path in CONFIGS.glob('*.py'):
    assert load(path.stem).is_locked


def test_vit_has_the_original_values():
  config = load('vit', 'b16,cifar10')
  original = dict(
    pretrained_dir='.',
    dataset='cifar10',
    tfds_data_dir=None,
    tfds_manual_dir=None,
    total_steps=10_000,
    grad_norm_clip=1.0,
    optim_dtype='bfloat16',
    accum_steps=8,
    batch=512,
    batch_eval=512,
    shuffle_buffer=50_000,
    eval_every=100,
    progress_every=10,
    checkpoint_every=1000,
    prefetch=2,
    base_lr=0.01,
    decay_type='cosine',
    warmup_steps=500,
    model_or_filename=None,
  )
  assert {key: config[key] for key in original} == original
  pp = dict(train='train[:98%]', test='test', crop=384)
  assert {key: config.pp[key] for key in pp} == pp
  assert load('vit', 'l16,cifar10').base_lr == 0.03
  assert load('vit', 'l16,cifar10').model.transformer.dropout_rate == 0.1


@pytest.mark.parametrize(
  'argument',
  ['R_Ti_16', 'L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0'],
)
def test_augreg_requires_a_data_set(argument):
  config = load('augreg', argument)
  assert config.model_or_filename == argument
  assert config.model.transformer.dropout_rate == 0.0
  assert (config.total_steps, config.warmup_steps) == (500, 100)
  with pytest.raises(ValueError, match=r"config.dataset='' must be"):
    settings.from_config(config)
  config.dataset = 'oxford_iiit_pet'
  config.base_lr = 0.01
  settings.from_config(config)


def test_bit_leaves_steps_to_the_hyperrule():
  config = load('bit', 'BiT-M-R50x1,cifar10')
  assert (config.pp.resize, config.pp.crop) == (160, 128)
  assert config.total_steps is None and config.mixup_alpha is None
  assert not config.pp.inception_crop and config.preprocessing == 'bit'


def test_paper_takes_settings_from_its_recipe():
  config = load('paper', 'vit-paper,b16,imagenet2012')
  assert (config.base_lr, config.pretrained_dir) == (0.03, '.')
  assert config.model.transformer.dropout_rate == 0.1
  assert (config.pp.resize, config.eval_every) == (448, 0)
  file = 'R50_L_32-i21k-300ep-lr_0.001-aug_medium2-wd_0.1-do_0.0-sd_0.0'
  config = load('paper', f'augreg-paper,{file},cifar100,steps=10000')
  assert config.model_or_filename == file
  assert config.model.model_name == 'R50+ViT-L_32'
  assert config.model.transformer.dropout_rate == 0.0
  assert config.total_steps == 10_000


def test_pretrain_requires_a_data_set():
  config = load('pretrain', 'vit-paper-i21k,b16')
  assert config.pretrained_dir is None and config.loss == 'sigmoid'
  assert config.model.head_bias_init == -10.0
  assert config.model.representation_size == 768
  with pytest.raises(ValueError, match=r"config.dataset='' must be"):
    settings.from_config(config)
  config.dataset = './i21k'
  settings.from_config(config)


@pytest.mark.parametrize(
  ('name', 'argument', 'says'),
  [
    ('vit', 'b17,cifar10', "unknown model 'b17'"),
    ('augreg', 'X_16', "unknown model 'X_16'"),
    ('quickstart', 'mnist', "unknown quickstart 'mnist'; choose"),
    ('paper', 'vit-paper,b16', 'must be RECIPE,MODEL,DATASET'),
    ('pretrain', 'vit-paper,b16', "unknown pre-training recipe 'vit-paper'"),
  ],
)
def test_get_config_refuses_wrong_arguments(name, argument, says):
  with pytest.raises(ValueError, match=says):
    load(name, argument)
