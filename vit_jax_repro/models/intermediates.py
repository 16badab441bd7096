"""Named activations, kept when the `intermediates` collection is mutable.

`model.apply(..., mutable=['intermediates'])` returns them as a flat mapping
{name: (array,)}: linen's sown form, under the names of the original code's
modules with their slashes ('Transformer/encoderblock_0'), so that an output
and what lies below it ('Transformer/encoderblock_0/attention_weights') can
both have their name, in scanned encoders too.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax

COLLECTION = 'intermediates'


def is_requested(module: nn.Module) -> bool:
  """Whether the caller asked for the named activations."""
  return module.is_mutable_collection(COLLECTION)


def record(module: nn.Module, named: Mapping[str, jax.Array]) -> None:
  """Sows every named activation of the top-level module `module`."""
  if is_requested(module):
    for name, value in named.items():
      # Not `sow`: it refuses names that are also submodules' ('embedding').
      module.put_variable(COLLECTION, name, (value,))
