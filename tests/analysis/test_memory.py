import jax
import jax.numpy as jnp
import pytest

from vit_jax_repro.analysis import memory

pytestmark = pytest.mark.quick


def compiled(function, *arguments, **options):
  return memory.memory_of(
    jax.jit(function, **options).lower(*arguments).compile()
  )


def test_arguments_outputs_and_what_is_between():
  x = jnp.zeros((256, 256))  # 2^18 bytes
  found = compiled(lambda x: jnp.sort(x @ x, axis=0) @ x, x)
  assert found.arguments == found.outputs == 2**18
  assert found.temporaries >= 2**18
  assert found.total == (
    found.arguments + found.outputs + found.temporaries + found.program
  )


def test_an_output_in_the_place_of_an_argument_counts_once():
  x = jnp.zeros((256, 256))
  found = compiled(lambda x: x + 1, x, donate_argnums=0)
  assert found.arguments == 2**18 and found.outputs == 0


def test_a_compiler_that_gives_up():
  """As XLA does for a TPU; another error is not taken for that."""

  def compile(text):
    raise jax.errors.JaxRuntimeError(text)

  assert (
    memory.compile_and_measure(lambda: compile('RESOURCE_EXHAUSTED: HBM'))
    is None
  )
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
    memory.compile_and_measure(lambda: compile('INTERNAL: other'))


def test_what_may_be_used(monkeypatch):
  assert memory.usable() is None
  monkeypatch.setattr(memory, 'limit', lambda device=None: 1000)
  assert memory.usable() == 950


def test_a_cpu_reports_no_limit():
  assert memory.limit() is None and memory.peak() is None
