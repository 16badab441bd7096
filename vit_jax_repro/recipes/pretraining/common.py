"""Shared parts of pre-training recipes: data sets, steps, losses."""

import dataclasses
import re
from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.recipes.recipe import RecipeRequest, steps

# Widths of the ViTs (ViT paper, Table 1; AugReg paper, Table 1): the tanh
# layer before the head is as wide (ViT paper, section 3.1).
_WIDTHS = {'Ti': 192, 'S': 384, 'B': 768, 'L': 1024, 'H': 1280}

COMMON = dict(
  optim_dtype='float32',
  batch_eval=512,
  shuffle_buffer=250_000,  # big_vision/configs/vit_i21k.py and others
  eval_every=5000,
  progress_every=50,
)


@dataclasses.dataclass(frozen=True)
class PretrainingSet:
  """A data set that a paper pre-trains on.

  Fields:
    name: as jobs.train takes it; '' where the user has to say.
    num_examples: training images.
    train, test: splits of it.
    head_bias: that a sigmoid loss starts from (vit_i21k.py, vit_i1k.py).
    note: where it is from, and what the number is.
  """

  name: str
  num_examples: int
  train: str
  test: str
  head_bias: float
  note: str


JFT = PretrainingSet(
  '',
  303_000_000,  # ViT paper, section 4.1
  'train',
  'test',
  -10.0,
  'JFT-300M was not published; set dataset, and num_examples to its images',
)
# 14,197,122 images in all: the release of Fall 2011.
IMAGENET21K = PretrainingSet(
  '',
  14_197_122,
  'train',
  'test',
  -10.0,
  'ImageNet-21k is not in TFDS; set dataset to a folder or a set of your own, '
  'and num_examples to its images',
)
_ROW = catalogue.DATA_SETS['imagenet2012']
IMAGENET = PretrainingSet(
  _ROW.name, _ROW.sizes['train'], 'train', _ROW.test, -6.9, ''
)
# big_vision's own sets: 51,200 images of the one and 1 % of the other are kept
# for evaluation.
BV_IMAGENET21K = dataclasses.replace(
  IMAGENET21K,
  num_examples=IMAGENET21K.num_examples - 51_200,
  train='full[51200:]',
  test='full[:25600]',
)
BV_IMAGENET = dataclasses.replace(
  IMAGENET,
  num_examples=round(IMAGENET.num_examples * 0.99),
  train=_ROW.splits['minitrain'],
)


@dataclasses.dataclass(frozen=True)
class Data:
  """A data set as a request names it."""

  request: RecipeRequest  # its data set filled in
  pp: dict[str, Any]  # splits and size
  num_examples: int
  batch: int
  notes: tuple[str, ...]

  def steps(self, epochs: float) -> int:
    """Returns the number of updates in a number of epochs."""
    return steps(epochs, self.num_examples, self.batch)


def data_of(
  request: RecipeRequest, own: PretrainingSet, batch: int = 4096
) -> Data:
  """Returns the data of a request: the source's own, or what the user names.

  Raises:
    InputError: how many images the user's data set has is not known.
  """
  batch = request.batch or batch
  if not request.dataset or request.dataset == own.name:
    pp = dict(train=own.train, test=own.test, crop=224)
    number = request.num_examples or own.num_examples
    request = dataclasses.replace(request, dataset=own.name)
    return Data(request, pp, number, batch, (own.note,) if own.note else ())
  row = catalogue.find(request.dataset)
  pp = dict(train='train', test=row.test if row else 'test', crop=224)
  return Data(request, pp, request.examples('train'), batch, ())


def sigmoid(own: PretrainingSet) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns (settings, model fields) of a sigmoid loss for a data set."""
  return dict(loss='sigmoid'), dict(head_bias_init=own.head_bias)


def tanh_layer(model: str) -> dict[str, int]:
  """Returns the field of a ViT head's hidden layer; {} for other models."""
  size = re.search(r'ViT-(\w+?)_', model)
  return {'representation_size': _WIDTHS[size[1]]} if size else {}


def adamw_decay(code: float, base_lr: float) -> float:
  """Returns AdamW's decay for big_vision's, which excludes the rate."""
  return _short(code / base_lr)


def coupled_decay(code: float, base_lr: float, momentum: float = 0.9) -> float:
  """Returns the L2 term of SGD for big_vision's decay (pvc-59).

  A term that is added to the gradient acts through the momentum, where it
  adds up to 1 / (1 - momentum) times itself.
  """
  return _short(code / base_lr * (1 - momentum))


def _short(value):
  return float(f'{value:.6g}')  # without the last bits of the division
