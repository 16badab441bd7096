"""Choice by name from a table, and the dtype rule of all models."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vit_jax_repro.errors import InputError

Dtype = Any


def pick(kind: str, name: Any, table: Mapping[str, Any]) -> Any:
  """Returns `table[name]`.

  Args:
    kind: description of the name, for the message.
    name: the chosen key.
    table: {name: value}.

  Raises:
    InputError: the name is unknown; the message has the name and the choices.
  """
  if not isinstance(name, str) or name not in table:
    raise InputError(f'unknown {kind} {name!r}; choose from {sorted(table)}')
  return table[name]


def norm_dtype(dtype: Dtype) -> Dtype:
  """Returns the dtype of norms, softmax and logits: float32 or wider."""
  return jnp.promote_types(dtype, jnp.float32)
