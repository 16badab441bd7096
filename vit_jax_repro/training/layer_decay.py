"""Layers of a model by the names of its parameters, and their learning rates.

The learning rate of layer n of a model with L blocks is multiplied by
decay ** (L + 1 - n). Layer 0 is everything before the blocks (patch and
position embeddings, tokens, the stem of a hybrid), layer i + 1 is block i, and
layer L + 1 is everything after them (final norm, pooling, head). This is the
form of BEiT (arXiv:2106.08254, fine-tuning; get_num_layer_for_vit in its
optim_factory.py) and MAE (arXiv:2111.06377, table 9; util/lr_decay.py).

Those projects have it for ViTs. Here it holds for every family: the blocks of a
Mixer are its MixerBlock_0, ..., the blocks of BiT are block1 to block4, those
of EfficientNet block1 to block7.
"""

import dataclasses
import re

import flax.linen as nn
import jax
import numpy as np
import optax

from vit_jax_repro.errors import InputError
from vit_jax_repro.weights.adapt import HEADS

# {field with the number of blocks, or with one entry for each: (start of their
# names, number of the first)}.
_FAMILIES = {
  'num_layers': ('Transformer/encoderblock_', 0),
  'num_blocks': ('MixerBlock_', 0),
  'block_units': ('block', 1),
}
_STACKED = 'Transformer/encoderblock/'
# Everything else that is in no block comes before the blocks.
_AFTER = (
  'Transformer/encoder_norm/',
  'fc_norm/',
  'MAPHead_0/',
  'pre_logits/',
  'pre_head_layer_norm/',
  'group_norm/',
  'top/',
  *HEADS,
)


@dataclasses.dataclass(frozen=True)
class Layers:
  """The layers of a model, from 0 to `num_blocks + 1`.

  Attributes:
    num_blocks: the number of blocks.
    start: start of the blocks' names, before their number.
    first: number of the first block.
  """

  num_blocks: int
  start: str
  first: int

  def number(self, name: str) -> int | None:
    """Returns the layer of a parameter; None for stacked blocks.

    Args:
      name: path of the parameter, with '/' between its keys.
    """
    if name.startswith(_STACKED):
      return None
    if found := re.match(rf'{self.start}(\d+)/', name):
      return int(found[1]) - self.first + 1
    return self.num_blocks + 1 if name.startswith(_AFTER) else 0


def layers_of(model: nn.Module) -> Layers:
  """Returns the layers of a model of this package."""
  [field] = [name for name in _FAMILIES if hasattr(model, name)]
  value = getattr(model, field)
  number = value if isinstance(value, int) else len(value)
  return Layers(number, *_FAMILIES[field])


def scaled_by_layer(
  tx: optax.GradientTransformation, decay: float, model: nn.Module
) -> optax.GradientTransformation:
  """Returns the optimiser with its updates scaled for each layer.

  The factor applies to whole updates, so also to a decoupled weight decay, as
  in the originals, where each layer has a learning rate of its own. Clipping
  comes before it and depends on the gradients of all layers.

  Args:
    tx: the optimiser.
    decay: factor between neighbouring layers, above 0 and at most 1.
    model: the model, whose blocks may be stacked.

  Raises:
    InputError: `decay` is not above 0 and at most 1.
  """
  if not 0 < decay <= 1:
    raise InputError(f'{decay=} must be above 0 and at most 1')
  layers = layers_of(model)

  last = layers.num_blocks + 1

  def scale(path, update):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    number = layers.number(name)
    if number is None:
      numbers = np.arange(1, last)
      number = numbers.reshape(-1, *(1,) * (update.ndim - 1))  # [L, 1, ...]
    return update * np.asarray(decay ** (last - number), update.dtype)

  def scaled(updates, params):
    del params
    return jax.tree.map_with_path(scale, updates)

  return optax.chain(tx, optax.stateless(scaled))
