"""The released fine-tuning settings of ViT, Mixer, AugReg and BiT.

Each function reproduces a command line of the original code; the files in
`configs/` use them. `finetuning.find` has the same settings by source and data
set.
"""

from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.recipes import rules

# vit_jax/configs/common.py, which does not train on all of the training images.
VIT_STEPS = {'cifar10': 10_000, 'cifar100': 10_000, 'imagenet2012': 20_000}
VIT_DATASETS: dict[str, dict[str, Any]] = {
  name: dict(
    total_steps=steps, pp=dict(train=row.train, test=row.test, crop=row.crop)
  )
  for name, steps in VIT_STEPS.items()
  for row in [catalogue.DATA_SETS[name]]
}
# vit_jax/configs/mixer_base16_cifar10.py. A Mixer works at one image size only.
MIXER_CROP = 224


# Shared by the released fine-tuning of ViT and of BiT.
_FINETUNE: dict[str, Any] = dict(
  pretrained_dir='.',
  total_steps=None,
  optim='sgd',
  accum_steps=8,
  batch=512,
  batch_eval=512,
  shuffle_buffer=50_000,
)


def vit_finetune(dataset: str, model_name: str) -> dict[str, Any]:
  """Returns the released fine-tuning settings of ViT and Mixer.

  Source: vit_jax/configs.

  Args:
    dataset: a key of `VIT_DATASETS`. For any other name the caller must set
      total_steps, splits and crop.
    model_name: in the published spelling.
  """
  recipe: dict[str, Any] = dict(
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
  """Returns AugReg's released settings, from vit_jax/configs/augreg.py."""
  recipe = vit_finetune('', '')
  recipe.update(
    base_lr=0.03,
    total_steps=500,
    warmup_steps=rules.WARMUP[500],
    pp=dict(train='train', test='test', crop=384),
  )
  return recipe


def bit_finetune(dataset: str) -> dict[str, Any]:
  """Returns the settings of BiT's HyperRule.

  Values that depend on the number of training images are None: `jobs.train`
  computes total steps, decay steps, warm-up and mixup. The images of an
  unlisted data set are assumed to be large.
  """
  # The same splits as vit_jax's: big_transfer's TF2 and JAX pipelines also
  # train on 98 % of CIFAR and 99 % of ImageNet.
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
