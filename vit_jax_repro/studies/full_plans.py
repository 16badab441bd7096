"""The studies at full size: the papers' models and recipes on public data.

ImageNet replaces the papers' JFT-300M, which was never published. Top-1
accuracy replaces the few-shot accuracy of Table 8 and Figure 4. A study takes
hours to months on an accelerator; the studies in `plans` take minutes.
"""

from typing import Any

from vit_jax_repro import models
from vit_jax_repro.recipes import finetuning, pretraining
from vit_jax_repro.runs import configuration
from vit_jax_repro.studies.claims import POSITIONS

_VIT, _RESNET = 'ViT-B_16', 'BiT-S-R50x1'
_SEEDS = (0, 1, 2)
_HELD_OUT = dict(train='minitrain', test='minival')  # of ImageNet, 1 %
_TARGET = 'cifar100'
_HALF = 'train[:50%]'  # ours: the ViT paper has no smaller part of ImageNet


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


def _replacement(*args, **kwargs):
  """Returns the settings of `_pretraining` without seed, to replace a stage."""
  return _without_seed(_pretraining(*args, **kwargs))


def _without_seed(config):
  settings = config.to_dict()
  del settings['seed']
  return settings


def _finetuning(recipe, model):
  """Returns (settings, held-out split, learning rates) for the target."""
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


def transfer() -> dict[str, Any]:
  """Returns the plan: pre-training on ImageNet or none, then CIFAR-100."""
  finetune, held_out, rates = _finetuning('vit-paper', _VIT)
  return _plan(
    dict(pretrain=_pretraining(), finetune=finetune),
    {'pre-trained': {}, 'from scratch': dict(pretrain=None)},
    once=('pretrain',),
    held_out=held_out,
    base_lrs=rates,
  )


def position_embeddings() -> dict[str, Any]:
  """Returns the plan: all sides of Table 8, trained from scratch."""
  sides = {
    name: dict(
      train=dict(
        model=dict(position_embedding=kind, position_embedding_at=place)
      )
    )
    for name, (kind, place) in POSITIONS.items()
  }
  return _plan(dict(train=_pretraining()), sides)


def pooling() -> dict[str, Any]:
  """Returns the plan of Figure 9: class token or mean, at three learning rates.

  The figure has 8e-4 for both, and also 3e-4 for the mean.
  """
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


def data_size() -> dict[str, Any]:
  """Returns the plan: ViT and BiT on 50, 300 or all images a class."""
  train = _pretraining()
  resnet = _replacement('bit-s', _RESNET)
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


def families() -> dict[str, Any]:
  """Returns the plan: ViT and BiT, each by its recipe, then on CIFAR-100.

  On CIFAR-100 both have the same grid of learning rates.
  """
  finetune, held_out, rates = _finetuning('vit-paper', _VIT)
  resnet = _without_seed(_finetuning('vit-paper-resnets', _RESNET)[0])
  return _plan(
    dict(pretrain=_pretraining(), finetune=finetune),
    {
      'ViT': {},
      'BiT': dict(pretrain=_replacement('bit-s', _RESNET), finetune=resnet),
    },
    once=('pretrain',),
    held_out=held_out,
    base_lrs=rates,
  )


def scaling() -> dict[str, Any]:
  """Returns the plan: Table 6's ViTs with 16x16 patches and their hybrids.

  The paper has no settings for a hybrid on ImageNet, so hybrids are trained
  with those of the ViTs.
  """
  sides = {
    f'{kind}, {size}': dict(train=_replacement(model=f'{stem}ViT-{letter}_16'))
    for size, letter in (('small', 'B'), ('large', 'L'))
    for kind, stem in (('ViT', ''), ('hybrid', 'R50+'))
  }
  return _plan(dict(train=_pretraining()), sides)


def adam_vs_sgd() -> dict[str, Any]:
  """Returns the plan of Table 7: a ResNet with BiT's SGD or Table 3's Adam.

  Both pre-train for 90 epochs of ImageNet.
  """
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


def hyperparameters() -> dict[str, Any]:
  """Returns the plan of Figure 10: the recipe's rate and updates, or half."""
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


def masked_patches() -> dict[str, Any]:
  """Returns the plan: three ways of pre-training, then CIFAR-100.

  Pre-training on ImageNet is without labels, with labels, or left out.
  """
  finetune, held_out, rates = _finetuning('vit-paper', _VIT)
  masked = _pretraining('vit-paper-masked')
  return _plan(
    dict(pretrain=masked, finetune=finetune),
    {
      'none': dict(pretrain=None),
      'masked patches': {},
      'labels': dict(pretrain=_replacement()),
    },
    held_out=held_out,
    base_lrs=rates,
  )


def warm_start() -> dict[str, Any]:
  """Returns the plan: training on half of ImageNet, then on all of it."""
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
