"""The lines that describe a run on standard error before its first update.

Each line is printed as soon as its content is known: the devices at once, the
data after its images are counted.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vit_jax_repro.output import waiting
from vit_jax_repro.parallel import installed
from vit_jax_repro.runs import pretrained
from vit_jax_repro.runs.input import Input
from vit_jax_repro.runs.settings import Settings

_WIDTH = 10  # of the first column


def printer(*, show: bool) -> Callable[[str, str], None]:
  """Returns a function that prints a name and a text as a line.

  Args:
    show: whether anything is printed; only the first process does.
  """

  def line(name, text):
    if show and jax.process_index() == 0:
      waiting.show(f'{name:{_WIDTH}} {text}')

  return line


def devices(mesh: jax.sharding.Mesh) -> str:
  """Describes the devices: '8 x TPU v5e in 2 processes, data=8'."""
  kind = mesh.devices.flat[0].device_kind
  processes = jax.process_count()
  inside = f' in {processes} processes' if processes > 1 else ''
  axes = [f'{axis}={size}' for axis, size in mesh.shape.items() if size > 1]
  return ', '.join([f'{mesh.size} x {kind}{inside}', *axes])


def precision(settings: Settings) -> str:
  """Describes the dtype of the computation and what else changes numbers."""
  dtype = settings.model.get('dtype') or 'float32'
  return ', '.join([str(dtype), *installed.numerics().values()])


def data(found: Input) -> str:
  """Describes the splits: name, images of each, classes, division."""
  classes = found.train.class_names
  third = (
    [
      f'{found.validation.num_examples:,} to choose by '
      f'({found.validation.split})'
    ]
    if found.validation
    else []
  )
  parts = [
    f'{found.settings.dataset}: {found.train.num_examples:,} images to train '
    f'on ({found.train.split})',
    *third,
    f'{found.test.num_examples:,} to test on ({found.test.split})',
  ]
  if classes:
    parts.append(f'{len(classes):,} classes')
  if found.train.divided:
    parts.append(found.train.divided.text)
  if found.train.multi_label:
    parts.append('several labels an image')
  return ', '.join(parts)


def model(
  fields: Mapping[str, Any], params: Any, image_size: tuple[int, int]
) -> str:
  """Describes the model: name or family, parameters, image size.

  Args:
    fields: the fields of the model, for `models.create`.
    params: its parameters, or their shapes.
    image_size: (height, width) pixels.
  """
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  height, width = image_size
  name = fields.get('model_name') or fields['model']
  return f'{name}, {count:,} parameters, {height}x{width} pixels'


def trained(settings: Settings, sizes: Mapping[str, int]) -> str:
  """Describes the trained parameters: number, which, their learning rates.

  Args:
    settings: the settings of the run.
    sizes: from `Update.sizes`.
  """
  some, number = sizes['trained_parameters'], sizes['parameters']
  text = f'all {number:,} parameters'
  if some < number:
    text = f'{some:,} of {number:,} parameters: {settings.train}'
  if settings.layer_decay:
    text += f', learning rates times {settings.layer_decay:g} for each layer'
  return text


def length(settings: Settings, total_steps: int, num_examples: int) -> str:
  """Describes the batch, the number of updates and of epochs."""
  epochs = total_steps * settings.batch / num_examples
  parts = (
    f' in {settings.accum_steps} parts' if settings.accum_steps > 1 else ''
  )
  return (
    f'{settings.batch:,} images{parts}, {total_steps:,} updates, '
    f'{epochs:.3g} epochs'
  )


def memory(peak: int) -> str:
  """Describes the memory that a run takes: 'about 1.52 GB at its peak'."""
  return f'about {peak / 1e9:.3g} GB at its peak'


def start(
  settings: Settings, step: int, total_steps: int, first_step: int = 0
) -> str:
  """Describes where the run starts: fresh, from a file or run, at a step.

  Args:
    settings: the settings of the run.
    step: number of updates that its state has had.
    total_steps: number of its last update.
    first_step: `step` when the run was new.
  """
  if step == total_steps:
    return f'already finished, at step {step:,}; nothing is left to train'
  if step != first_step:
    return f'resumes at step {step:,} of {total_steps:,}'
  if settings.continue_from:
    where = f'at step {step:,} of {total_steps:,}'
    return f'continues {settings.continue_from} {where}'
  if settings.pretrained_dir:
    return f'from {pretrained.pretrained_path(settings)}'
  return 'fresh'
