"""The released fine-tuning of ViT, Mixer, AugReg and BiT, as `configs/` has it.

Each reproduces a command line of the original. The same
settings by data set and source are rows of `finetuning.find`.
"""

from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.recipes import rules

# vit_jax/configs/common.py: a part of the training images is left out.
VIT_STEPS = {'cifar10': 10_000, 'cifar100': 10_000, 'imagenet2012': 20_000}
VIT_DATASETS = {
  name: dict(
    total_steps=steps, pp=dict(train=row.train, test=row.test, crop=row.crop)
  )
  for name, steps in VIT_STEPS.items()
  for row in [catalogue.DATA_SETS[name]]
}
# vit_jax/configs/mixer_base16_cifar10.py; token mixing fixes the image size.
MIXER_CROP = 224


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


def vit_finetune(dataset: str, model_name: str) -> dict[str, Any]:
  """Returns the released fine-tuning of ViT and Mixer (vit_jax/configs).

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
  if model_name.startswith('Mixer-'):
    recipe['pp']['crop'] = MIXER_CROP
  return recipe


def augreg_finetune() -> dict[str, Any]:
  """Returns AugReg's released fine-tuning (vit_jax/configs/augreg.py)."""
  recipe = vit_finetune('', '')
  recipe.update(
    base_lr=0.03,
    total_steps=500,
    warmup_steps=100,
    pp=dict(train='train', test='test', crop=384),
  )
  return recipe


def bit_finetune(dataset: str) -> dict[str, Any]:
  """Returns the BiT-HyperRule; values that depend on the set's size are None.

  `jobs.train` fills in steps, boundaries, warm-up and mixup from the number
  of training images. Images of an unlisted data set are taken to be large.
  """
  # big_transfer's TF2 and JAX pipelines train on 98 % of CIFAR and 99 % of
  # ImageNet too.
  resize, crop = rules.resolution(*rules.image_size(dataset))
  preset = VIT_DATASETS.get(dataset, {}).get('pp', {})
  return dict(
    _FINETUNE,
    dataset=dataset,
    grad_norm_clip=None,
    optim_dtype='float32',
    base_lr=rules.BASE_LR,
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
