import types

import pytest

from vit_jax_repro.runs import fitting

pytestmark = pytest.mark.quick
GIB = 2**30


def proposal(needed, limit, **changes):
  given = dict(
    model=types.SimpleNamespace(remat=False, num_layers=12),
    arguments=1 * GIB,
    gradients=0.5 * GIB,
    rows=32,
    accum_steps=1,
    fresh=True,
  )
  return fitting.proposal(
    needed and needed * GIB, limit * GIB, **given | changes
  )


def test_recomputing_alone_where_that_is_enough():
  assert proposal(10, 8) == {'model.remat': True}


def test_the_fewest_parts_where_it_is_not():
  found = proposal(100, 8)
  assert found == {'model.remat': True, 'accum_steps': 8}
  again = types.SimpleNamespace(remat=True, num_layers=12)
  assert proposal(20, 8, model=again) == {'accum_steps': 4}


def test_parts_divide_the_rows_and_are_multiples_of_what_they_were():
  again = types.SimpleNamespace(remat=True, num_layers=12)
  found = proposal(20, 8, model=again, rows=30, accum_steps=2)
  assert found == {'accum_steps': 10}


def test_nothing_where_parameters_alone_are_too_much():
  assert proposal(10, 1) is None


def test_a_run_that_is_continued_keeps_its_parts():
  assert proposal(100, 8, fresh=False) == {'model.remat': True}
  again = types.SimpleNamespace(remat=True, num_layers=12)
  assert proposal(100, 8, fresh=False, model=again) is None


def test_the_least_memory_where_nobody_knows_how_much_is_needed():
  assert proposal(None, 8) == {'model.remat': True, 'accum_steps': 32}
