"""Memory of compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax_repro.analysis import memory

pytestmark = pytest.mark.quick


def compiled(function, *arguments, **options):
  """Compiles a function; returns its memory."""
  return memory.memory_of(
    jax.jit(function, **options).lower(*arguments).compile()
  )


def test_memory_of_separates_arguments_outputs_and_temporaries():
  x = jnp.zeros((256, 256))  # 2^18 bytes
  found = compiled(lambda x: jnp.sort(x @ x, axis=0) @ x, x)
  assert found.arguments == found.outputs == 2**18
  assert found.temporaries >= 2**18
  assert found.total == (
    found.arguments + found.outputs + found.temporaries + found.program
  )


def test_memory_of_counts_a_donated_argument_once():
  x = jnp.zeros((256, 256))
  found = compiled(lambda x: x + 1, x, donate_argnums=0)
  assert found.arguments == 2**18 and found.outputs == 0


def test_compile_and_measure_returns_none_if_xla_runs_out_of_memory():
  """XLA raises this error for a TPU; other errors are raised again."""

  def compile(text):
    raise jax.errors.JaxRuntimeError(text)

  assert (
    memory.compile_and_measure(lambda: compile('RESOURCE_EXHAUSTED: HBM'))
    is None
  )
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
    memory.compile_and_measure(lambda: compile('INTERNAL: other'))


def test_usable_is_95_percent_of_the_limit(monkeypatch):
  assert memory.usable() is None
  monkeypatch.setattr(memory, 'limit', lambda device=None: 1000)
  assert memory.usable() == 950


def test_limit_and_peak_are_none_on_a_cpu():
  assert memory.limit() is None and memory.peak() is None
