"""Numbers of parameters compared with the published ones.

The papers do not mention whether heads count, and they count differently.
Table 1 of the ViT paper (arXiv:2010.11929) has one number for each width. It
agrees with ViT-B/16 without a head, and with ViT-L/32 and ViT-H/14 with a head
of 1000 classes. Tables 1 and 2 of AugReg (arXiv:2106.10270) agree with such a
head after a tanh layer.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from vit_jax_repro import models
from vit_jax_repro.analysis import cost
from vit_jax_repro.weights import trees

NUM_CLASSES = 1000
COUNTS = ('no head', 'head', 'tanh, head')


@dataclasses.dataclass(frozen=True)
class Size:
  """Published and computed numbers of parameters of a model."""

  system: str  # name in the source
  model: str  # name here
  published: str  # in millions, such as '86' or '87 (paper); 88 (README)'
  # {member of COUNTS: parameters} at 224 pixels: without a head, with a head of
  # NUM_CLASSES, and with a tanh layer of the model's width before the head.
  counts: dict[str, int]

  @property
  def fitting(self) -> tuple[str, ...]:
    """Returns the counts that round or truncate to a published number."""
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
  """Computes the counts of the models whose published number is known.

  Args:
    rows: rows of the paper's model sizes, with the keys `model` and
      `params_M_published`.

  Raises:
    InputError: a name of a model is unknown.
  """
  return [
    _size(row['model'], row['params_M_published'])
    for row in rows
    if row['params_M_published']
  ]


def name_of(system: str) -> str:
  """Returns the model's name here: 'DeiT-B_16' for 'DeiT-B@384'."""
  name = system.replace('/', '_').replace('BiT R', 'BiT-R')
  name = name.removesuffix(' (JFT)').replace(' distilled', '-distilled')
  name = re.sub(r'^DeiT-(Ti|S|B)(@384)?(?=-|$)', r'DeiT-\1_16', name)
  return models.canonical_name(name)


def _size(system, published):
  name = name_of(system)
  found = cost.backbone(name)
  backbone = trees.num_parameters(found.variables)
  width = found.output.shape[-1]
  heads = found.output.size // width  # a distilled model has two
  head = heads * (width + 1) * NUM_CLASSES
  counts = (backbone, backbone + head, backbone + head + (width + 1) * width)
  return Size(system, name, published, dict(zip(COUNTS, counts, strict=True)))
