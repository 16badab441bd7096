"""Pre-training cost in TPUv3 core-days, as in Table 2 of the ViT paper.

The paper (arXiv:2010.11929, section 4.2) gives the number of TPU v3 cores, two
per chip, times the days of training, which were measured. Ours is computed: the
exaFLOPs of `cost.exaflops` over the peak of a core. That is the least time that
the training can take. Ours over the paper's is the part of the peak that the
paper's run used.
"""

import dataclasses
from collections.abc import Mapping

from vit_jax_repro.analysis import cost
from vit_jax_repro.parallel import chips

_SECONDS = 24 * 60 * 60
IMAGENET21K_IMAGES = 14.2e6  # the release of Fall 2011 (image-net.org)

# {(model, pre-training set) in Table 2: (our name, images an epoch, epochs)}.
# Epochs: Table 3 of the paper for ViT, which leaves 30 or 90 open for ImageNet-
# 21k. With 30 the run would have used 13 % of the peak, the others use 24 to 43
# %. So 90 is more likely. BiT-L has 40 epochs, also at 224 pixels
# (arXiv:1912.11370, section 3.3). We have no model for Noisy Student.
TABLE_2 = {
  ('ViT-H/14', 'JFT-300M'): ('ViT-H_14', cost.JFT_IMAGES, 14),
  ('ViT-L/16', 'JFT-300M'): ('ViT-L_16', cost.JFT_IMAGES, 14),
  ('ViT-L/16', 'ImageNet-21k'): ('ViT-L_16', IMAGENET21K_IMAGES, 90),
  ('BiT-L R152x4', 'JFT-300M'): ('BiT-L-R152x4', cost.JFT_IMAGES, 40),
}


@dataclasses.dataclass(frozen=True)
class CoreDays:
  """The cost of one system of Table 2 and the published one."""

  system: str  # name in Table 2
  dataset: str
  model: str  # name here
  epochs: int
  exaflops: float
  at_peak: float  # core-days, if the core ran at its peak
  published: float  # core-days

  @property
  def used(self) -> float:
    """Returns the part of the peak that the published time amounts to."""
    return self.at_peak / self.published


def table(published: Mapping[tuple[str, str], float]) -> list[CoreDays]:
  """Computes the core-days of the systems whose models we have.

  Args:
    published: {(system, pre-training set): core-days}, as in Table 2. Systems
      that are no key of `TABLE_2` are left out.
  """
  rows = []
  for key, days in published.items():
    if key not in TABLE_2:
      continue
    name, images, epochs = TABLE_2[key]
    multiply_adds = cost.backbone(name).multiply_adds
    exaflops = cost.exaflops(multiply_adds, epochs * images)
    rows.append(CoreDays(*key, name, epochs, exaflops, days_of(exaflops), days))
  return rows


def days_of(exaflops: float) -> float:
  """Returns the days of a TPU v3 core at its peak for a number of exaFLOPs.

  The peak is that of bfloat16 products: half of a chip's 123 TFLOP/s
  (`chips.CHIPS`).
  """
  (core,) = (chip for chip in chips.CHIPS if chip.name == 'v3')
  return exaflops * 1e18 / core.peak('bfloat16') / _SECONDS
