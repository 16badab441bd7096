"""Compile times and memory of the variants of a program."""

import dataclasses

import pytest

from vit_jax_repro.analysis import memory
from vit_jax_repro.benchmarks import compiling, programs

CASE = programs.Case('train', 'ViT-Ti_16', 8, 'float32', (32, 32))


def nothing(line):
  pass


def test_times_compares_variants_with_the_first():
  """Speeds are compared on a quiet machine: docs/performance.md."""
  case = dataclasses.replace(CASE, kind='infer', mesh=dict(data=8))
  plain, scanned = compiling.times(
    case, ['plain', 'scan'], rounds=1, show=nothing
  )
  assert plain.ratio == 1 and plain.variant == 'plain'
  assert scanned.variant == 'scan' and scanned.lower > 0 < scanned.compile
  assert scanned.ratio == pytest.approx(
    (scanned.lower + scanned.compile) / (plain.lower + plain.compile)
  )


def test_scanned_program_is_a_fifth_as_long():
  """Counts the lines of 12 blocks before XLA; the compile time follows them."""
  case = dataclasses.replace(CASE, mesh=dict(data=8))
  lengths = {}
  for name in ('plain', 'scan'):
    program = programs.create(programs.variant(case, name))
    lowered = program.function.lower(*program.arguments)
    lengths[name] = len(lowered.as_text().splitlines())
  assert lengths['scan'] < lengths['plain'] / 5


def test_fits_finds_the_largest_batch():
  case = dataclasses.replace(CASE, kind='infer', mesh=dict(data=1, fsdp=8))
  between = programs.variant(dataclasses.replace(case, batch_size=24), 'scan')
  limit = compiling.expected(between).total
  (row,) = compiling.fits(
    case, ['scan'], limit=limit, largest=True, show=nothing
  )
  assert row.largest_batch == 16 and row.limit == limit
  scanned = programs.variant(case, 'scan')
  assert row.memory == compiling.expected(scanned)
  (row,) = compiling.fits(case, ['scan'], limit=1, largest=True, show=nothing)
  assert row.largest_batch == 0


def test_fsdp_and_remat_reduce_memory():
  case = dataclasses.replace(CASE, image_size=(64, 64), mesh=dict(data=8))
  divided = dataclasses.replace(case, mesh=dict(data=1, fsdp=8))
  whole, again, part = (
    compiling.expected(programs.variant(each, name))
    for each, name in (
      (case, 'scan'),
      (case, 'scan+remat'),
      (divided, 'scan+remat'),
    )
  )
  assert again.temporaries < whole.temporaries
  assert again.arguments == whole.arguments > 6 * part.arguments


def test_fits_needs_a_limit_for_the_largest_batch():
  assert memory.limit() is None
  with pytest.raises(ValueError, match='give --memory_limit_gb=N'):
    compiling.fits(CASE, ['plain'], limit=None, largest=True, show=nothing)
