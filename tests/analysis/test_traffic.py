"""Memory traffic of texts by hand and of a compiled product."""

import hlo_text
import jax
import jax.numpy as jnp
import pytest

from vit_jax_repro.analysis import hlo, traffic

pytestmark = pytest.mark.quick


def test_total_leaves_out_arrays_in_on_chip_memory():
  """The slice stays on the chip; the gather writes; kernels read and write."""
  gather, kernel, part = 8 * 4 * 4, 8 * 2, 2 * 4 * 4
  counting = (4 + 4 + 4) + (4 + 4 + 1)  # the loop adds and compares
  step = part + gather + counting
  assert traffic.total(hlo_text.read()) == 6 * step + 5 * 2 * kernel


def test_total_of_a_fusion_counts_only_accessed_slices():
  """Scanned layers slice stacked arrays, also in a fusion within a fusion."""
  found = hlo.HloModule("""
%inner (stack: f32[24,100], i: s32[]) -> f32[1,100] {
  %stack = f32[24,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %same = f32[24,100]{1,0} bitcast(%stack)
  ROOT %one = f32[1,100]{1,0} dynamic-slice(%same, %i)
}

%outer (all: f32[24,100], n: s32[], sums: f32[24,100]) -> f32[24,100] {
  %all = f32[24,100]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %sums = f32[24,100]{1,0} parameter(2)
  %block = f32[1,100]{1,0} fusion(%all, %n), kind=kLoop, calls=%inner
  ROOT %new = f32[24,100]{1,0} dynamic-update-slice(%sums, %block, %n)
}

ENTRY %main (a: f32[24,100], k: s32[], b: f32[24,100]) -> f32[24,100] {
  %a = f32[24,100]{1,0} parameter(0)
  %k = s32[] parameter(1)
  %b = f32[24,100]{1,0} parameter(2)
  ROOT %result = f32[24,100]{1,0} fusion(%a, %k, %b), kind=kLoop, calls=%outer
}
""")
  assert traffic.total(found) == 400 + 4 + 400


def compiled(function, *arguments, **options):
  """Returns the module of a compiled function."""
  text = jax.jit(function, **options).lower(*arguments).compile().as_text()
  return hlo.HloModule(text)


def test_total_of_a_product_is_its_operands_and_result():
  x = jnp.zeros((64, 32))
  found = traffic.total(compiled(lambda x: jnp.cos(x @ x.T), x))
  once = 64 * 32 * 4 + 64 * 64 * 4
  assert once <= found <= once + 4 * 64 * 64 * 4  # cos, and x may be read twice
