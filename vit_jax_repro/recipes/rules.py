"""BiT-HyperRule (resolution, schedule, mixup) and AugReg's augmentations.

The HyperRule depends on the size of the task. `WARMUP` has the warm-up steps
of ViT and AugReg. Sources: bit_hyperrule.py of
google-research/big_transfer; BiT paper (arXiv:1912.11370), section 3.3. The
paper drops the learning rate at 30, 60 and 90 % of the steps; for small tasks
the code uses 40, 60 and 80 %.
"""

from typing import Any

from vit_jax_repro.errors import InputError

BASE_LR = 0.003
SMALL, LARGE = 20_000, 500_000  # training examples
MIXUP_ALPHA = 0.1

# Height and width of the images, as in the code. For VTAB, the image sizes in
# TFDS's catalogue that are below 96x96.
IMAGE_SIZES = {
  'cifar10': (32, 32),
  'cifar100': (32, 32),
  'oxford_iiit_pet': (224, 224),
  'oxford_flowers102': (224, 224),
  'imagenet2012': (224, 224),
}
VTAB_IMAGE_SIZES = {
  'vtab/cifar100': (32, 32),
  'vtab/svhn': (32, 32),
  'vtab/eurosat': (64, 64),
  'vtab/dsprites-xpos': (64, 64),
  'vtab/dsprites-orientation': (64, 64),
}


# Warm-up steps of fine-tuning by total steps, shared by ViT and AugReg, whose
# sources agree. Pre-training has its own. Sources:
# vit_jax/configs (500 of 10,000 and of 20,000; 100 of 500 for AugReg);
# big_vision's transfer.py (the same); AugReg paper, Table 4 (the same, and 200
# of 2500); scenic's vtab_plainvit_config.py (200 of 2500).
WARMUP = {500: 100, 2500: 200, 10_000: 500, 20_000: 500}


def image_size(dataset: str) -> tuple[int, int]:
  """Returns (height, width) of a data set's images; (224, 224) if unlisted."""
  return (IMAGE_SIZES | VTAB_IMAGE_SIZES).get(dataset, (224, 224))


def resolution(height: int, width: int) -> tuple[int, int]:
  """Returns (resize, crop) in pixels for images of this size."""
  return (160, 128) if height * width < 96 * 96 else (512, 480)


def schedule(num_examples: int) -> tuple[int, tuple[int, ...], int]:
  """Returns (warm-up steps, steps after which the rate drops, total steps)."""
  if num_examples < SMALL:
    return 100, (200, 300, 400), 500
  if num_examples < LARGE:
    return 500, (3000, 6000, 9000), 10_000
  return 500, (6000, 12_000, 18_000), 20_000


def mixup_alpha(num_examples: int) -> float:
  """Returns alpha of mixup's Beta distribution; 0 turns mixup off."""
  return 0.0 if num_examples < SMALL else MIXUP_ALPHA


# Augmentation strengths of AugReg (arXiv:2106.10270), section 3.4, by their
# names in the released files: (RandAugment's layers, its magnitude, mixup's
# alpha). Values from big_vision/configs/vit_i21k.py.
AUGREG_STRENGTHS = {
  'none': (0, 0, 0.0),
  'light1': (2, 0, 0.0),  # still changes images, see data/randaugment.py
  'light2': (2, 10, 0.2),
  'medium1': (2, 15, 0.2),
  'medium2': (2, 15, 0.5),
  'strong1': (2, 20, 0.5),
  'strong2': (2, 20, 0.8),
}


def augreg_strength(name: str) -> dict[str, Any]:
  """Returns AugReg's augmentation: dict(layers, magnitude, mixup_alpha).

  Layers 0 means no RandAugment, alpha 0.0 means no mixup.

  Raises:
    InputError: the name is not in `AUGREG_STRENGTHS`.
  """
  if name not in AUGREG_STRENGTHS:
    raise InputError(
      f'unknown augmentation strength {name!r}; choose from '
      f'{list(AUGREG_STRENGTHS)}'
    )
  layers, magnitude, mixup_alpha = AUGREG_STRENGTHS[name]
  return dict(layers=layers, magnitude=magnitude, mixup_alpha=mixup_alpha)
