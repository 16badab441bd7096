"""`python -m vit_jax_repro.benchmark`: how fast things are."""

from absl import flags

DESCRIPTION = """Measures how fast things are. `data`: the images per second
that the input pipelines of training and evaluation read, beside a limit
(decoding the boxes that training cuts out, and no more) and beside the usual
pipeline, on photographs that it writes as JPEG files; all in turns, medians.
"""
KINDS = ('data',)
RATIOS = ('decoded', 'handed', 'usual')  # to which pipelines


def main(argv=None):
  """Runs the verb on a command line and exits."""
  from vit_jax_repro import command_line

  command_line.run(
    'benchmark',
    _benchmark,
    command_flags(),
    DESCRIPTION,
    positional='|'.join(KINDS),
    argv=argv,
  )


def command_flags():
  """The flags of this verb, anew."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  command_line.define_string(
    values, 'image_size', '224', 'pixels, S or HEIGHTxWIDTH'
  )
  command_line.define_string(
    values, 'json', None, 'also write the result to this file'
  )
  for name, default, text in (
    ('batch_size', 64, 'images of a batch'),
    ('images', 256, 'JPEG files that are written'),
    ('rounds', 7, 'how often each pipeline is measured'),
    ('batches', 16, 'batches that are timed in a round'),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)
  return values


def show(result):
  """Prints a result of `benchmark data` as a table."""
  from rich import console, table

  files, settings = result['files'], result['settings']
  height, width = files['size']
  grid = table.Table(
    title=f'{files["number"]} JPEG files of {width}x{height} pixels, quality '
    f'{files["quality"]}, {files["mean_bytes"] / 1000:.0f} kB, to '
    f'{"x".join(str(side) for side in settings["image_size"])}, '
    f'{result["cpu_cores"]} CPU cores',
  )
  grid.add_column('pipeline', no_wrap=True)
  for name in ('images/s', 'range', *(f'x {other}' for other in RATIOS)):
    grid.add_column(name, justify='right', no_wrap=True)
  for row in result['pipelines']:
    ratios = (row[f'over_{other}'] for other in RATIOS)
    grid.add_row(
      row['name'],
      f'{row["images_per_sec"]:.0f}',
      f'{row["slowest"]:.0f}-{row["fastest"]:.0f}',
      *(f'{ratio:.2f}' for ratio in ratios),
    )
  console.Console(markup=False, highlight=False).print(grid)


def _benchmark(values, arguments):
  from vit_jax_repro import command_line
  from vit_jax_repro.runs import json_files

  if list(arguments) not in [[kind] for kind in KINDS]:
    raise command_line.UsageError(
      f'what to measure is {" ".join(arguments)!r}; choose one of {KINDS}'
    )
  if values.json is not None:
    json_files.check_writable(values.json)
  image_size = command_line.image_size(values.image_size)
  result = _data(values, image_size)
  if values.json is not None:
    json_files.write(values.json, result)
  show(result)


def _data(values, image_size):
  import dataclasses
  import os
  import sys

  from vit_jax_repro.benchmarks import input as input_benchmark
  from vit_jax_repro.training import manifest

  settings = dict(
    image_size=image_size,
    batch_size=values.batch_size,
    num_images=values.images,
    rounds=values.rounds,
    num_batches=values.batches,
  )
  speeds, files = input_benchmark.measure(
    **settings, show=lambda line: print(line, file=sys.stderr, flush=True)
  )
  return {
    'pipelines': [dataclasses.asdict(speed) for speed in speeds],
    'files': files,
    'settings': settings,
    'cpu_cores': len(os.sched_getaffinity(0)),
    **manifest.software(),
  }


if __name__ == '__main__':
  main()
