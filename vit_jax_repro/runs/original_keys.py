"""Keys of the original code's configurations that are not settings here.

The keys are those of vit_jax/configs/ in google-research/vision_transformer.
All others have the same names as the fields of `settings.Settings`.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax_repro.errors import InputError

TRAINERS = ('train',)
# {model_type: values of `model.model` with this meaning}
_MODEL_TYPES = {'ViT': ('vit', 'deit'), 'Mixer': ('mixer',)}
# Names of settings in the original's texts and in related projects.
OTHER_NAMES = {
  'accum': 'accum_steps',
  'accumulation_steps': 'accum_steps',
  'batch_size': 'batch',
  'ckpt_steps': 'checkpoint_every',
  'crop_size': 'pp.crop',
  'dropout': 'model.dropout_rate',
  'epochs': 'total_steps',
  'eval_batch_size': 'batch_eval',
  'image_size': 'pp.crop',
  'learning_rate': 'base_lr',
  'log_eval_steps': 'eval_every',
  'log_training_steps': 'progress_every',
  'lr': 'base_lr',
  'mixup': 'mixup_alpha',
  'model_name': 'model.model_name',
  'num_epochs': 'total_steps',
  'num_train_steps': 'total_steps',
  'optimizer': 'optim',
  'steps': 'total_steps',
  'total_epochs': 'total_steps',
  'vit_pretrained_dir': 'pretrained_dir',
  'wd': 'weight_decay',
}


def has(config: Mapping[str, Any], key: str, value: Any) -> bool:
  """Returns whether a key is the original's and is already true of a run.

  Args:
    config: the configuration of a run.
    key: any key.
    value: its value, or the text of it.

  Raises:
    InputError: the key is the original's and the value is something else.
  """
  if key == 'trainer':
    if value in TRAINERS:
      return True
    raise InputError(
      f"config.trainer={value} must be 'train'; python -m "
      'vit_jax_repro.benchmark infer measures the time of inference'
    )
  if key == 'model_type':
    kind = config['model'].get('model', 'vit')
    if kind in _MODEL_TYPES.get(value, ()):
      return True
    raise InputError(
      f'config.model_type={value} and config.model.model={kind} differ; the '
      'model of --config=configs/vit.py:MODEL,DATASET decides'
    )
  return False


def spelling(key: str) -> str:
  """Returns our spelling of a key of the original's model."""
  return 'model.patch_size' if key == 'model.patches.size' else key


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a configuration of the original in our keys; others unchanged.

  Raises:
    InputError: the original's trainer is another one.
  """
  found = dict(config)
  model = found.get('model')
  if isinstance(model, Mapping):
    model = dict(model)
    if isinstance(model.get('patches'), Mapping) and 'size' in model['patches']:
      model['patch_size'] = tuple(model.pop('patches')['size'])
    # The original's class is a Mixer by `model_type`, which some files lack.
    model.setdefault('model', 'mixer' if 'tokens_mlp_dim' in model else 'vit')
    found['model'] = model
    if 'trainer' in found and isinstance(found.get('pp'), Mapping):
      # The original resizes to `crop`, whatever its `resize` is.
      found['pp'] = {k: v for k, v in found['pp'].items() if k != 'resize'}
    for key in ('trainer', 'model_type'):
      if key in found and has(found, key, found[key]):
        del found[key]
  return found
