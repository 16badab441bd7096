"""`python -m vit_jax_repro.benchmark`: speed, compile time and memory."""

from typing import Any

from absl import flags

DESCRIPTION = """Measures speed, compile time and memory on synthetic images,
and the speed of the input pipelines."""


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import subcommands

  subcommands.run(
    'benchmark',
    commands(),
    command_flags(),
    DESCRIPTION,
    argv=argv,
    begin=_begin,
  )


def command_flags() -> flags.FlagValues:
  """Returns the flags of all commands, a new FlagValues."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()

  for name, default, text in (
    ('models', 'ViT-B_16', 'model names, comma-separated'),
    ('batch_sizes', '64', 'images of a batch, over all devices, '
     'comma-separated; `data` takes one'),
    ('dtypes', 'bfloat16', 'of computation, comma-separated: float32, '
     'bfloat16'),
    ('variants', 'plain', 'comma-separated: plain, scan, remat, scan+remat, '
     'remat:dots, scan+remat:dots. scan runs the blocks in a loop; remat '
     'computes them again in the backward pass, except products with '
     'parameters (dots)'),
    ('image_size', '224', 'pixels, S or HEIGHTxWIDTH'),
    ('photograph_size', '375x500', 'pixels of the JPEG files, HEIGHTxWIDTH'),
    ('mesh', None, 'axes of the devices, such as data=2,fsdp=4 or fsdp=all; by '
     'default all devices divide the batch. A CPU simulates the devices'),
    ('target', None, 'compile for this hardware, comma-separated: v5e:2x4 '
     '(chips along each side of a TPU slice), h100, h100:1x8 (hosts x cards)'),
    ('against', None, 'torch, timm or transformers: also measure PyTorch'),
    ('trace', None, "a folder for JAX's trace, for XProf and TensorBoard"),
    ('json', None, 'also write the result to this file'),
  ):  # fmt: skip
    command_line.define_string(values, name, default, text)
  for name, default, text in (
    ('images', 256, 'number of JPEG files to write'),
    ('rounds', 5, 'measurements of each contender; steps of a profile'),
    ('batches', 16, 'batches that are timed in a round'),
    (
      'batch_per_chip',
      None,
      'with --target, instead of --batch_sizes: images '
      'of each chip, for weak scaling',
    ),
  ):
    flags.DEFINE_integer(
      name,
      default,
      text,
      lower_bound=1,
      flag_values=values,
    )
  for name, default, text in (
    ('seconds', 1.0, 'approximate time of a contender in a round'),
    ('peak_tflops', None, 'of a device; by default from a table of devices'),
    ('memory_limit_gb', None, 'GiB of a device; by default as it reports'),
  ):
    flags.DEFINE_float(
      name,
      default,
      text,
      lower_bound=0.0,
      flag_values=values,
    )
  for name, default, text in (
    ('compiled', True, 'also measure PyTorch with torch.compile'),
    ('largest_batch', False, 'search the largest batch that fits, by doubling'),
    ('inference', False, 'measure a forward pass instead of an update'),
  ):
    flags.DEFINE_boolean(name, default, text, flag_values=values)
  return values


def commands() -> dict[str, Any]:
  """Returns {name: subcommands.Command}."""
  from vit_jax_repro.subcommands import Command

  cases = (
    'models', 'batch_sizes', 'dtypes', 'variants', 'image_size', 'mesh', 'json',
  )  # fmt: skip
  speed = (
    *cases, 'against', 'compiled', 'rounds', 'seconds', 'peak_tflops',
  )  # fmt: skip
  compiled = (*cases, 'inference', 'target', 'batch_per_chip')
  return {
    'train': Command(
      lambda values, _: _speed(values, 'train'),
      'time of an update: images per second and the used part of the peak '
      '(MFU) of each device, for variants and PyTorch (--against), measured in '
      'turns',
      '--models=ViT-B_16 --batch_sizes=64,128 --variants=plain,remat',
      flags=speed,
    ),
    'infer': Command(
      lambda values, _: _speed(values, 'infer'),
      'the same for a forward pass',
      '--models=ViT-B_16 --against=timm',
      flags=speed,
    ),
    'compile': Command(
      _compile,
      'time to compile an update, fresh and from the cache on disk',
      '--models=ViT-B_16 --variants=plain,scan',
      flags=(*compiled, 'rounds'),
    ),
    'memory': Command(
      _memory,
      'memory of an update on each device and the largest batch that fits; '
      'with --target also what bounds its speed on hardware that need not be '
      'present',
      '--models=ViT-L_16 --target=v5e:2x4',
      flags=(*compiled, 'memory_limit_gb', 'largest_batch'),
    ),
    'profile': Command(
      _profile,
      'time of an update by parts of the model',
      '--models=ViT-B_16 --trace=trace',
      flags=(*cases, 'rounds', 'trace', 'inference'),
    ),
    'data': Command(
      _data,
      'images per second of the input pipelines, compared with plain decoding '
      'and the usual tf.data pipeline, on photographs written as JPEG files. '
      'With --target only how many cores feed the training of --models there',
      '--target=v5e:2x4 --models=ViT-S_16',
      flags=(
        'batch_sizes',
        'image_size',
        'photograph_size',
        'models',
        'dtypes',
        'target',
        'images',
        'batches',
        'rounds',
        'json',
      ),
    ),
  }


def _begin(values):
  from vit_jax_repro.output import files

  if values.json is not None:
    files.check_writable(values.json)


def _speed(values, kind):
  from vit_jax_repro import command_line, environment
  from vit_jax_repro.benchmarks import speed, tables
  from vit_jax_repro.errors import InputError
  from vit_jax_repro.output import waiting

  environment.require_devices()
  cases, variants = _cases(values, kind)
  others = [
    speed.others(values.against, values.compiled, case.model) for case in cases
  ]
  if values.peak_tflops == 0:
    raise command_line.UsageError('--peak_tflops=0.0 must be above 0')
  peak = values.peak_tflops and values.peak_tflops * 1e12
  rows = []
  for case, names in zip(cases, others, strict=True):
    rows += speed.measure(
      case,
      contenders=[*variants, *names],
      rounds=values.rounds,
      seconds=values.seconds,
      peak=peak,
      show=waiting.start,
    )
    _write(values, _result('rows', rows, {}))  # so far
  _finish(values, rows, tables.speeds)
  if all(row.error for row in rows):
    raise InputError('nothing could be measured; the errors are above')


def _compile(values, _):
  from vit_jax_repro.benchmarks import compiling, tables
  from vit_jax_repro.output import waiting

  rows = []
  cases, variants = _cases(values, _kind(values))
  for case in cases:
    rows += compiling.times(
      case, variants, rounds=values.rounds, show=waiting.start
    )
  _finish(values, rows, tables.compilations)


def _memory(values, _):
  from vit_jax_repro.benchmarks import compiling, tables
  from vit_jax_repro.output import waiting

  limit = values.memory_limit_gb and int(values.memory_limit_gb * 2**30)
  cases, variants = _cases(values, _kind(values))
  measure, show = compiling.fits, tables.fits
  if values.target is not None:
    measure, show = compiling.forecasts, tables.forecasts
  rows = []
  for case in cases:
    rows += measure(
      case,
      variants,
      limit=limit,
      largest=values.largest_batch,
      show=waiting.start,
    )
    _write(values, _result('rows', rows, {}))  # so far
  _finish(values, rows, show)


def _profile(values, _):
  from vit_jax_repro import command_line
  from vit_jax_repro.benchmarks import profiles, tables

  cases, variants = _cases(values, _kind(values))
  if len(cases) > 1 or len(variants) > 1:
    raise command_line.UsageError(
      'profile takes one model, batch size, dtype and variant'
    )
  rows = profiles.profile(
    cases[0], variants[0], number=values.rounds, trace=values.trace
  )
  _finish(values, rows, tables.parts)


def _data(values, _):
  from vit_jax_repro import command_line
  from vit_jax_repro.benchmarks import input as input_benchmark
  from vit_jax_repro.benchmarks import tables
  from vit_jax_repro.output import waiting
  from vit_jax_repro.parallel import host_memory

  if values.target is not None:
    _cores(values)
    return
  for flag in ('models', 'dtypes'):
    if values[flag].present:
      raise command_line.UsageError(
        f'--{flag} needs --target; give one, or leave --{flag} out'
      )
  batch_size, *more = _numbers(values, 'batch_sizes')
  if more:
    raise command_line.UsageError(
      f'--batch_sizes={values.batch_sizes}: data takes one'
    )
  settings: dict[str, Any] = dict(
    image_size=command_line.image_size(values.image_size),
    batch_size=batch_size,
    num_images=values.images,
    photograph_size=command_line.image_size(
      values.photograph_size, 'photograph_size'
    ),
    rounds=values.rounds,
    num_batches=values.batches,
  )
  speeds, files = input_benchmark.measure(**settings, show=waiting.start)
  more = {
    'files': files,
    'settings': settings,
    'cpu_cores': host_memory.cores(),
  }
  result = _result('pipelines', speeds, more)
  _write(values, result)
  tables.reading(result)


def _cores(values):
  """Prints how many cores of this machine feed updates on the targets."""
  from vit_jax_repro import command_line
  from vit_jax_repro.benchmarks import programs
  from vit_jax_repro.data import augment, photographs
  from vit_jax_repro.parallel import targets

  size = command_line.image_size(values.image_size)
  assert size is not None, 'the flag has a default'
  rows = []
  for text in values.target.split(','):
    target = targets.parse(text)
    for model in _names(values, 'models'):
      for dtype in _names(values, 'dtypes', ('float32', 'bfloat16')):
        case = programs.Case('train', model, 1, dtype, size)
        peak = target.chip.peak(dtype) * target.num_chips
        rows.append((target, case, peak / programs.operations(case)))
  rate = photographs.core_rate(augment.Augmentation(crop=size))
  for target, case, images in rows:
    print(
      f'{case.model} at the peak of {target.name} in {case.dtype} '
      f'{photographs.need(images, rate)}'
    )
  found = [
    dict(
      target=target.name,
      model=case.model,
      dtype=case.dtype,
      images_per_sec=images,
      core_images_per_sec=rate,
    )
    for target, case, images in rows
  ]
  _write(values, _result('cores', found, {}))


def _kind(values):
  return 'infer' if values.inference else 'train'


def _cases(values, kind):
  """Returns the cases and the variants that the flags select."""
  import itertools

  from vit_jax_repro import command_line
  from vit_jax_repro.benchmarks import programs

  image_size = command_line.image_size(values.image_size)
  assert image_size is not None, 'the flag has a default'
  targets = _targets(values)
  variants = _names(values, 'variants', programs.VARIANTS)
  cases = []
  for target, model, wanted, dtype in itertools.product(
    targets,
    _names(values, 'models'),
    [None] if values.batch_per_chip else _numbers(values, 'batch_sizes'),
    _names(values, 'dtypes', ('float32', 'bfloat16')),
  ):
    mesh = programs.read_mesh(values.mesh, target)
    batch_size = wanted or values.batch_per_chip * target.num_chips
    name = None if target is None else target.name
    cases.append(
      programs.Case(
        kind, model, batch_size, dtype, image_size, mesh=mesh, target=name
      )
    )
  for case, name in itertools.product(cases, variants):
    # Wrong names raise here, before anything is measured.
    programs.create_model(programs.variant(case, name))
  return cases, variants


def _targets(values):
  from vit_jax_repro import command_line
  from vit_jax_repro.parallel import targets

  if values.target is None:
    if values.batch_per_chip is not None:
      raise command_line.UsageError(
        '--batch_per_chip needs --target; give it, or give --batch_sizes'
      )
    return [None]
  found = [targets.parse(text) for text in values.target.split(',')]
  for target in found:
    target.check()
  return found


def _names(values, flag, allowed=None):
  from vit_jax_repro import command_line

  names = values[flag].value.split(',')
  for name in names:
    if allowed is not None and name not in allowed:
      raise command_line.UsageError(
        f'--{flag}={values[flag].value}: unknown {name!r}; choose from '
        f'{", ".join(allowed)}'
      )
  return names


def _numbers(values, flag):
  from vit_jax_repro import command_line

  texts = values[flag].value.split(',')
  if not all(text.isdecimal() and int(text) for text in texts):
    raise command_line.UsageError(
      f'--{flag}={values[flag].value} must be comma-separated numbers of at '
      'least 1'
    )
  return [int(text) for text in texts]


def _finish(values, rows, show):
  _write(values, _result('rows', rows, {}))
  show(rows)


def _result(name, rows, more):
  import datetime

  from vit_jax_repro.analysis import dry_run
  from vit_jax_repro.runs import manifest

  return {
    name: dry_run.as_dict(rows),
    'date': datetime.date.today().isoformat(),
    **more,
    **manifest.software(),
  }


def _write(values, result):
  from vit_jax_repro.output import files

  if values.json is not None:
    files.write_json(values.json, result)


if __name__ == '__main__':
  main()
