import jax
import jax.numpy as jnp
import pytest

from vit_jax_repro.analysis import memory

pytestmark = pytest.mark.quick


def compiled(function, *arguments, **options):
  return memory.of(jax.jit(function, **options).lower(*arguments).compile())


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


def test_a_cpu_reports_no_limit():
  assert memory.limit() is None and memory.peak() is None
