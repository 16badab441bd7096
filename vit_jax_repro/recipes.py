"""The papers' training settings as pure functions and tables.

A recipe is a plain dict of the settings that `jobs.train` takes (see
`settings.Settings`); files in `configs/` turn recipes into configurations.
"""

from typing import Any

from vit_jax_repro.data import catalogue

# BiT-HyperRule: bit_hyperrule.py of google-research/big_transfer; BiT paper
# (arXiv:1912.11370), section 3.3, which has decay points at 30, 60 and 90 %
# of the steps where the code's small tasks use 40, 60 and 80 %.
BIT_BASE_LR = 0.003
BIT_SMALL, BIT_LARGE = 20_000, 500_000  # training examples
BIT_MIXUP_ALPHA = 0.1

# Height and width by which the HyperRule knows these data sets.
BIT_IMAGE_SIZES = {
  'cifar10': (32, 32),
  'cifar100': (32, 32),
  'oxford_iiit_pet': (224, 224),
  'oxford_flowers102': (224, 224),
  'imagenet2012': (224, 224),
}

# vit_jax/configs/common.py: a part of the training images is left out.
VIT_STEPS = {'cifar10': 10_000, 'cifar100': 10_000, 'imagenet2012': 20_000}
VIT_DATASETS = {
  name: dict(
    total_steps=steps, pp=dict(train=row.train, test=row.test, crop=row.crop)
  )
  for name, steps in VIT_STEPS.items()
  for row in [catalogue.DATA_SETS[name]]
}


# What the released fine-tuning of ViT and of BiT have in common.
_FINETUNE = dict(
  pretrained_dir='.',
  total_steps=None,
  optim='sgd',
  accum_steps=8,
  batch=512,
  batch_eval=512,
  shuffle_buffer=50_000,
)


def bit_resolution(height: int, width: int) -> tuple[int, int]:
  """(size to resize to, size to crop) in pixels, for images of this size."""
  return (160, 128) if height * width < 96 * 96 else (512, 480)


def bit_schedule(num_examples: int) -> tuple[int, tuple[int, ...], int]:
  """(warm-up steps, steps after which the rate drops, total steps)."""
  if num_examples < BIT_SMALL:
    return 100, (200, 300, 400), 500
  if num_examples < BIT_LARGE:
    return 500, (3000, 6000, 9000), 10_000
  return 500, (6000, 12_000, 18_000), 20_000


def bit_mixup_alpha(num_examples: int) -> float:
  """The parameter of the mixup weight's Beta distribution; 0: no mixup."""
  return 0.0 if num_examples < BIT_SMALL else BIT_MIXUP_ALPHA


def vit_finetune(dataset: str, model_name: str) -> dict[str, Any]:
  """Fine-tuning of ViT and Mixer files as released (vit_jax/configs).

  Args:
    dataset: a key of `VIT_DATASETS` has its preset; any other name needs
      steps, splits and crop to be set.
    model_name: in the published spelling.
  """
  recipe = dict(
    _FINETUNE,
    dataset=dataset,
    grad_norm_clip=1.0,
    optim_dtype='bfloat16',
    base_lr=0.03,
    decay_type='cosine',
    warmup_steps=500,
    pp=dict(train='train', test='test', crop=None),
  )
  preset = VIT_DATASETS.get(dataset, {})
  recipe.update(preset, pp=dict(recipe['pp'], **preset.get('pp', {})))
  if (model_name, dataset) == ('ViT-B_16', 'cifar10'):
    recipe['base_lr'] = 0.01  # vit_jax/configs/vit.py
  return recipe


def augreg_finetune() -> dict[str, Any]:
  """Fine-tuning of AugReg files as released (vit_jax/configs/augreg.py)."""
  recipe = vit_finetune('', '')
  recipe.update(
    base_lr=0.03,
    total_steps=500,
    warmup_steps=100,
    pp=dict(train='train', test='test', crop=384),
  )
  return recipe


# AugReg (arXiv:2106.10270), section 3.4, by the names that its released files
# carry: (RandAugment's layers, its magnitude, mixup's alpha), as spelled out
# in big_vision/configs/vit_i21k.py.
AUGREG_STRENGTHS = {
  'none': (0, 0, 0.0),
  'light1': (2, 0, 0.0),  # not nothing: see data/randaugment.py
  'light2': (2, 10, 0.2),
  'medium1': (2, 15, 0.2),
  'medium2': (2, 15, 0.5),
  'strong1': (2, 20, 0.5),
  'strong2': (2, 20, 0.8),
}


def augreg_strength(name: str) -> dict[str, Any]:
  """AugReg's augmentation: dict(layers, magnitude, mixup_alpha).

  Layers 0 and alpha 0.0 mean none.

  Raises:
    ValueError: a name that is not in `AUGREG_STRENGTHS`.
  """
  if name not in AUGREG_STRENGTHS:
    raise ValueError(
      f'unknown augmentation strength {name!r}; choose from '
      f'{list(AUGREG_STRENGTHS)}'
    )
  layers, magnitude, mixup_alpha = AUGREG_STRENGTHS[name]
  return dict(layers=layers, magnitude=magnitude, mixup_alpha=mixup_alpha)


def bit_finetune(dataset: str) -> dict[str, Any]:
  """BiT-HyperRule: what it leaves to the size of the set is left None.

  `jobs.train` fills in steps, boundaries, warm-up and mixup from the number
  of training images. Images of an unlisted data set are taken to be large.
  """
  # big_transfer's TF2 and JAX pipelines train on 98 % of CIFAR and 99 % of
  # ImageNet too.
  resize, crop = bit_resolution(*BIT_IMAGE_SIZES.get(dataset, (224, 224)))
  preset = VIT_DATASETS.get(dataset, {}).get('pp', {})
  return dict(
    _FINETUNE,
    dataset=dataset,
    grad_norm_clip=None,
    optim_dtype='float32',
    base_lr=BIT_BASE_LR,
    decay_type='bit_hyperrule',
    warmup_steps=None,
    mixup_alpha=None,
    preprocessing='bit',
    pp=dict(
      train=preset.get('train', 'train'),
      test=preset.get('test', 'test'),
      crop=crop,
      resize=resize,
      inception_crop=False,
    ),
  )


# A ViT small enough to learn the 8x8-pixel digits on a CPU in minutes.
QUICKSTART_MODEL = dict(
  model='vit',
  patch_size=(2, 2),
  hidden_size=64,
  transformer=dict(
    num_layers=4,
    mlp_dim=128,
    num_heads=4,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
  ),
  classifier='token',
)
QUICKSTART = dict(
  dataset='digits',
  base_lr=3e-3,
  total_steps=2400,
  warmup_steps=100,
  optim='adamw',
  weight_decay=0.5,
  weight_decay_on='kernels',
  batch=64,
  batch_eval=360,
  shuffle_buffer=2000,
  eval_every=200,
  progress_every=20,
  checkpoint_every=400,
  pp=dict(
    train='train',
    test='test',
    crop=8,
    inception_crop=False,
    flip=False,
    shift=1,
  ),
)

# Fine-tuning on 25 images of five new classes.
QUICKSTART_FEW = dict(
  dataset='digits/5-9',
  total_steps=300,
  warmup_steps=30,
  batch=25,
  eval_every=0,
  checkpoint_every=0,
)
