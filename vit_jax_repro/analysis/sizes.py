"""Numbers of parameters beside the published ones.

The papers do not say whether heads count, and count differently: the ViT
paper's Table 1 (arXiv:2010.11929), one number for each width, fits ViT-B/16
without a head and ViT-L/32 and ViT-H/14 with one of 1000 classes; AugReg's
Tables 1 and 2 (arXiv:2106.10270) fit such a head behind a tanh layer.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from vit_jax_repro import models
from vit_jax_repro.analysis import cost

NUM_CLASSES = 1000
COUNTS = ('no head', 'head', 'tanh, head')


@dataclasses.dataclass(frozen=True)
class Size:
  """A published number of parameters, and ours."""

  system: str  # as the source calls it
  model: str  # as we do
  published: str  # in millions, such as '86' or '87 (paper); 88 (README)'
  # Of COUNTS: at 224 pixels, without a head, with one of NUM_CLASSES, and with
  # a tanh layer of the model's width before it.
  counts: dict[str, int]

  @property
  def fitting(self) -> tuple[str, ...]:
    """The counts that are the published number, rounded or cut off."""
    return tuple(
      name for name, count in self.counts.items() if self._fits(count / 1e6)
    )

  def _fits(self, millions):
    for text in re.findall(r'\d+(?:\.\d+)?', self.published):
      unit = 10.0 ** -len(text.partition('.')[2])
      if -unit / 2 <= millions - float(text) < unit:
        return True
    return False


def table(rows: Iterable[Mapping[str, str]]) -> list[Size]:
  """Our counts for the rows that publish one.

  Args:
    rows: of the paper's `sizes`: `model` and `params_M_published` of each.

  Raises:
    InputError: a model has no name of ours.
  """
  return [
    _size(row['model'], row['params_M_published'])
    for row in rows
    if row['params_M_published']
  ]


def name_of(system: str) -> str:
  """Our name of a model: 'DeiT-B@384 distilled' is 'DeiT-B_16-distilled'."""
  name = system.replace('/', '_').replace('BiT R', 'BiT-R')
  name = name.removesuffix(' (JFT)').replace(' distilled', '-distilled')
  name = re.sub(r'^DeiT-(Ti|S|B)(@384)?(?=-|$)', r'DeiT-\1_16', name)
  return models.canonical_name(name)


def _size(system, published):
  name = name_of(system)
  model = models.create(name, num_classes=None)
  image = jax.ShapeDtypeStruct(
    (1, cost.IMAGE_SIZE, cost.IMAGE_SIZE, 3), jnp.float32
  )
  features, variables = jax.eval_shape(
    model.init_with_output, jax.random.key(0), image
  )
  backbone = cost.size_of(variables)
  width = features.shape[-1]
  heads = features.size // width  # two of a distilled model
  head = heads * (width + 1) * NUM_CLASSES
  counts = (backbone, backbone + head, backbone + head + (width + 1) * width)
  return Size(system, name, published, dict(zip(COUNTS, counts, strict=True)))
