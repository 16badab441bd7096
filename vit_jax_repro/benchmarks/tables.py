"""Tables of benchmark results on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro.analysis import roofline
from vit_jax_repro.benchmarks import compiling, profiles, speed
from vit_jax_repro.output import reports
from vit_jax_repro.parallel import targets

RATIOS = ('decoded', 'handed', 'usual')  # pipelines that others compare to
_GIB = 2**30
_PARTS = 20  # number of rows shown of a profile


def reading(result: Mapping[str, Any]) -> None:
  """Prints a result of `benchmark data`."""
  files, settings = result['files'], result['settings']
  height, width = files['size']
  title = (
    f'{files["number"]} JPEG files of {width}x{height} pixels, quality '
    f'{files["quality"]}, {files["mean_bytes"] / 1000:.0f} kB, to '
    f'{"x".join(str(side) for side in settings["image_size"])}, '
    f'{result["cpu_cores"]} CPU cores'
  )
  names = ('images/s', 'range', 'CPU ms', *(f'x {other}' for other in RATIOS))
  rows = [
    (
      row['name'],
      f'{row["images_per_sec"]:.0f}',
      f'{row["slowest"]:.0f}-{row["fastest"]:.0f}',
      f'{row["cpu_ms"]:.3g}',
      *(f'{row[f"over_{other}"]:.2f}' for other in RATIOS),
    )
    for row in result['pipelines']
  ]
  reports.numbers(title, ('pipeline', *names), rows)


def speeds(rows: Sequence[speed.Speed]) -> None:
  """Prints the rows of `speed.measure`, in one table per case."""
  for row in rows:
    if row.error is not None:
      print(f'{row.case.model} {row.contender}: {row.error}')
  for case, group in _by_case(rows):
    first = group[0].contender
    reports.numbers(
      _title(case, group[0].devices, group[0].device_kind),
      ('contender', 'ms', 'range', 'images/s', 'of peak', 'GiB', 'ratio'),
      [
        (
          row.contender,
          _milliseconds(row.seconds),
          '-'.join(_milliseconds(each) for each in row.spread or (None,)),
          _number(row.images_per_sec, '{:.1f}'),
          _number(row.utilisation, '{:.1%}'),
          _number(row.peak_bytes, '{:.2f}', 1 / _GIB),
          _number(row.ratio, '{:.2f}'),
        )
        for row in group
      ],
      caption='ms: per step; images/s: per device; GiB: largest use of a '
      'device; of peak: model operations; ratio: speed of '
      f'{first} / speed of the contender',
    )


def compilations(rows: Sequence[compiling.Compilation]) -> None:
  """Prints the rows of `compiling.times`, in one table per case."""
  for case, group in _by_case(rows):
    reports.numbers(
      _title(case),
      ('variant', 'lower, s', 'compile, s', f'x {group[0].variant}'),
      [
        (
          row.variant,
          f'{row.lower:.2f}',
          f'{row.compile:.2f}',
          f'{row.ratio:.2f}',
        )
        for row in group
      ],
    )


def forecasts(rows: Sequence[compiling.Forecast]) -> None:
  """Prints the rows of `compiling.forecasts`, in one table per model."""
  groups = {}
  for row in rows:
    case = row.case
    mesh = ','.join(f'{axis}={size}' for axis, size in case.mesh.items())
    assert case.target is not None
    if case.mesh.get('fsdp') == targets.parse(case.target).num_devices:
      mesh = 'fsdp=all'
    key = case.kind, case.model, case.dtype, case.image_size, mesh
    groups.setdefault(key, []).append(row)
  for (kind, model, dtype, size, mesh), group in groups.items():
    reports.numbers(
      f'{kind} {model}, {dtype}, {size[0]}x{size[1]}, mesh {mesh or "data"}',
      (
        'target', 'variant', 'batch', 'GiB', 'of', 'products, ms',
        'memory, ms', 'links, ms', 'images/s', 'relative',
      ),
      [_forecast(row, group[0]) for row in group],
    )  # fmt: skip
    for row in group:
      if row.largest_batch is not None:
        name = f'{row.case.target} {row.variant}'
        print(f'{name}: the largest batch is {row.largest_batch}')
      for line in row.analysis.gathered:
        print(f'{row.case.target}: an activation crosses devices: {line}')
  print(
    'GiB: memory needed of a device; of: what a run may use of it (!: too '
    'much). The times are lower bounds for a step: its products at peak '
    'speed, its bytes at the bandwidth of the memory, its exchanges over the '
    'links. The longest one bounds the step and the images/s of a chip. '
    f'Relative: to the first row. {roofline.LINKS}.'
  )


def _forecast(row, first):
  found, bound = row.analysis.memory, row.analysis.bound
  needed = 'refused'
  if found is not None:
    needed = f'{found.total / _GIB:.2f}{"" if row.fits else "!"}'
  if bound is None:
    rest = ('-',) * 5
  else:
    rate = _images_per_chip(row)
    relative = '-'
    if first.analysis.bound is not None:
      relative = f'{rate / _images_per_chip(first):.2f}'
    rest = (
      *(f'{1e3 * t:.1f}' for t in (bound.compute, bound.memory, bound.links)),
      f'{rate:.0f}',
      relative,
    )
  return (
    row.case.target,
    row.variant,
    str(row.case.batch_size),
    needed,
    _number(row.limit, '{:.2f}', 1 / _GIB),
    *rest,
  )


def _images_per_chip(row):
  return row.case.batch_size / row.analysis.bound.seconds / row.num_chips


def fits(rows: Sequence[compiling.Fit]) -> None:
  """Prints the rows of `compiling.fits`, in one table per case."""
  for case, group in _by_case(rows):
    reports.numbers(
      _title(case) + ', GiB of one device',
      ('variant', 'arguments', 'temporary', 'in all', 'limit', 'largest batch'),
      [
        (
          row.variant,
          *(
            _number(getattr(row.memory, name, None), '{:.3f}', 1 / _GIB)
            for name in ('arguments', 'temporaries', 'total')
          ),
          _number(row.limit, '{:.1f}', 1 / _GIB),
          _number(row.largest_batch, '{}'),
        )
        for row in group
      ],
    )


def parts(rows: Sequence[profiles.ModelPart]) -> None:
  """Prints the largest rows of `profiles.profile`."""
  for case, group in _by_case(rows):
    shown = group[:_PARTS]
    reports.numbers(
      f'{_title(case)}, {group[0].variant}',
      ('part of the model', 'ms', 'share'),
      [
        (row.name, f'{1e3 * row.seconds:.2f}', f'{row.share:.1%}')
        for row in shown
      ],
      caption=f'{len(shown)} of {len(group)} parts; a step takes '
      f'{1e3 * sum(row.seconds for row in group):.1f} ms of work',
    )


def _by_case(rows):
  groups = {}
  for row in rows:
    groups.setdefault(repr(row.case), []).append(row)
  return [(group[0].case, group) for group in groups.values()]


def _title(case, devices=None, kind=None):
  height, width = case.image_size
  where = f', {devices} x {kind}' if kind else ''
  mesh = ', '.join(f'{k}={v}' for k, v in case.mesh.items())
  target = f', for {case.target}' if case.target else ''
  return (
    f'{case.kind} {case.model}, batch {case.batch_size}, {case.dtype}, '
    f'{height}x{width}{where}{target}{", " if mesh else ""}{mesh}'
  )


def _milliseconds(seconds):
  """Returns milliseconds, with a decimal up to 100 ms."""
  if seconds is None:
    return '-'
  return f'{1e3 * seconds:.{0 if seconds > 0.1 else 1}f}'


def _number(value, form, factor=None):
  if value is None:
    return '-'
  return form.format(value if factor is None else value * factor)
