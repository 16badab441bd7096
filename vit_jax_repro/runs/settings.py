"""The settings of a training run: every key, its default, its check."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro import recipes
from vit_jax_repro.errors import InputError
from vit_jax_repro.runs import settings_checks


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
        raise InputError(
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
  # Of published files: 'reset' makes it anew, as fine-tuning does; 'keep'
  # needs as many classes.
  head: str = 'reset'
  # Warm start (arXiv:1910.08475): what training starts from is
  # shrink * published + perturb * fresh parameters, every one of them.
  shrink: float = 1.0
  perturb: float = 0.0
  tfds_data_dir: str | None = None  # where TFDS sets lie; None: TFDS's own
  tfds_manual_dir: str | None = None  # manually downloaded archives
  total_steps: int | None = None  # None: by the BiT-HyperRule
  warmup_steps: int | None = 0  # likewise
  decay_type: str = 'cosine'  # 'constant', 'linear', 'steps', 'bit_hyperrule'
  decay_steps: Sequence[int] = ()  # of 'steps': a tenth after each
  optim: str = 'sgd'  # or 'adamw'
  # Of SGD's momentum or AdamW's first moment: 'float32', 'bfloat16'.
  optim_dtype: str | None = None
  # Of AdamW: times the learning rate, taken off. Of SGD: added to gradients.
  weight_decay: float | None = None
  weight_decay_on: str | None = None  # 'all' or 'kernels'
  grad_norm_clip: float | None = 1.0  # None: gradients are not clipped
  # Parameters averaged over updates are what is evaluated and saved in
  # model.npz; 0: no averages. See training/averaging.py.
  polyak_decay: float = 0.0
  # 'distillation': from labels and a teacher, see training/distillation.py.
  # 'masked_patches': without labels, see training/masked_patches.py; the model
  # gets one output of 512 colours for each patch, and accuracies are theirs.
  objective: str = 'classification'
  loss: str = 'softmax'  # or 'sigmoid'
  # The weights file of a teacher, any that `evaluate` takes. It sees the same
  # augmented and mixed images, of the same size, scaled as it was trained.
  teacher: str | None = None
  distillation: str = 'hard'  # or 'soft'
  distillation_alpha: float = 0.5  # the teacher's part of the loss
  distillation_tau: float = 1.0  # the temperature of 'soft'
  mixup_alpha: float | None = 0.0  # 0: no mixup; None: by the BiT-HyperRule
  cutmix_alpha: float = 0.0  # 0: no CutMix; with mixup, either of the two
  label_smoothing: float = 0.0  # probability spread over all classes
  random_erasing: float = 0.0  # probability that a box becomes noise
  # How often an image comes in a row, each time augmented anew (DeiT: 3). An
  # epoch stays as long and has so many times fewer images: data/order.py.
  repeated_augmentation: int = 1
  # RandAugment and mixup of AugReg, 'none', 'light1' ... 'strong2', in place
  # of pp.randaugment_* and mixup_alpha.
  augreg_strength: str | None = None
  # Of training images on their way to the devices: 'uint8' is a quarter of
  # the bytes, rounded, and normalised there.
  transfer_dtype: str = 'float32'
  batch: int = 512  # images of an update, over all devices and processes
  batch_eval: int = 512
  accum_steps: int = 1  # parts an update's batch is computed in
  # What gradients are summed over devices in; 'bfloat16' halves the bytes of
  # the sums where the model computes in it, and rounds them.
  grad_reduce_dtype: str = 'float32'
  shuffle_buffer: int = 50_000
  eval_every: int = 100  # steps; 0: at the end alone
  progress_every: int = 10  # steps; 0: with evaluations alone
  checkpoint_every: int = 1000  # steps; 0: at the end alone
  keep_checkpoints: int = 2  # the newest; older ones are deleted
  # Keep the one of the best accuracy_test, too; best.npz is made of it in the
  # end. Each checkpoint needs an evaluation.
  keep_best: bool = False
  # GiB of each device that an update may need; a run that needs more is
  # refused. None: what the device reports; 0: nothing is refused.
  memory_limit_gb: float | None = None
  prefetch: int = 2  # batches put on the devices ahead
  preprocessing: str = 'vit_jax'  # of evaluation; its scale is training's too
  seed: int = 0
  # Sizes of the device mesh; data=None takes the devices that are left.
  mesh: Mapping[str, int | None] = dataclasses.field(
    default_factory=lambda: dict(data=None, fsdp=1, model=1)
  )

  def __post_init__(self):
    settings_checks.check(self)


def from_config(config: Mapping[str, Any]) -> Settings:
  """Reads a configuration, in which every key must be one of `Settings`.

  Args:
    config: nested mapping, such as an ml_collections.ConfigDict.

  Raises:
    InputError: a key is unknown, missing or has an impossible value.
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


def defaults() -> dict[str, Any]:
  """What a key stands for that is not given: {'seed': 0, 'pp.shift': 0, ...}.

  A run that began before a key was there goes on as if it had said so.
  """
  return _defaults(Settings) | {
    f'pp.{key}': value for key, value in _defaults(Preprocessing).items()
  }


def _defaults(cls):
  return {
    field.name: to_plain(field.default)
    for field in dataclasses.fields(cls)
    if field.default is not dataclasses.MISSING
  }


def _with_strength(settings: Settings) -> Settings:
  """What `augreg_strength` stands for, in the settings that it replaces."""
  strength = recipes.augreg_strength(settings.augreg_strength)
  layers, alpha = settings.pp.randaugment_layers, settings.mixup_alpha
  if layers or alpha:
    raise InputError(
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
  if not isinstance(section, Mapping):
    raise InputError(f'{where}={section!r} must be a group of settings')
  fields = {field.name: field for field in dataclasses.fields(cls)}
  for key in section:
    if key not in fields:
      near = difflib.get_close_matches(key, fields, n=1)
      hint = f'did you mean {near[0]!r}? ' if near else ''
      raise InputError(
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
    raise InputError(f'{where} lacks the keys {missing}')
  settings_checks.check_types(section, cls, where)
  return dict(section)
