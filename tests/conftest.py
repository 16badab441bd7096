"""Order of the test modules and fixtures that many modules share."""

import gc
import pathlib

import environment
import pytest

# Modules that take longest, the longest first, so that no process is left with
# them at the end. `make test` keeps the order.
_LONG = (
  'test_main',
  'reproduction/test_running',
  'test_kills',
  'test_benchmark',
  'training/test_steps',
  'comparison/test_crosschecking',
  'test_parallel_training',
  'runs/test_update',
  'benchmarks/test_speed',
  'weights/test_weights',
  'test_jobs',
  'data/test_randaugment',
  'comparison/test_diagnosis',
  'runs/test_input',
  'studies/test_running',
  'runs/test_preemption',
)
_TESTS = pathlib.Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_collection():
  """Keeps the garbage collector from the modules that collection imports.

  Each full collection would pass over millions of objects that stay.
  """
  gc.disable()
  result = yield
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)
  gc.enable()
  return result


def pytest_collection_modifyitems(items):
  order = {_TESTS / f'{name}.py': place for place, name in enumerate(_LONG)}
  items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_unconfigure():
  environment.clean_up()


@pytest.fixture(scope='module')
def as_users_compile():
  """Turns on XLA's optimisations, which other tests go without.

  `make exact` runs all modules that take it, with the flags that users have.
  """
  import jax

  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', not environment.AS_USERS)


@pytest.fixture
def compile_fast(as_users_compile):
  """Turns the optimisations off for one test, except in `make exact`."""
  import jax

  jax.config.update('jax_disable_most_optimizations', not environment.AS_USERS)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='session')
def tiny_vit(tmp_path_factory) -> pathlib.Path:
  """A ten-class ViT for 8x8 pixels, in an .npz without a model card."""
  import tiny_models

  from vit_jax_repro import weights

  path = tmp_path_factory.mktemp('weights') / 'tiny.npz'
  weights.save(path, tiny_models.params_of(tiny_models.spec(10)))
  return path


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """The folder of reference arrays."""
  return _TESTS / 'data'
