"""The parts of which causes are made: substitutions in a variant.

A row has the topic, the value of the port, the value of the reference, the
substitution, and a pattern of the names of activations whose computation it
changes; see `causes.Cause`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from vit_jax_repro.comparison.activations import Variant
from vit_jax_repro.weights import trees

Row = tuple[str, str, str, Callable[[Variant], Variant], str]

# Patterns of the names of activations whose computation a cause changes.
FIRST = '(conv_root|root_block|embedding|stem)$'
POSITIONS = 'Transformer/posembed_input$'
ATTENTION = '/MultiHeadDotProductAttention_0$'
POOLED = '(fc_norm|pre_logits)$'


def around(interceptor: Callable, variant: Variant) -> Variant:
  """Returns the variant with one more interceptor around its modules."""
  return variant._replace(around=(*variant.around, interceptor))


def with_param(
  name: str, change: Callable[[np.ndarray], np.ndarray], variant: Variant
) -> Variant:
  """Returns the variant with a parameter changed."""
  flat = trees.flatten(variant.params)
  changed = flat | {name: change(np.asarray(flat[name]))}
  return variant._replace(params=trees.nest(changed))


def is_at(context: nn.module.InterceptorContext, *path: Any) -> bool:
  """Returns whether an intercepted call is that of the module at a path."""
  return context.method_name == '__call__' and context.module.path == path
