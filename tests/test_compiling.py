import dataclasses

import pytest

from vit_jax_repro.analysis import memory
from vit_jax_repro.benchmarks import compiling, programs

CASE = programs.Case('train', 'ViT-Ti_16', 8, 'float32', (32, 32))


def nothing(line):
  pass


def test_scanning_compiles_faster(as_users_compile):
  """Of the deeper ViT-L/16 three times as fast: docs/performance.md."""
  case = dataclasses.replace(CASE, mesh=dict(data=8))
  plain, scanned = compiling.times(
    case, ['plain', 'scan'], rounds=1, show=nothing
  )
  assert plain.ratio == 1 and plain.variant == 'plain'
  assert scanned.ratio < 0.8
  assert scanned.ratio == pytest.approx(
    (scanned.lower + scanned.compile) / (plain.lower + plain.compile)
  )


def test_the_largest_batch():
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


def test_what_is_divided_and_computed_again_takes_less():
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


def test_no_largest_batch_without_a_limit():
  assert memory.limit() is None
  with pytest.raises(ValueError, match='give --memory_limit_gb=N'):
    compiling.fits(CASE, ['plain'], limit=None, largest=True, show=nothing)
