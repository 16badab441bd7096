"""The studies at the sizes 'digits' and 'short', on scikit-learn's digits.

A plan is the argument of `running.run` without name and size. Models, steps and
learning rates were found by trial, so that a study of size 'digits' shows
results in minutes on two CPU cores. Size 'short' only checks that everything
runs: its two seeds are too few for a verdict.
"""

import copy
from typing import Any

from vit_jax_repro import recipes
from vit_jax_repro.runs import configuration
from vit_jax_repro.studies.claims import POSITIONS

# About 20,000 parameters each.
VIT = recipes.QUICKSTART_MODEL | dict(
  hidden_size=32,
  transformer=dict(
    num_layers=2,
    mlp_dim=64,
    num_heads=4,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
  ),
)
BIT = dict(
  model='bit_resnetv2',
  block_units=(1, 1),
  width_factor=0.25,
  root_channels=32,
  groups=8,
)
BIT_CROP = 16  # pixels; 8 pixels would leave 2 after the root block
# A stem that reduces 16 pixels to 4, so there are 4x4 patches. It has as few
# channels as the groups of its norms allow.
STEM = dict(patch_size=(1, 1), stem_num_layers=(1,), stem_width_factor=0.5)

_SEEDS = {'digits': (0, 1, 2, 3, 4), 'short': (0, 1)}


def _digits(steps, model=VIT, dataset='digits', **changes):
  """Returns settings of a training on digits.

  Args:
    steps: total steps.
    model, dataset: see `jobs.train`.
    **changes: settings that differ from the quickstart's. `pp` has only the
      keys that differ.
  """
  recipe = copy.deepcopy(recipes.QUICKSTART)
  pp = changes.pop('pp', {})
  recipe.update(
    dict(
      dataset=dataset,
      total_steps=steps,
      mixup_alpha=0.0,  # the quickstart needs mixup only to reach 98 %
      warmup_steps=min(100, steps // 5),
      eval_every=0,
      checkpoint_every=0,
      progress_every=100,
    ),
    **changes,
  )
  recipe['pp'].update(pp)
  return configuration.create(recipe, model)


def _plan(size, stages, sides, **more):
  plan = dict(
    stages=stages,
    sides=sides,
    seeds=_SEEDS[size],
    held_out=None,
    base_lrs=(),
    once=(),
  )
  return plan | more


def _few(steps, model=VIT, **changes):
  """Returns settings of a training on five images of each of five classes."""
  few = dict(
    warmup_steps=steps // 10,
    batch=25,
    pp=dict(train='few') | changes.pop('pp', {}),
  )
  return _digits(steps, model, 'digits/5-9', **few, **changes)


def transfer(size: str) -> dict[str, Any]:
  """Returns the plan: pre-training on digits 0-4 or none, then 5-9.

  The second training has five images of each of its classes.
  """
  if size == 'digits':
    model = recipes.QUICKSTART_MODEL
    pretrain = _digits(2400, model, 'digits/0-4')
    finetune = _few(300, model)
  else:
    pretrain = _digits(400, VIT, 'digits/0-4', base_lr=1e-2)
    finetune = _few(100, VIT)
  return _plan(
    size,
    dict(pretrain=pretrain, finetune=finetune),
    {'pre-trained': {}, 'from scratch': dict(pretrain=None)},
    once=('pretrain',),
    held_out='held_out',
    base_lrs=(3e-4, 3e-3) if size == 'digits' else (3e-3,),
  )


def position_embeddings(size: str) -> dict[str, Any]:
  """Returns the plan: all sides of Table 8; at size 'short' three of them."""
  names = list(POSITIONS)
  if size == 'short':
    names = ['none', '1-D, stem', 'relative, every layer']
  sides = {
    name: dict(
      train=dict(
        model=dict(
          position_embedding=POSITIONS[name][0],
          position_embedding_at=POSITIONS[name][1],
        )
      )
    )
    for name in names
  }
  steps = {'digits': 1000, 'short': 300}[size]
  return _plan(size, dict(train=_digits(steps, base_lr=1e-2)), sides)


def pooling(size: str) -> dict[str, Any]:
  """Returns the plan: class token or mean, at three learning rates.

  At size 'short' there are two learning rates.
  """
  gap = dict(train=dict(model=dict(classifier='gap')))
  steps = {'digits': 600, 'short': 200}[size]
  pp = dict(train='train[:80%]')
  return _plan(
    size,
    dict(train=_digits(steps, pp=pp)),
    {
      'class token': {},
      'mean': gap,
      "mean, the token's rate": gap | dict(rate_of='class token'),
    },
    held_out='train[80%:]',
    base_lrs={'digits': (3e-3, 1e-2, 3e-2), 'short': (3e-3, 1e-2)}[size],
  )


def data_size(size: str) -> dict[str, Any]:
  """Returns the plan: ViT and BiT on 5, 25 or all images a class.

  Each seed draws its own subsets. Size 'short' leaves out 25.
  """
  steps = {'digits': 600, 'short': 120}[size]
  subsets = {'few': 'train@5#{seed}', 'some': 'train@25#{seed}', 'all': 'train'}
  if size == 'short':
    del subsets['some']
  kinds = {
    'ViT': {},
    'BiT': dict(model=BIT, pp=dict(crop=BIT_CROP, shift=2)),
  }
  sides = {
    f'{kind}, {subset}': dict(
      train=changes | dict(pp=changes.get('pp', {}) | dict(train=split))
    )
    for subset, split in subsets.items()
    for kind, changes in kinds.items()
  }
  return _plan(size, dict(train=_digits(steps, base_lr=1e-2, batch=50)), sides)


def families(size: str) -> dict[str, Any]:
  """Returns the plan: ViT and BiT, pre-trained on 0-4 once, then on 5-9.

  Only the second training is repeated for each seed.
  """
  steps, few = {'digits': (1000, 200), 'short': (120, 60)}[size]
  bit = dict(model=BIT, pp=dict(crop=BIT_CROP, shift=2))
  return _plan(
    size,
    dict(
      pretrain=_digits(steps, dataset='digits/0-4', base_lr=1e-2),
      finetune=_few(few),
    ),
    {'ViT': {}, 'BiT': dict(pretrain=bit | dict(base_lr=3e-3), finetune=bit)},
    once=('pretrain',),
    held_out='held_out',
    base_lrs=(1e-3, 3e-3, 1e-2) if size == 'digits' else (3e-3,),
  )


def scaling(size: str) -> dict[str, Any]:
  """Returns the plan: transformers of two sizes, each with and without a stem.

  As in Table 6, a hybrid differs from the ViT of its size only by the stem, a
  small ResNet that adds compute. Size 'short' has only the small ones.
  """
  large = {
    key: recipes.QUICKSTART_MODEL[key] for key in ('hidden_size', 'transformer')
  }
  pp = dict(crop=BIT_CROP, shift=2)
  sides = {
    'ViT, small': {},
    'hybrid, small': dict(train=dict(model=STEM, pp=pp)),
    'ViT, large': dict(train=dict(model=large)),
    'hybrid, large': dict(train=dict(model=STEM | large, pp=pp)),
  }
  if size == 'short':
    sides = {name: sides[name] for name in ('ViT, small', 'hybrid, small')}
  steps = {'digits': 600, 'short': 60}[size]
  return _plan(size, dict(train=_digits(steps, base_lr=1e-2)), sides)


def adam_vs_sgd(size: str) -> dict[str, Any]:
  """Returns the plan: pre-training on 0-4 by Adam or SGD, then 5-9 by SGD.

  Adam and SGD have different learning rates.
  """
  steps, few = {'digits': (600, 200), 'short': (120, 60)}[size]
  pp = dict(crop=BIT_CROP, shift=2)
  sgd = dict(
    optim='sgd',
    weight_decay=None,
    weight_decay_on=None,
    grad_norm_clip=None,
  )
  return _plan(
    size,
    dict(
      pretrain=_digits(steps, BIT, 'digits/0-4', pp=pp, base_lr=3e-3),
      finetune=_few(few, BIT, pp=pp, base_lr=1e-2, **sgd),
    ),
    {'Adam': {}, 'SGD': dict(pretrain=dict(base_lr=1e-1, **sgd))},
    held_out='held_out',
    base_lrs=(3e-3, 1e-2, 3e-2) if size == 'digits' else (),
  )


def hyperparameters(size: str) -> dict[str, Any]:
  """Returns the plan: three models of growing learning rate and updates.

  They correspond to Figure 10.
  """
  short, long = {'digits': (300, 1200), 'short': (60, 240)}[size]
  sides = {
    name: dict(train=dict(base_lr=rate, total_steps=steps))
    for name, rate, steps in (
      ('low rate, short', 1e-3, short),
      ('high rate, short', 1e-2, short),
      ('high rate, long', 1e-2, long),
    )
  }
  return _plan(size, dict(train=_digits(long, warmup_steps=short // 5)), sides)


def masked_patches(size: str) -> dict[str, Any]:
  """Returns the plan: three ways of pre-training on 0-4, then 5-9.

  The second training has five images of each of its classes.
  """
  steps, few = {'digits': (1500, 300), 'short': (400, 100)}[size]
  return _plan(
    size,
    dict(
      pretrain=_digits(
        steps,
        dataset='digits/0-4',
        objective='masked_patches',
        base_lr={'digits': 3e-3, 'short': 1e-2}[size],
      ),
      finetune=_few(few),
    ),
    {
      'none': dict(pretrain=None),
      'masked patches': {},
      'labels': dict(pretrain=dict(objective='classification')),
    },
    held_out='held_out',
    base_lrs=(1e-3, 3e-3) if size == 'digits' else (3e-3,),
  )


def warm_start(size: str) -> dict[str, Any]:
  """Returns the plan: training on 5 %, then on 10 % of the training images.

  Images are not shifted, because augmentation alone would already help the warm
  start. The factor 0.4 of shrinking is ours.
  """
  steps = {'digits': 600, 'short': 200}[size]
  pp = dict(train='train[:10%]', shift=0)
  half = dict(pp, train='train[:5%]')
  settings = dict(base_lr=3e-3, weight_decay=None, weight_decay_on=None)
  return _plan(
    size,
    dict(
      half=_digits(steps, pp=half, **settings),
      all=_digits(steps, pp=pp, head='keep', **settings),
    ),
    {
      'fresh': dict(half=None, all=dict(head='reset')),
      'warm': {},
      'shrunk and perturbed': dict(all=dict(shrink=0.4, perturb=0.1)),
    },
  )
