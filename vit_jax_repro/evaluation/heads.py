"""One of the two heads of a distilled model."""

import dataclasses
from typing import Any

HEADS = ('both', 'class', 'distillation')


@dataclasses.dataclass(frozen=True)
class OneHead:
  """A distilled ViT of which one head alone speaks (DeiT paper, Table 3).

  Fields:
    model: a `models.vit.ViT` with `distilled`, without dropout.
    head: 'class' or 'distillation'.
  """

  model: Any
  head: str

  @property
  def num_classes(self):
    return self.model.num_classes

  def apply(self, variables, images, *, train):
    """Images [B, H, W, 3] -> logits [B, K] of that head."""
    del train
    # In training the model gives both; without dropout nothing else changes.
    logits = self.model.apply(variables, images, train=True)
    return logits[HEADS.index(self.head) - 1]


def pick_head(model: Any, head: str) -> Any:
  """The model, or that of one head.

  Args:
    model: a linen module.
    head: of `HEADS`; 'both' is what the model itself gives, their mean.

  Raises:
    ValueError: an unknown head, or one of a model that has no two.
  """
  if head not in HEADS:
    raise ValueError(f'unknown {head=}; choose from {list(HEADS)}')
  if head == 'both':
    return model
  if not getattr(model, 'distilled', False):
    raise ValueError(
      f"head={head!r} is of distilled models (DeiT); use 'both' for this one"
    )
  without = dict(
    dropout_rate=0.0, attention_dropout_rate=0.0, stochastic_depth_rate=0.0
  )
  return OneHead(model.clone(**without), head)
