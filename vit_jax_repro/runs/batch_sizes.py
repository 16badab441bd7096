"""Sizes of batches that depend on the devices."""

from collections.abc import Sequence

import jax

from vit_jax_repro.parallel import host_memory
from vit_jax_repro.parallel import mesh as mesh_lib
from vit_jax_repro.runs.settings import Settings


def batches_ahead(settings: Settings, mesh: jax.sharding.Mesh) -> int:
  """Returns how many batches are put on the devices ahead of time.

  On CPUs none, because the input pipeline holds its batches in the same memory.
  """
  if mesh_lib.local_device(mesh).platform == 'cpu':
    return 0
  return settings.prefetch


def evaluation_rows(
  settings: Settings, image_size: Sequence[int], mesh: jax.sharding.Mesh
) -> int:
  """Returns the rows of an evaluation's batch, over all devices.

  They are `batch_eval`, or less on CPUs, see `host_memory.rows_at_once`.
  """
  device = mesh_lib.local_device(mesh)
  processes = jax.process_count()
  rows = -(-settings.batch_eval // processes)
  return processes * host_memory.rows_at_once(rows, image_size, device)
