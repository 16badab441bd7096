"""The studies at the size of scikit-learn's digits, and shorter still.

A plan is what `running.run` takes, but for name and size. Models, steps and
rates were chosen by trying, so that a study of the default size says something
in minutes on two CPU cores; 'short' is for seeing that everything runs.
"""

import copy

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
BIT_CROP = 16  # pixels: 8 would be 2 after the root block
# A stem to a quarter, so 4x4 patches of 16 pixels; it has the fewest channels
# that its norms can divide.
STEM = dict(patch_size=(1, 1), stem_num_layers=(1,), stem_width_factor=0.5)

_SEEDS = {'digits': (0, 1, 2), 'short': (0, 1)}


def _digits(steps, model=VIT, dataset='digits', **changes):
  """Settings of a training on digits; of `pp`, only what changes."""
  recipe = copy.deepcopy(recipes.QUICKSTART)
  pp = changes.pop('pp', {})
  recipe.update(
    dict(
      dataset=dataset,
      total_steps=steps,
      mixup_alpha=0.0,  # which the quickstart has to reach 98 %
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
  """Settings of a training on five examples of each of five classes."""
  few = dict(
    warmup_steps=steps // 10,
    batch=25,
    pp=dict(train='few') | changes.pop('pp', {}),
  )
  return _digits(steps, model, 'digits/5-9', **few, **changes)


def transfer(size):
  """Pre-trained on 0-4, then 5-9 from five examples each; or not."""
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


def position_embeddings(size):
  """All of Table 8; short: three of it."""
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


def pooling(size):
  """Three rates; short: two."""
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


def data_size(size):
  """Subsets of so many images a class, drawn anew for each seed."""
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


def families(size):
  """Pre-trained on 0-4 once, then 5-9; spreads are of fine-tuning, as there."""
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


def scaling(size):
  """Transformers of two sizes, each on patches or on the same small ResNet.

  As in Table 6 those of one size differ by the stem alone, whose compute comes
  on top. Short: the small ones.
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


def adam_vs_sgd(size):
  """Both pre-train on 0-4, each at its rate, then 5-9 by SGD."""
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


def hyperparameters(size):
  """The three models of Figure 10: rate and number of updates grow."""
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


def masked_patches(size):
  """Three ways to begin, on 0-4; then 5-9 from five examples each."""
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


def warm_start(size):
  """On half of few images first, then on all of these, without shifting.

  Augmentation would help the warm start by itself. Shrinking by 0.4 is ours.
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
