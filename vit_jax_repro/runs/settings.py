"""The settings of a training run: every key with its default and its help."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro import recipes
from vit_jax_repro.data import class_matching
from vit_jax_repro.data.image_settings import (
  DTYPES,
  REQUIRED,
  ImageSettings,
  defaults_of,
  setting,
)
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.runs import settings_checks

DEFAULT_PREPROCESSING = 'vit_jax'


@dataclasses.dataclass(frozen=True)
class _Splits:
  """The keys of `config.pp` that name the splits, which come first."""

  train: str = setting(REQUIRED, "Split to train on, such as 'train[:98%]'.")
  test: str = setting(REQUIRED, 'Split to evaluate on.')


@dataclasses.dataclass(frozen=True)
class _Division:
  """The keys of `config.pp` on a third split and on folders without splits."""

  validation: str | None = setting(
    None,
    'A third split, by which `keep_best` chooses. It is evaluated during '
    'training in place of `test`, which is evaluated once, at the end. In a '
    "folder without splits 'validation' is a fifth of each class.",
  )
  split_seed: int = setting(
    0,
    'Seed by which a folder without splits is divided into `train` and `test`, '
    'which may be parts such as train[:80%] and train[80%:].',
    least=0,
  )


# The fields of the rightmost base class come first.
@dataclasses.dataclass(frozen=True)
class Preprocessing(_Division, ImageSettings, _Splits):
  """The mapping `config.pp`: splits and augmentation of training images."""

  def __post_init__(self):
    settings_checks.check_switches(self, 'config.pp')


@dataclasses.dataclass(frozen=True)
class Mesh:
  """The mapping `config.mesh`: sizes of the axes, see parallel/mesh.py."""

  data: int | None = setting(
    None,
    'Size of the axis that divides the batch. None: all devices that the other '
    'axes leave.',
    least=1,
  )
  fsdp: int = setting(
    1,
    'Size of the axis that divides the batch and also the parameters and the '
    'state of the optimiser.',
    least=1,
  )
  model: int = setting(
    1, 'Size of the axis that divides the work on one image.', least=1
  )


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of `jobs.train`, named as in the configs of the original code.

  Where None turns an option off, 0 or '' does too.
  """

  dataset: str = setting(
    REQUIRED,
    "'digits', the name of a TFDS data set, or a folder.",
    heading='Data, model and learning rate',
  )
  model: Mapping[str, Any] = setting(
    REQUIRED,
    'Fields of the model, and `model_name`. --config.model.FIELD=VALUE changes '
    'one: dtype, remat, gelu, transformer.dropout_rate, ... The classes in '
    'models/vit.py, mixer.py and bit.py explain them. A field that is None is '
    'as the weights file says, else as the class has it.',
  )
  pp: Preprocessing = setting(
    REQUIRED, 'Splits and training images', keys=Preprocessing
  )
  base_lr: float = setting(REQUIRED, 'The largest learning rate.', least=0)
  pretrained_dir: str | None = setting(
    None,
    'Folder of published weights files, gs://vit_models/FOLDER, or any text '
    'that --weights of other commands takes. None: training '
    'starts from fresh parameters.',
    heading='Published weights to start from',
  )
  model_or_filename: str | None = setting(
    None,
    'AugReg weights: the name of a file without .npz, or of a model whose best '
    'file is taken.',
  )
  pretrained_ema: bool = setting(
    False,
    'Whether to start from the averaged weights (EMA) that a trainer saved '
    'beside the others.',
    needs=('pretrained_dir', None),
  )
  head: str = setting(
    'reset',
    "The head of the published file. 'reset' replaces it by a new one, as "
    "fine-tuning does; 'keep' keeps its rows of the data set's classes, found "
    'by name.',
    choices=('reset', 'keep'),
    needs=('pretrained_dir', None),
  )
  labels: str = setting(
    class_matching.BY_NAME,
    "How the data set's classes are found in a kept head and in a teacher. "
    "'as_is': its labels are taken as theirs, whatever the names.",
    choices=(class_matching.BY_NAME, class_matching.AS_IS),
  )
  shrink: float = setting(
    1.0,
    'Warm start (arXiv:1910.08475): training starts from shrink * published + '
    'perturb * fresh parameters, for every parameter.',
    least=0,
    needs=('pretrained_dir', None),
  )
  perturb: float = setting(
    0.0,
    'Warm start: the factor of the fresh parameters, see shrink.',
    least=0,
    needs=('pretrained_dir', None),
  )
  tfds_data_dir: str | None = setting(
    None,
    "Folder of prepared TFDS data sets. None: TFDS's own folder.",
    heading='Folders of TFDS',
  )
  tfds_manual_dir: str | None = setting(
    None, 'Folder of manually downloaded archives.'
  )
  train: str = setting(
    'all',
    "The parameters to train. 'head': the classifier. 'last:N': the last N "
    'blocks and all layers after them. Any other text is a regular expression '
    'that is searched in paths such as '
    'Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel. The other '
    'parameters keep their values.',
    heading='Parameters to train',
  )
  layer_decay: float | None = setting(
    None,
    'Factor by which the learning rate falls from each block to the one before '
    'it, see training/layer_decay.py. base_lr is the rate of the head. None: '
    'all layers have the same rate.',
    least=0,
    most=1,
  )
  total_steps: int | None = setting(
    None,
    'Updates of the run. None: by the BiT-HyperRule, with '
    "decay_type='bit_hyperrule'.",
    heading='Schedule',
  )
  continue_from: str | None = setting(
    None,
    'Workdir of a finished run with the same settings, whose parameters, '
    'optimiser and number of updates this run takes over. It has more '
    'total_steps and a workdir of its own. Only the settings of the schedule '
    'may differ, and those that change no results. See docs/checkpoints.md.',
  )
  warmup_steps: int | None = setting(
    0,
    'Updates over which the learning rate rises from 0. None: by the '
    "BiT-HyperRule, with decay_type='bit_hyperrule'.",
  )
  decay_type: str = setting(
    'cosine',
    'How the learning rate falls.',
    choices=('constant', 'cosine', 'linear', 'steps', 'bit_hyperrule'),
  )
  decay_steps: Sequence[int] = setting(
    (),
    'Steps, such as (30,60): after each the learning rate drops to a tenth.',
    needs=('decay_type', 'steps'),
  )
  optim: str = setting(
    'sgd', 'The optimiser.', heading='Optimiser', choices=('sgd', 'adamw')
  )
  optim_dtype: str | None = setting(
    None,
    "The dtype of SGD's momentum or of AdamW's first moment.",
    choices=('float32', 'bfloat16'),
  )
  weight_decay: float | None = setting(
    None,
    'AdamW subtracts this part of the parameters, times the learning rate. '
    'SGD adds this part of the parameters to their gradients.',
    least=0,
  )
  weight_decay_on: str | None = setting(
    None,
    'The parameters to which weight_decay applies. None: all.',
    choices=('all', 'kernels'),
  )
  grad_norm_clip: float | None = setting(
    1.0,
    'Largest global norm of the gradients. None: gradients are not clipped.',
    least=0,
  )
  polyak_decay: float = setting(
    0.0,
    'The factor of averages of the parameters over updates. The averages are '
    'what is evaluated and saved in model.npz. 0: no averages. See '
    'training/averaging.py.',
    least=0,
    below=1,
  )
  objective: str = setting(
    'classification',
    "What is learned. 'distillation': from labels and a teacher, see "
    "training/distillation.py. 'masked_patches': without labels, see "
    'training/masked_patches.py; the model has 512 outputs, one per colour, '
    'for each patch, and accuracies are those of the colours.',
    heading='Objective',
    choices=('classification', 'distillation', 'masked_patches'),
  )
  loss: str = setting(
    'softmax',
    "The loss of objective='classification'. 'sigmoid' decides each class on "
    'its own; images with several labels (labels.csv) need it.',
    choices=('softmax', 'sigmoid'),
    unused_by=('distillation', 'masked_patches'),
  )
  teacher: str | None = setting(
    None,
    "The teacher's weights file: any file that `evaluate` takes. It sees the "
    'same augmented and mixed images, of the same size, scaled as in its own '
    'training.',
    needs=('objective', 'distillation'),
  )
  distillation: str = setting(
    'hard',
    "Learn the teacher's class ('hard') or its probabilities ('soft').",
    choices=('hard', 'soft'),
    needs=('objective', 'distillation'),
  )
  distillation_alpha: float = setting(
    0.5,
    "The teacher's part of the loss.",
    least=0,
    most=1,
    needs=('objective', 'distillation'),
  )
  distillation_tau: float = setting(
    1.0,
    "The temperature of distillation='soft'; not 0.",
    least=0,
    needs=('distillation', 'soft'),
  )
  mixup_alpha: float | None = setting(
    0.0,
    "The parameter of mixup's Beta distribution. 0: no mixup. None: by the "
    "BiT-HyperRule, with decay_type='bit_hyperrule'.",
    heading='Regularisation',
    least=0,
    unused_by=('masked_patches',),
  )
  cutmix_alpha: float = setting(
    0.0,
    "The parameter of CutMix's Beta distribution. 0: no CutMix. With mixup, "
    'each batch gets one of the two.',
    least=0,
    unused_by=('masked_patches',),
  )
  label_smoothing: float = setting(
    0.0,
    'Probability that is spread over all classes.',
    least=0,
    below=1,
    unused_by=('masked_patches',),
  )
  random_erasing: float = setting(
    0.0,
    'Probability that a box of the image is replaced by noise.',
    least=0,
    most=1,
    unused_by=('masked_patches',),
  )
  repeated_augmentation: int = setting(
    1,
    'Copies of an image that follow each other, each with an augmentation of '
    'its own (DeiT: 3). An epoch keeps its length, so it has fewer different '
    'images by this factor. See data/order.py.',
    least=1,
  )
  augreg_strength: str | None = setting(
    None,
    'RandAugment and mixup as in AugReg, in place of pp.randaugment_* and '
    'mixup_alpha.',
    choices=recipes.AUGREG_STRENGTHS,
  )
  transfer_dtype: str = setting(
    'float32',
    "The dtype in which training images cross to the devices. 'uint8' is a "
    'quarter of the bytes; pixels are rounded, and normalised on the device, '
    'which also flips them where neither a shift nor RandAugment follows.',
    heading='Batches',
    choices=DTYPES,
  )
  batch: int = setting(
    512, 'Images of an update, over all devices and processes.', least=1
  )
  batch_eval: int = setting(
    512,
    'Images of a batch of evaluation, over all devices; at most. A CPU takes '
    'fewer where they are large, because more are no faster.',
    least=1,
  )
  accum_steps: int = setting(
    1,
    "Parts that an update's batch is computed in, one by one. 0: in one part.",
    least=0,
  )
  grad_reduce_dtype: str = setting(
    'float32',
    "The dtype in which gradients are summed over devices. 'bfloat16' halves "
    'the bytes of the sums where the model computes in it, and rounds them.',
    choices=('float32', 'bfloat16'),
  )
  shuffle_buffer: int = setting(
    50_000,
    'Encoded images in memory, of which the next one is drawn; at most 1 GiB '
    'of them. Folders are shuffled as a whole.',
    least=1,
  )
  eval_every: int = setting(
    100,
    'Steps between evaluations. 0: only at the end.',
    heading='Evaluation and checkpoints',
    least=0,
  )
  progress_every: int = setting(
    10,
    'Steps between lines of metrics. 0: only with evaluations.',
    least=0,
  )
  checkpoint_every: int = setting(
    1000, 'Steps between checkpoints. 0: only at the end.', least=0
  )
  keep_checkpoints: int = setting(
    2, 'Newest checkpoints that are kept. Older ones are deleted.', least=1
  )
  keep_best: bool = setting(
    False,
    'Also keep the checkpoint with the best accuracy (of images with several '
    'labels: mean average precision) on pp.validation, else on pp.test, and '
    'make best.npz of it at the end. Each checkpoint needs an evaluation.',
  )
  memory_limit_gb: float | None = setting(
    None,
    'GiB of each device that an update may need. A run that needs more is '
    'refused. None: what the device reports. 0: no run is refused.',
    heading='Devices, preprocessing and seed',
    least=0,
  )
  prefetch: int = setting(
    2,
    'Batches that are put on the devices ahead of time. A CPU ignores it: its '
    'memory has the batches that are read.',
    least=0,
  )
  preprocessing: str | None = setting(
    None,
    'How images are read for evaluation, as by the flag --preprocessing of '
    '`evaluate`. Training scales its images in the same way. None: as the '
    f'weights file says, else {DEFAULT_PREPROCESSING!r}.',
  )
  seed: int = setting(
    0, 'Seed of everything that is random in the run.', least=0
  )
  question: str | None = setting(
    None,
    'The question that the run answers, for its reproducibility card '
    '(`reproduce card`). It changes nothing else.',
    heading='Reproducibility card',
  )
  hypothesis: str | None = setting(
    None,
    'The answer that you expect, with the number by which you will judge it, '
    'for the same card.',
  )
  mesh: Mapping[str, int | None] = setting(
    lambda: dataclasses.asdict(Mesh()), 'Sizes of the device mesh', keys=Mesh
  )

  def __post_init__(self):
    settings_checks.check(self)


def from_config(config: Mapping[str, Any]) -> Settings:
  """Creates settings from a configuration.

  Args:
    config: nested mapping, such as an ml_collections.ConfigDict; its keys must
      be fields of `Settings`.

  Raises:
    InputError: a key is unknown, missing or has an impossible value.
  """
  config = to_plain(config)
  fields = _checked(config, Settings, 'config')
  fields['pp'] = Preprocessing(
    **_checked(config['pp'], Preprocessing, 'config.pp')
  )
  if fields.get('accum_steps') == 0:
    fields['accum_steps'] = 1
  settings = Settings(**fields)
  if not settings.augreg_strength:
    return settings
  return _with_strength(settings, settings.augreg_strength)


def defaults() -> dict[str, Any]:
  """Returns the default of every key: {'seed': 0, 'pp.shift': 0, ...}.

  A run whose config.json was written before a key existed continues with the
  key's default.
  """
  pp = {f'pp.{key}': value for key, value in defaults_of(Preprocessing).items()}
  return to_plain(defaults_of(Settings) | pp)


def _with_strength(settings: Settings, name: str) -> Settings:
  """Returns settings with the augmentation that `augreg_strength` names."""
  strength = recipes.augreg_strength(name)
  layers, alpha = settings.pp.randaugment_layers, settings.mixup_alpha
  if layers or alpha:
    raise InputError(
      f'config.augreg_strength={name!r} sets RandAugment and mixup; leave '
      f'config.pp.randaugment_layers={layers} and config.mixup_alpha={alpha} '
      'at 0'
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
  """Returns nested mappings and sequences as dicts and lists, as JSON has them.

  Args:
    value: a ConfigDict, any other mapping or sequence, or a plain value.
  """
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
      hint = messages.did_you_mean(key, list(fields))
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
