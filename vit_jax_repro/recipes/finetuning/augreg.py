"""Fine-tuning of AugReg files: the paper's grid and big_vision's settings.

Sources: AugReg paper (arXiv:2106.10270), Table 4, sections 3.5 and C;
google-research/big_vision, configs/transfer.py.
"""

from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.recipes.finetuning.common import (
  SGD,
  dropout,
  random_box,
)
from vit_jax_repro.recipes.finetuning.vit import VTAB
from vit_jax_repro.recipes.recipe import Recipe, RecipeRequest, Rule, build
from vit_jax_repro.recipes.rules import WARMUP

# Table 4: (total steps of each schedule, learning rates).
_GRID = (0.001, 0.003, 0.01)
_TABLE4 = {
  'imagenet2012': ((20_000,), (0.01, 0.03)),
  'oxford_iiit_pet': ((500, 2500), _GRID),
  'vtab/kitti-distance': ((500, 2500), _GRID),
  'cifar100': ((2500, 10_000), _GRID),
  'vtab/resisc45': ((2500, 10_000), _GRID),
}
# Section C: for each task the best of these 8 settings.
_VTAB = ((500, 2500), (*_GRID, 0.03))

# transfer.py: total steps, learning rate, and True for resize and crop or
# False for a random box.
_TRANSFER = {
  'imagenet2012': (20_000, 0.03, False),
  'cifar10': (10_000, 0.003, True),
  'cifar100': (10_000, 0.01, True),
  'oxford_iiit_pet': (500, 0.003, False),
  'oxford_flowers102': (500, 0.003, False),
}


def _variants(request: RecipeRequest) -> tuple[str, ...]:
  """Returns 'table4', 'vtab' or both; some VTAB tasks are in both tables."""
  found = {'table4': _TABLE4, 'vtab': VTAB}
  return tuple(name for name, sets in found.items() if request.known in sets)


def _paper(request: RecipeRequest) -> Recipe:
  of_vtab = request.variant == 'vtab'
  schedules, grid = _VTAB if of_vtab else _TABLE4[request.known]
  total = request.schedule(*schedules)
  row = request.row
  held_out = ('train', 'val') if row.group else ('minitrain', 'minival')
  tune = dict(zip(('train', 'test'), held_out, strict=True))
  notes = [
    'the paper also fine-tunes at 224 pixels; this recipe only at 384',
    'the paper does not state augmentation and evaluation; those of vit_jax',
    'the number of steps is chosen together with the learning rate, from '
    f'{list(schedules)}',
    'the model that is best on the held-out part is tested; the paper does '
    'not state whether it was trained again on both parts',
  ]
  if of_vtab:
    notes += [
      'pvc-79: trains on the full training sets; settings are chosen for '
      'each task',
      'the paper does not state the warm-up; that of the same number of steps '
      'in Table 4',
    ]
  if request.known == 'oxford_iiit_pet':
    notes.append(
      'some released files have a learning rate of 0.03, outside the grid'
    )
  box = random_box(request, request.image_size or catalogue.CROP)
  settings = dict(
    SGD,
    optim_dtype='bfloat16',
    total_steps=total,
    warmup_steps=WARMUP[total],
    preprocessing='vit_jax',
    pp=dict(train=tune['train'], test=row.test, **box),
  )
  return build(
    request,
    'AugReg paper (arXiv:2106.10270), Table 4 and 3.5',
    settings,
    grid,
    model_fields=dropout(request.model, 0.0),
    tune=tune,
    notes=tuple(notes),
  )


def _transfer(request: RecipeRequest) -> Recipe:
  total, rate, resized = _TRANSFER[request.known]
  row = request.row
  pp: dict[str, Any] = dict(
    train=row.splits['minitrain'],
    test=row.test,
    crop=request.image_size or catalogue.CROP,
  )
  notes = [
    'the learning rate is the one that was best on the held-out part; no '
    'model is trained on that part',
    'pvc-06: evaluates the central 384 of 448 pixels',
  ]
  if request.known.startswith('oxford_'):
    notes.append('pvc-04: vit_jax has no preset for Pets and Flowers')
  if resized:
    pp |= dict(resize=448, inception_crop=False)
    notes.append(
      'pvc-05: resizes the short side to 448 and crops; CIFAR is square, so '
      'this equals a square resize'
    )
  settings = dict(
    SGD,
    optim_dtype='bfloat16',  # momentum_hp
    total_steps=total,
    warmup_steps=WARMUP[total],
    preprocessing='big_vision',
    pp=pp,
  )
  return build(
    request,
    'google-research/big_vision, configs/transfer.py',
    settings,
    (rate,),
    model_fields=dropout(request.model, 0.0),
    notes=tuple(notes),
  )


RULES = {
  'augreg-paper': Rule(
    _paper, tuple(dict.fromkeys((*_TABLE4, *VTAB))), _variants
  ),
  'bv-transfer': Rule(_transfer, tuple(_TRANSFER)),
}
