"""What a run writes for TensorBoard: curves, settings, images."""

import glob
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from vit_jax_repro.errors import printable

# Tags of the scalars of metrics.jsonl. Others become train/NAME.
TAGS = {
  'train_loss': 'train/loss',
  'train_accuracy': 'train/accuracy',
  'lr': 'train/learning_rate',
  'accuracy_test': 'test/accuracy',
  'top5_accuracy_test': 'test/top5_accuracy',
  'loss_test': 'test/loss',
  'mean_average_precision_test': 'test/mean_average_precision',
  'f1_micro_test': 'test/f1_micro',
  'f1_macro_test': 'test/f1_macro',
  'accuracy_validation': 'validation/accuracy',
  'top5_accuracy_validation': 'validation/top5_accuracy',
  'loss_validation': 'validation/loss',
  'mean_average_precision_validation': 'validation/mean_average_precision',
  'f1_micro_validation': 'validation/f1_micro',
  'f1_macro_validation': 'validation/f1_macro',
  'images_per_sec': 'perf/images_per_sec',
  'input_wait': 'perf/input_wait',
  'replaced_images': 'data/replaced_images',
}
_PREFIX = 'events.out.tfevents.'  # of the names of TensorBoard's files
SHOWN = 16  # at most, in a grid of four columns
_COLUMNS = 4


class Events:
  """The events files of a run's folder, made by the first call."""

  def __init__(self, folder: str):
    self._folder = folder
    self._made: Any = None

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the scalars of a step under their tags."""
    named = {TAGS.get(name, f'train/{name}'): x for name, x in values.items()}
    self._writer().write_scalars(step, named)

  def settings(self, config: Mapping[str, Any]) -> None:
    """Writes a configuration as text, and its numbers as hyper-parameters."""
    text = json.dumps(config, indent=2, default=str)
    flat = traverse_util.flatten_dict(dict(config), sep='.')
    writer = self._writer()
    # TensorBoard shows text as Markdown, where four spaces mean code.
    code = '\n'.join(f'    {line}' for line in text.splitlines())
    writer.write_texts(0, {'configuration': code})
    writer.write_hparams(
      {
        key: printable(value) if isinstance(value, str) else value
        for key, value in flat.items()
        if isinstance(value, int | float | str)
      }
    )

  def images(
    self, images: np.ndarray, mean: Sequence[float], std: Sequence[float]
  ) -> None:
    """Writes the first training images, as the model sees them, as a grid.

    Args:
      images: [B, H, W, 3], normalised floats or uint8.
      mean, std: of the normalisation, in units of 0..255.
    """
    self._writer().write_images(
      0, {'train/images': grid(images, mean, std)[None]}
    )

  def flush(self) -> None:
    """Writes what is still in memory to the file."""
    if self._made is not None:
      self._made.flush()

  def close(self) -> None:
    """Flushes the events."""
    if self._made is not None:
      self._made.close()

  def _writer(self):
    if self._made is None:
      from vit_jax_repro.data import tf_host

      tf_host.tensorflow()  # silenced, before clu imports it
      from clu import metric_writers

      # As bytes, because TensorFlow takes no text that is not UTF-8.
      self._made = metric_writers.SummaryWriter(os.fsencode(self._folder))
    return self._made


def continue_from(folder: str, step: int) -> None:
  """Writes for TensorBoard that a run continues after a step.

  TensorBoard then drops what a killed process has written of later steps, which
  come again. It reads the files of a folder in the order of their names, which
  begin with the second in which they were made.

  Args:
    folder: of the events; nothing is written if it has none.
    step: the last update that is kept.
  """
  if not glob.glob(os.path.join(glob.escape(folder), f'{_PREFIX}*')):
    return
  from vit_jax_repro.data import tf_host

  tf = tf_host.tensorflow()
  # The first start of a folder drops nothing, so there are two.
  began = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
  name = f'{_PREFIX}{int(time.time()) - 1:010}.continued-{step}'
  with tf.io.TFRecordWriter(os.path.join(folder, name)) as writer:
    for fields in (
      {'file_version': 'brain.Event:2'},
      {'step': step + 1, 'session_log': began},
      {'step': step + 1, 'session_log': began},
    ):
      event = tf.compat.v1.Event(wall_time=time.time(), **fields)
      writer.write(event.SerializeToString())


def grid(
  images: np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
  """Arranges the first 16 images of a batch in rows of four.

  Args:
    images: [B, H, W, 3], normalised floats or uint8.
    mean, std: of the normalisation, in units of 0..255.

  Returns:
    uint8 [rows * H, columns * W, 3]; black where images are missing.
  """
  images = np.asarray(images[:SHOWN])
  if images.dtype != np.uint8:
    scale, shift = np.asarray(std, 'f4'), np.asarray(mean, 'f4')
    pixels = images.astype(np.float32) * scale + shift
    images = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
  count, height, width, channels = images.shape
  columns = min(_COLUMNS, count)
  rows = -(-count // columns)
  cells = np.zeros((rows * columns, height, width, channels), np.uint8)
  cells[:count] = images
  cells = cells.reshape(rows, columns, height, width, channels)
  return cells.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
