"""Shared parts of pre-training recipes: data sets, steps, losses."""

import dataclasses
from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.recipes.recipe import HIDDEN_SIZE, RecipeRequest, steps

COMMON: dict[str, Any] = dict(
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
    name: for jobs.train; '' if the user has to choose the data set.
    num_examples: number of training images.
    train, test: splits.
    head_bias: initial bias for a sigmoid loss (vit_i21k.py, vit_i1k.py).
    note: how the user can provide the data; '' if nothing is needed.
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
  'JFT-300M was not published; set dataset to your own data set, and '
  'num_examples to its number of images',
)
# 14,197,122 images in all: the release of Fall 2011.
IMAGENET21K = PretrainingSet(
  '',
  14_197_122,
  'train',
  'test',
  -10.0,
  'ImageNet-21k is not in TFDS; set dataset to a folder or your own data set, '
  'and num_examples to its number of images',
)
_ROW = catalogue.DATA_SETS['imagenet2012']
IMAGENET = PretrainingSet(
  _ROW.name, _ROW.sizes['train'], 'train', _ROW.test, -6.9, ''
)
# big_vision holds out 51,200 images of ImageNet-21k and 1 % of ImageNet for
# evaluation.
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
  """The pre-training data of a request."""

  request: RecipeRequest  # with its data set filled in
  pp: dict[str, Any]  # splits and crop
  num_examples: int
  batch: int
  notes: tuple[str, ...]

  def steps(self, epochs: float) -> int:
    """Returns the number of updates in a number of epochs."""
    return steps(epochs, self.num_examples, self.batch)


def data_of(
  request: RecipeRequest, own: PretrainingSet, batch: int = 4096
) -> Data:
  """Returns the data of a request: the user's data set, or else the source's.

  Args:
    request: its fields dataset, num_examples and batch are optional.
    own: the source's data set.
    batch: the source's batch.

  Raises:
    InputError: the number of images in the user's data set is not known.
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


def tanh_layer(model: str) -> dict[str, str]:
  """Returns the field of a ViT head's hidden layer; {} for other models.

  The layer is as wide as the model (ViT paper, section 3.1).
  """
  return {'representation_size': HIDDEN_SIZE} if 'ViT-' in model else {}


def adamw_decay(code: float, base_lr: float) -> float:
  """Returns AdamW's weight decay for big_vision's `code`.

  AdamW multiplies the weight decay by the learning rate; big_vision does not.
  """
  return _short(code / base_lr)


def coupled_decay(code: float, base_lr: float, momentum: float = 0.9) -> float:
  """Returns SGD's L2 term for big_vision's weight decay `code` (pvc-59).

  The L2 term is part of the gradient. Momentum therefore accumulates it to
  1 / (1 - momentum) times its value.
  """
  return _short(code / base_lr * (1 - momentum))


def _short(value):
  return float(f'{value:.6g}')  # removes the rounding error of the division
