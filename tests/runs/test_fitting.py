"""Proposals of settings with which an update fits into memory."""

import types

import jax
import jax.numpy as jnp
import pytest

from vit_jax_repro.runs import fitting

pytestmark = pytest.mark.quick
GIB = 2**30


def proposal(needed, limit, **changes):
  """Returns the proposal for needed and available memory in GiB."""
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


def test_proposal_is_remat_alone_if_it_is_enough():
  assert proposal(10, 8) == {'model.remat': True}


def test_proposal_has_the_smallest_accum_steps_enough():
  found = proposal(100, 8)
  assert found == {'model.remat': True, 'accum_steps': 8}
  again = types.SimpleNamespace(remat=True, num_layers=12)
  assert proposal(20, 8, model=again) == {'accum_steps': 4}


def test_proposal_divides_rows_by_a_multiple_of_accum_steps():
  again = types.SimpleNamespace(remat=True, num_layers=12)
  found = proposal(20, 8, model=again, rows=30, accum_steps=2)
  assert found == {'accum_steps': 10}


def test_proposal_is_none_if_parameters_alone_are_too_large():
  assert proposal(10, 1) is None


def test_proposal_for_a_continued_run_keeps_accum_steps():
  assert proposal(100, 8, fresh=False) == {'model.remat': True}
  again = types.SimpleNamespace(remat=True, num_layers=12)
  assert proposal(100, 8, fresh=False, model=again) is None


def test_proposal_is_the_least_memory_if_the_need_is_unknown():
  assert proposal(None, 8) == {'model.remat': True, 'accum_steps': 32}


def test_proposal_is_empty_if_the_update_fits():
  assert proposal(5, 8) == {}


def test_proposal_for_a_cpu_recomputes_only_scanned_blocks():
  """A CPU's compiler merges what is recomputed outside of a loop."""
  model = types.SimpleNamespace(remat=False, num_layers=12, scan=False)
  assert proposal(10, 8, model=model, platform='cpu') == {'accum_steps': 2}
  model.scan = True
  found = proposal(10, 8, model=model, platform='cpu')
  assert found == {'model.remat': True}


@pytest.mark.parametrize('rows', [1000, 3000])
def test_saved_activations_are_what_the_backward_pass_reads(rows):
  """Of sin(x w) these are x and the cosine; `teacher` is not saved."""

  def objective(teacher):
    def loss(params, batch, key):
      products = batch['image'] @ params['w']
      return jnp.sin(products).mean() + teacher.sum(), {}

    return loss

  batch = {'image': jax.ShapeDtypeStruct((rows, 4), jnp.float32)}
  params = {'w': jax.ShapeDtypeStruct((4, 8), jnp.float32)}
  teacher = jax.ShapeDtypeStruct((99_999,), jnp.float32)
  found = fitting.saved_activations(objective, params, batch, teacher)
  assert found == pytest.approx(rows * (4 + 8) * 4, rel=0.01)
