"""Tests that JAX alone runs a StableHLO file, and gives the same bits."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_models
from jax import export

from vit_jax_repro import models
from vit_jax_repro.exporting import programs, stablehlo_files
from vit_jax_repro.inference.restoring import Restored

ALONE = """
import sys
sys.modules.update(dict.fromkeys(['vit_jax_repro', 'flax']))
import numpy as np
from jax import export
folder, = sys.argv[1:]
with open(f'{folder}/model.stablehlo', 'rb') as file:
  call = export.deserialize(bytearray(file.read())).call
images = np.load(f'{folder}/images.npy')
for number in (1, len(images)):
  np.save(f'{folder}/logits{number}.npy', call(images[:number]))
"""


@pytest.fixture(scope='module')
def program():
  spec = tiny_models.spec(3, num_layers=1)
  return programs.create(
    Restored(
      models.create(spec),
      tiny_models.params_of(spec),
      'vit',
      (8, 8),
      None,
      'vit_jax',
    )
  )


def test_write_gives_a_program_for_jax_alone(program, tmp_path):
  stablehlo_files.write(tmp_path / 'model.stablehlo', program)
  images = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 3))
  images = images.astype(np.float32)
  np.save(tmp_path / 'images.npy', images)
  done = subprocess.run(
    [sys.executable, '-c', ALONE, str(tmp_path)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  run = jax.jit(program.function)
  for number in (1, 5):
    logits = np.load(tmp_path / f'logits{number}.npy')
    np.testing.assert_array_equal(logits, run(images[:number]))


def test_write_serves_every_platform_and_batch_size(program, tmp_path):
  path = tmp_path / 'model.stablehlo'
  stablehlo_files.write(path, program)
  exported = export.deserialize(bytearray(path.read_bytes()))
  assert exported.platforms == ('cpu', 'cuda', 'tpu')
  (images,) = exported.in_avals
  assert str(images.shape) == '(batch, 8, 8, 3)'
