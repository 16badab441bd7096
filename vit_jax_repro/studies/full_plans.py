"""The studies at full size: the papers' models and recipes on public data.

ImageNet stands where the papers have JFT-300M, which was never published, and
top-1 accuracy where Table 8 and Figure 4 have few-shot accuracy. Accelerator
hours to months: `plans` are for trying.
"""

from vit_jax_repro import models
from vit_jax_repro.recipes import finetuning, pretraining
from vit_jax_repro.runs import configuration
from vit_jax_repro.studies.claims import POSITIONS

_VIT, _RESNET = 'ViT-B_16', 'BiT-S-R50x1'
_SEEDS = (0, 1, 2)
_HELD_OUT = dict(train='minitrain', test='minival')  # of ImageNet, 1 %
_TARGET = 'cifar100'
# Nothing of the ViT paper's is known for less than all of ImageNet.
_HALF = 'train[:50%]'


def _configuration(recipe, model, **changes):
  settings = dict(recipe.settings)
  pp = dict(settings['pp']) | changes.pop('pp', {})
  fields = dict(models.variant(model), model_name=model)
  return configuration.create(
    settings | dict(pp=pp) | changes, recipe.architecture(fields)
  )


def _pretraining(recipe='vit-paper-i1k', model=_VIT, **changes):
  found = pretraining.find(recipe, 'imagenet2012', model)
  return _configuration(found, model, **changes)


def _instead(*args, **kwargs):
  """As `_pretraining`, to replace all that a stage has but its seed."""
  return _without_seed(_pretraining(*args, **kwargs))


def _without_seed(config):
  settings = config.to_dict()
  del settings['seed']
  return settings


def _finetuning(recipe, model):
  """(settings, the part held out, learning rates) on the target."""
  found = finetuning.find(recipe, _TARGET, model)
  if found.tune is None:
    return _configuration(found, model), None, ()
  settings = _configuration(found, model, pp=dict(train=found.tune['train']))
  return settings, found.tune['test'], found.base_lrs


def _plan(stages, sides, **more):
  plan = dict(
    stages=stages,
    sides=sides,
    seeds=_SEEDS,
    held_out=None,
    base_lrs=(),
    once=(),
  )
  return plan | more


def transfer():
  """Pre-trained on ImageNet or not, then CIFAR-100."""
  finetune, held_out, rates = _finetuning('vit-paper', _VIT)
  return _plan(
    dict(pretrain=_pretraining(), finetune=finetune),
    {'pre-trained': {}, 'from scratch': dict(pretrain=None)},
    once=('pretrain',),
    held_out=held_out,
    base_lrs=rates,
  )


def position_embeddings():
  """Table 8 by training from scratch."""
  sides = {
    name: dict(
      train=dict(
        model=dict(position_embedding=kind, position_embedding_at=place)
      )
    )
    for name, (kind, place) in POSITIONS.items()
  }
  return _plan(dict(train=_pretraining()), sides)


def pooling():
  """Figure 9, which has 8e-4 for both and 3e-4 for the mean beside it."""
  gap = dict(train=dict(model=dict(classifier='gap')))
  return _plan(
    dict(train=_pretraining(pp=dict(train=_HELD_OUT['train']))),
    {
      'class token': {},
      'mean': gap,
      "mean, the token's rate": gap | dict(rate_of='class token'),
    },
    held_out=_HELD_OUT['test'],
    base_lrs=(3e-4, 8e-4, 3e-3),
  )


def data_size():
  """Subsets of ImageNet."""
  train = _pretraining()
  resnet = _instead('bit-s', _RESNET)
  subsets = {
    'few': 'train@50#{seed}',
    'some': 'train@300#{seed}',
    'all': 'train',
  }
  sides = {}
  for subset, split in subsets.items():
    pp = dict(train=split)
    sides[f'ViT, {subset}'] = dict(train=dict(pp=pp))
    sides[f'BiT, {subset}'] = dict(
      train=resnet | dict(pp=dict(resnet['pp']) | pp)
    )
  return _plan(dict(train=train), sides)


def families():
  """On ImageNet by the recipe of each, then CIFAR-100 by the same grid."""
  finetune, held_out, rates = _finetuning('vit-paper', _VIT)
  resnet = _without_seed(_finetuning('vit-paper-resnets', _RESNET)[0])
  return _plan(
    dict(pretrain=_pretraining(), finetune=finetune),
    {
      'ViT': {},
      'BiT': dict(pretrain=_instead('bit-s', _RESNET), finetune=resnet),
    },
    once=('pretrain',),
    held_out=held_out,
    base_lrs=rates,
  )


def scaling():
  """Table 6's models of 16x16 patches: -B, -L, and each after a ResNet-50.

  The paper has no settings for a hybrid on ImageNet; all have the ViTs'.
  """
  sides = {
    f'{kind}, {size}': dict(train=_instead(model=f'{stem}ViT-{letter}_16'))
    for size, letter in (('small', 'B'), ('large', 'L'))
    for kind, stem in (('ViT', ''), ('hybrid', 'R50+'))
  }
  return _plan(dict(train=_pretraining()), sides)


def adam_vs_sgd():
  """Table 7, for 90 epochs of ImageNet: BiT's SGD, or Adam as in Table 3."""
  pretrain = _pretraining('bit-s', _RESNET)
  adam = pretraining.find('vit-paper-jft', '', 'BiT-R50x1').settings
  keys = ('optim', 'base_lr', 'weight_decay', 'weight_decay_on')
  finetune, held_out, rates = _finetuning('bit-hyperrule-paper', _RESNET)
  return _plan(
    dict(pretrain=pretrain, finetune=finetune),
    {'Adam': dict(pretrain={k: adam[k] for k in keys}), 'SGD': {}},
    held_out=held_out,
    base_lrs=rates if held_out else (),
  )


def hyperparameters():
  """Figure 10, from half of the recipe's rate and updates on."""
  train = _pretraining()
  steps, rate = train.total_steps, train.base_lr
  sides = {
    name: dict(train=dict(base_lr=base_lr, total_steps=total))
    for name, base_lr, total in (
      ('low rate, short', rate / 2, steps // 2),
      ('high rate, short', rate, steps // 2),
      ('high rate, long', rate, steps),
    )
  }
  return _plan(dict(train=train), sides)


def masked_patches():
  """Without labels, with labels or not at all on ImageNet, then CIFAR-100."""
  finetune, held_out, rates = _finetuning('vit-paper', _VIT)
  masked = _pretraining('vit-paper-masked')
  return _plan(
    dict(pretrain=masked, finetune=finetune),
    {
      'none': dict(pretrain=None),
      'masked patches': {},
      'labels': dict(pretrain=_instead()),
    },
    held_out=held_out,
    base_lrs=rates,
  )


def warm_start():
  """On half of ImageNet, then on all of it."""
  return _plan(
    dict(
      half=_pretraining(pp=dict(train=_HALF)), all=_pretraining(head='keep')
    ),
    {
      'fresh': dict(half=None, all=dict(head='reset')),
      'warm': {},
      'shrunk and perturbed': dict(all=dict(shrink=0.4, perturb=0.1)),
    },
  )
