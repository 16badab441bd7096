"""The settings of a training run: every key, its default, its check."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from vit_jax_repro import recipes


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """Splits and image sizes: `config.pp`."""

  train: str  # split to train on, such as 'train[:98%]'
  test: str  # split to evaluate on
  crop: Any  # pixels, S or (H, W): what the model sees
  # Pixels to resize to before a random crop of `crop`; None: straight to it.
  resize: Any = None
  inception_crop: bool = True  # a random box of 5-100 % of the area first
  exact_decode: bool = False  # of whole JPEGs where a box would do
  flip: bool = True  # left to right, every second image
  legacy_always_flip: bool = False  # every image, as BiT's TF and JAX code
  shift: int = 0  # pixels, at most, that an image is moved by
  randaugment_layers: int = 0  # operations an image; 0: no RandAugment
  randaugment_magnitude: int = 10
  randaugment_policy: str = 'big_vision'  # that of AugReg; or 'deit'

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(field.default, bool) and not isinstance(value, bool):
        raise ValueError(
          f'config.pp.{field.name}={value!r} must be True or False'
        )


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of `jobs.train`; names are those of the original's config.

  Where None turns something off, 0 or '' does too, as flags cannot say None.
  """

  dataset: str  # 'digits', a TFDS name or a folder
  model: Mapping[str, Any]  # fields for models.create, and `model_name`
  pp: Preprocessing
  base_lr: float
  # Local folder of published files; None: start from fresh parameters.
  pretrained_dir: str | None = None
  # AugReg: a file name without .npz, or a model whose best file is taken.
  model_or_filename: str | None = None
  tfds_data_dir: str | None = None  # where TFDS sets lie; None: TFDS's own
  tfds_manual_dir: str | None = None  # manually downloaded archives
  total_steps: int | None = None  # None: by the BiT-HyperRule
  warmup_steps: int | None = 0  # likewise
  decay_type: str = 'cosine'  # 'constant', 'linear', 'bit_hyperrule'
  optim: str = 'sgd'  # or 'adamw'
  optim_dtype: str | None = None  # of SGD's momentum: 'float32', 'bfloat16'
  weight_decay: float | None = None  # of AdamW
  weight_decay_on: str | None = None  # of AdamW: 'all' or 'kernels'
  grad_norm_clip: float | None = 1.0  # None: gradients are not clipped
  loss: str = 'softmax'  # or 'sigmoid'
  mixup_alpha: float | None = 0.0  # 0: no mixup; None: by the BiT-HyperRule
  cutmix_alpha: float = 0.0  # 0: no CutMix; with mixup, either of the two
  label_smoothing: float = 0.0  # probability spread over all classes
  random_erasing: float = 0.0  # probability that a box becomes noise
  # RandAugment and mixup of AugReg, 'none', 'light1' ... 'strong2', in place
  # of pp.randaugment_* and mixup_alpha.
  augreg_strength: str | None = None
  # Of training images on their way to the devices: 'uint8' is a quarter of
  # the bytes, rounded, and normalised there.
  transfer_dtype: str = 'float32'
  batch: int = 512  # images of an update, over all devices and processes
  batch_eval: int = 512
  accum_steps: int = 1  # parts an update's batch is computed in
  shuffle_buffer: int = 50_000
  eval_every: int = 100  # steps; 0: at the end alone
  progress_every: int = 10  # steps; 0: with evaluations alone
  checkpoint_every: int = 1000  # steps; 0: at the end alone
  prefetch: int = 2  # batches put on the devices ahead
  preprocessing: str = 'vit_jax'  # of evaluation; its scale is training's too
  seed: int = 0
  # Sizes of the device mesh; data=None takes the devices that are left.
  mesh: Mapping[str, int | None] = dataclasses.field(
    default_factory=lambda: dict(data=None, fsdp=1, model=1)
  )

  def __post_init__(self):
    for name in ('batch', 'batch_eval', 'accum_steps', 'shuffle_buffer'):
      _check_whole(self, name, 1)
    for name in (
      'eval_every',
      'progress_every',
      'checkpoint_every',
      'prefetch',
      'seed',
    ):
      _check_whole(self, name, 0)
    for name in (
      'base_lr',
      'weight_decay',
      'grad_norm_clip',
      'mixup_alpha',
      'cutmix_alpha',
    ):
      _check_not_negative(self, name)
    _check_not_negative(self, 'label_smoothing', below=1)
    _check_not_negative(self, 'random_erasing', most=1)
    for name, choices in _CHOICES.items():
      value = getattr(self, name)
      if value not in choices and (value or None not in choices):
        raise ValueError(
          f'config.{name}={value!r} is unknown; choose from '
          f'{[choice for choice in choices if choice]}'
        )
    if not self.dataset:
      raise ValueError(
        "config.dataset='' must be 'digits', a TFDS name or a folder; set "
        '--config.dataset'
      )
    if self.pp.crop is None:
      raise ValueError(
        f'config.pp.crop is not known for {self.dataset!r}; set it, in pixels'
      )
    rule = self.decay_type == 'bit_hyperrule'
    for name in ('total_steps', 'warmup_steps', 'mixup_alpha'):
      if getattr(self, name) is None and not rule:
        raise ValueError(
          f'config.{name} is not known for {self.dataset!r}; set it'
        )


def from_config(config: Mapping[str, Any]) -> Settings:
  """Reads a configuration, in which every key must be one of `Settings`.

  Args:
    config: nested mapping, such as an ml_collections.ConfigDict.

  Raises:
    ValueError: a key is unknown, missing or has an impossible value.
  """
  config = to_plain(config)
  fields = _checked(config, Settings, 'config')
  fields['pp'] = Preprocessing(
    **_checked(config['pp'], Preprocessing, 'config.pp')
  )
  settings = Settings(**fields)
  if not settings.augreg_strength:
    return settings
  return _with_strength(settings)


def _with_strength(settings: Settings) -> Settings:
  """What `augreg_strength` stands for, in the settings that it replaces."""
  strength = recipes.augreg_strength(settings.augreg_strength)
  layers, alpha = settings.pp.randaugment_layers, settings.mixup_alpha
  if layers or alpha:
    raise ValueError(
      f'config.augreg_strength={settings.augreg_strength!r} sets RandAugment '
      f'and mixup; leave config.pp.randaugment_layers={layers} and '
      f'config.mixup_alpha={alpha} at 0'
    )
  pp = dataclasses.replace(
    settings.pp,
    randaugment_layers=strength['layers'],
    randaugment_magnitude=strength['magnitude'],
    randaugment_policy='big_vision',
  )
  return dataclasses.replace(
    settings, pp=pp, mixup_alpha=strength['mixup_alpha']
  )


def to_plain(value: Any) -> Any:
  """Nested mappings and sequences as dicts and lists, for JSON and `**`."""
  if isinstance(value, Mapping) or hasattr(value, 'items'):
    return {key: to_plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [to_plain(item) for item in value]
  return value


def _checked(section, cls, where):
  fields = {field.name: field for field in dataclasses.fields(cls)}
  for key in section:
    if key not in fields:
      near = difflib.get_close_matches(key, fields, n=1)
      hint = f'did you mean {near[0]!r}? ' if near else ''
      raise ValueError(
        f'unknown key {where}.{key}; {hint}keys are {sorted(fields)}'
      )
  no_default = (dataclasses.MISSING, dataclasses.MISSING)
  missing = sorted(
    name
    for name, field in fields.items()
    if (field.default, field.default_factory) == no_default
    and name not in section
  )
  if missing:
    raise ValueError(f'{where} lacks the keys {missing}')
  return dict(section)


_CHOICES = {  # None: may be left out
  'decay_type': ('constant', 'cosine', 'linear', 'bit_hyperrule'),
  'optim': ('sgd', 'adamw'),
  'optim_dtype': (None, 'float32', 'bfloat16'),
  'weight_decay_on': (None, 'all', 'kernels'),
  'loss': ('softmax', 'sigmoid'),
  'transfer_dtype': ('float32', 'uint8'),
  'augreg_strength': (None, *recipes.AUGREG_STRENGTHS),
}
_LARGEST = 2**31 - 1


def _check_whole(settings, name, least):
  value = getattr(settings, name)
  if not isinstance(value, int) or not least <= value <= _LARGEST:
    raise ValueError(
      f'config.{name}={value!r} must be a whole number of at least {least} and '
      f'at most {_LARGEST}'
    )


def _check_not_negative(settings, name, below=float('inf'), most=None):
  value = getattr(settings, name)
  if value is None:
    return
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if number and 0 <= value < below and (most is None or value <= most):
    return
  limit = '' if below == float('inf') else f' and below {below}'
  limit = limit if most is None else f' and at most {most}'
  raise ValueError(
    f'config.{name}={value!r} must be a number of at least 0{limit}'
  )
