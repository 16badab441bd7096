"""Named activations, kept if the `intermediates` collection is mutable.

`model.apply(..., mutable=['intermediates'])` returns them as a flat mapping
{name: (array,)}, the form of linen's `sow`. Names are the paths of modules in
the original code, with slashes ('Transformer/encoderblock_0'). In a flat
mapping, an output and an activation inside its module
('Transformer/encoderblock_0/attention_weights') can both have their names, also
in scanned encoders.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax

COLLECTION = 'intermediates'


def is_requested(module: nn.Module) -> bool:
  """Returns whether the caller requested the named activations."""
  return module.is_mutable_collection(COLLECTION)


def record(module: nn.Module, named: Mapping[str, jax.Array]) -> None:
  """Stores the named activations of the top-level module `module`."""
  if is_requested(module):
    for name, value in named.items():
      # `sow` would reject names that submodules have, too ('embedding').
      module.put_variable(COLLECTION, name, (value,))
