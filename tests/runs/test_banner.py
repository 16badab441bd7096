"""The lines that describe a run before its first update."""

import jax
import pytest

from vit_jax_repro.parallel import installed, mesh
from vit_jax_repro.runs import banner, configuration, settings

pytestmark = pytest.mark.quick


@pytest.fixture(scope='module')
def quickstart():
  from vit_jax_repro import recipes

  return settings.from_config(
    configuration.create(recipes.QUICKSTART, recipes.QUICKSTART_MODEL)
  )


def test_devices_names_kind_and_axes():
  """An axis of the mesh is missing, or one of size 1 is listed."""
  assert banner.devices(mesh.create_mesh(fsdp=8)) == '8 x cpu, fsdp=8'
  axes = banner.devices(mesh.create_mesh(fsdp=2, model=2))
  assert axes == '8 x cpu, data=2, fsdp=2, model=2'


def test_numerics_lists_what_changes_numbers(monkeypatch):
  """An option that changes results is in neither banner nor manifest."""
  monkeypatch.setenv('XLA_FLAGS', '')
  option = 'jax_disable_most_optimizations'
  monkeypatch.setitem(installed._OPTIONS, option, True)
  assert installed.numerics() == {}
  with jax.default_matmul_precision('highest'):
    assert installed.numerics() == {
      'jax_default_matmul_precision': 'products in highest precision'
    }
  monkeypatch.setenv('NVIDIA_TF32_OVERRIDE', '0')
  assert installed.numerics() == {
    'NVIDIA_TF32_OVERRIDE': 'NVIDIA_TF32_OVERRIDE=0'
  }


@pytest.mark.parametrize(
  ('step', 'text'),
  [
    (0, 'fresh'),
    (1200, 'resumes at step 1,200 of 2,400'),
    (2400, 'already finished, at step 2,400; nothing is left to train'),
  ],
)
def test_start_names_the_first_step(quickstart, step, text):
  """A resumed or finished run looks like a fresh one."""
  assert banner.start(quickstart, step, 2400) == text


def test_length_counts_epochs(quickstart):
  """Epochs are counted in batches, or without the batch size."""
  text = banner.length(quickstart, 2400, 1437)
  assert text == '64 images, 2,400 updates, 107 epochs'
