"""`python -m vit_jax_repro.evaluate`: accuracy of a weights file."""

from absl import flags

DESCRIPTION = """Measures top-1 and top-5 accuracy of a weights file on a data
set. Every image counts exactly once; one that cannot be decoded counts as
wrong and is listed."""


def main(argv=None):
  """Runs the verb on a command line and exits."""
  from vit_jax_repro import command_line

  command_line.run(
    'evaluate', _evaluate, command_flags(), DESCRIPTION, argv=argv
  )


def command_flags():
  """The flags of this verb, anew."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  command_line.define_weights_flags(values)
  command_line.define_string(
    values,
    'dataset',
    None,
    "'digits', a TFDS name, vtab/TASK, or a folder of SPLIT/CLASS/*.jpg",
  )
  command_line.define_string(
    values, 'split', 'test', 'the split, or a part of one such as test[:10%]'
  )
  command_line.define_string(
    values, 'data_dir', None, "where TFDS data sets lie; TFDS's own by default"
  )
  flags.DEFINE_integer(
    'batch_size',
    64,
    'images a step, any number',
    lower_bound=1,
    flag_values=values,
  )
  return values


def show(result):
  """Prints a jobs.Evaluation as a table."""
  from rich import console, table

  height, width = result.image_size
  rows = {
    'weights': result.weights,
    'model': f'{result.model}, {result.num_classes} classes',
    'data set': f'{result.dataset}, split {result.split}',
    'images': f'{result.num_examples}, as {height}x{width} pixels '
    f'({result.preprocessing})',
    'top-1 accuracy': f'{result.accuracy:.2%}  ({result.correct} correct)',
    'top-5 accuracy': f'{result.top5_accuracy:.2%}',
    'time': f'{result.seconds:.1f} s, {result.images_per_sec:.1f} images/s',
  }
  if result.skipped:
    rows['images'] += f'; {result.skipped} without a label skipped'
  if result.unreadable:
    rows['unreadable'] = (
      f'{len(result.unreadable)}, counted as wrong:\n'
      + '\n'.join(result.unreadable)
    )
  grid = table.Table(show_header=False)
  for name, value in rows.items():
    grid.add_row(name, value)
  console.Console(markup=False, highlight=False).print(grid)


def _evaluate(values, _):
  from vit_jax_repro import command_line
  from vit_jax_repro.runs import json_files, model_files

  command_line.require(values, 'weights', 'dataset')
  if values.json is not None:
    inputs = values.weights, model_files.card_path(values.weights)
    json_files.check_writable(values.json, keep=inputs)
  image_size = command_line.image_size(values.image_size)

  import dataclasses

  from vit_jax_repro import jobs

  result = jobs.evaluate(
    values.weights,
    values.dataset,
    model=values.model,
    split=values.split,
    batch_size=values.batch_size,
    preprocessing=values.preprocessing,
    image_size=image_size,
    data_dir=values.data_dir,
  )
  if values.json is not None:
    json_files.write(values.json, dataclasses.asdict(result))
  show(result)


if __name__ == '__main__':
  main()
