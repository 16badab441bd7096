"""Estimates of the memory that a run takes of the machine that it runs on.

On a CPU the compiled update is not all: the same memory has the libraries, the
batches that are read, the shuffle buffer and the evaluation. The constants were
measured, and docs/performance.md compares the estimates with measured runs.
"""

import math
import sys

import jax

from vit_jax_repro.data import decoding, photographs
from vit_jax_repro.parallel import host_memory
from vit_jax_repro.parallel import mesh as mesh_lib
from vit_jax_repro.runs import batch_sizes, optimization
from vit_jax_repro.runs.update import Update

_MB = 10**6
# {module: bytes that a run takes once it is imported}
_LIBRARIES = {'tensorflow': 480 * _MB, 'orbax.checkpoint': 60 * _MB}
# The compiler's memory for an evaluation, which it does not give back, and what
# threads, metrics and checkpoints take.
_COMPILING, _RUNNING = 150 * _MB, 130 * _MB
# Part of the state that Orbax has compressed but not yet written. Measured 0.3
# to 0.4 for ViT-B/16 and ViT-L/16.
_COMPRESSED = 0.3
# Batches of an evaluation: read, being read, on the device, waiting.
_EVALUATED = 5
# Part of what the backward pass of an image reads that its forward pass has in
# memory at a time. Measured 1/20 for ViT-B/16.
_FORWARD = 1 / 15


def other_bytes(update: Update) -> int:
  """Returns the bytes that a run will take without the update's own arrays.

  They come on top of what the process has now. Batches that are ready on the
  devices do not count, see `Update.ready`.
  """
  settings, data = update.settings, update.data
  libraries = sum(
    size for name, size in _LIBRARIES.items() if name not in sys.modules
  )
  batch = mesh_lib.bytes_per_device(update.batch()) * jax.local_device_count()
  read = decoding.prefetched(batch) + decoding.MADE_AT_ONCE
  buffer = data.train.buffered(settings.shuffle_buffer)
  images = _evaluation_rows(update) * math.prod(data.image_size) * 3 * 4
  evaluation = _COMPILING + _EVALUATED * images
  reading = read * batch + buffer + _decoded(data.train)
  return (
    libraries + _RUNNING + reading + evaluation + _written_meanwhile(update)
  )


def program(update: Update, needed: int) -> int:
  """Returns the bytes of a device that updates, evaluates or ends a run.

  It is the largest of the three.

  Args:
    update: the update.
    needed: bytes of a device that the update takes, with the state.
  """
  parts = update.settings.accum_steps
  image = update.saved_activations() * parts / update.rows()
  shards = mesh_lib.batch_shards(update.mesh)
  rows = -(-_evaluation_rows(update) * jax.process_count() // shards)
  evaluation = int(_FORWARD * image * rows)
  # At the end the state is written.
  written = _written(update) - _written_meanwhile(update)
  least = max(evaluation, written // jax.local_device_count())
  return max(needed, mesh_lib.bytes_per_device(update.shapes) + least)


def peak(update: Update, needed: int) -> int:
  """Returns the bytes that this process will have at its peak.

  Args:
    update: the update, which is compiled.
    needed: bytes of a device that it takes.
  """
  devices = jax.local_device_count()
  on_devices = devices * (program(update, needed) + update.ready())
  return host_memory.resident() + other_bytes(update) + on_devices


def _written(update):
  """Returns the bytes that writing the state takes: a copy, and compressed."""
  return int((1 + _COMPRESSED) * mesh_lib.bytes_of(update.shapes))


def _written_meanwhile(update):
  """Returns the bytes that writing the state takes while updates go on.

  There are none if the first checkpoint is that of the last update.
  """
  settings = update.settings
  total = optimization.total_steps(settings, update.data.train.num_examples)
  is_within = 0 < settings.checkpoint_every < total
  return _written(update) if is_within or settings.continue_from else 0


def _decoded(split):
  """Returns the bytes of the images that are being decoded, one on each core.

  All images of a folder count as its first one, and others as most of
  ImageNet's.
  """
  pixels = split.folder.first_pixels if split.folder else 0
  pixels = pixels or math.prod(photographs.PHOTOGRAPH_SIZE)
  return 3 * pixels * (split.threads or host_memory.cores())


def _evaluation_rows(update):
  """Returns the rows of an evaluation's batch in this process."""
  rows = batch_sizes.evaluation_rows(
    update.settings, update.data.image_size, update.mesh
  )
  return -(-rows // jax.process_count())
