"""Choosing by name, and the dtype rule that every model follows."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vit_jax_repro.errors import InputError

Dtype = Any


def pick(kind: str, name: Any, table: Mapping[str, Any]) -> Any:
  """Returns `table[name]`; the ValueError names the value and the choices."""
  if not isinstance(name, str) or name not in table:
    raise InputError(f'unknown {kind} {name!r}; choose from {sorted(table)}')
  return table[name]


def norm_dtype(dtype: Dtype) -> Dtype:
  """The dtype of norms, softmax and logits: float32, or wider if asked for."""
  return jnp.promote_types(dtype, jnp.float32)
