"""Tables that show dry runs on the terminal."""

from collections.abc import Sequence
from typing import Any

from vit_jax_repro.analysis import dry_run, roofline
from vit_jax_repro.output import reports

_GIB = 2**30
_SHOWN = 5  # arrays of the whole batch


def show_run(found: Any, reading: str | None = None) -> None:
  """Prints a `runs.dry_run.DryRun`.

  Args:
    found: the dry run; `Any`, because this room does not import runs/.
    reading: a line on what feeds the devices.
  """
  height, width = found.image_size
  number = _product(found.mesh.values())
  axes = ', '.join(f'{axis}={size}' for axis, size in found.mesh.items())
  part = ''
  if found.trained_parameters < found.parameters:
    part = f'trains {found.trained_parameters:,} ({found.train}), '
  title = (
    f'{found.model or "model"}, {found.parameters / 1e6:.1f} M parameters, '
    f'{part}{found.dtype}, {height}x{width}, {found.num_classes} classes, for '
    f'{number} x {found.device_kind} ({found.target}; {axes})'
  )
  rows = [
    ('images', _parts(found.batch, found.accum_steps), f'{found.batch_eval}'),
    *_memory_rows(found),
  ]
  both = found.update, found.evaluation
  rows.append(
    ('compiled here, s', *(f'{a.lower + a.compile:.0f}' for a in both))
  )
  if found.attention is not None:
    kernels = _kernels(both[0], found.accum_steps), _kernels(both[1], 1)
    rows.append((f'attention: {found.attention}', *kernels))
  rows += _bound_rows(both)
  reports.numbers(title, ('', 'update', 'evaluation'), rows)
  show_exchanges(found.update)
  if found.update.exchanges:
    if found.trained_parameters == found.parameters:
      print(_exchanged(found))
    print(f'{roofline.LINKS[0].upper()}{roofline.LINKS[1:]}.')
  if found.largest_batch is not None:
    print(f'largest batch of the update: {found.largest_batch}')
  if reading is not None:
    print(reading)
  for line in found.notes:
    print(f'note: {line}')
  if found.fits:
    print('It fits.')
  else:
    print(f'It does not fit: {found.remedy}')


def show_exchanges(analysis: dry_run.Analysis) -> None:
  """Prints the collectives of a program, if it has more than one device."""
  if analysis.exchanges:
    reports.numbers(
      'exchanges of the update, of each device',
      ('collective', 'axes', 'dtype', 'number', 'MB'),
      [
        (each.kind, each.axes, each.dtype, str(each.number),
         f'{each.bytes / 1e6:.1f}')
        for each in analysis.exchanges
      ],
    )  # fmt: skip
  for line in analysis.gathered:
    print(f'an activation crosses devices: {line}')
  undivided = analysis.undivided or ()
  for line in undivided[:_SHOWN]:
    print(f'each device computes the whole batch: {line}')
  if undivided[_SHOWN:]:
    print(f'and {len(undivided) - _SHOWN} more such arrays')
  if analysis.exchanges and not analysis.gathered and not undivided:
    known = analysis.undivided is not None
    divided = 'The batch stays divided: no' if known else 'No'
    print(f'{divided} activation crosses data or fsdp.')


def _memory_rows(found):
  needed = found.needed, found.needed_evaluation
  rows = [
    (
      'GiB of a device',
      *('refused' if n is None else f'{n / _GIB:.2f}' for n in needed),
    )
  ]
  for analysis, name in (
    (lambda a: a.memory.arguments, '  state and batch'),
    (lambda a: a.memory.temporaries, '  temporary'),
  ):
    rows.append(
      (
        name,
        *(
          '-'
          if a.memory is None or a.memory.is_refused
          else f'{analysis(a) / _GIB:.2f}'
          for a in (found.update, found.evaluation)
        ),
      )
    )
  if found.needed is not None and found.update.memory is not None:
    ready = found.needed - found.update.memory.total
    rows.append(('  batches that are ready', f'{ready / _GIB:.2f}', ''))
  for name, value in (
    ('  a run may use', found.limit), ('  JAX takes', found.taken),
  ):  # fmt: skip
    if value is not None:
      rows.append((name, f'{value / _GIB:.2f}', ''))
  return rows


def _bound_rows(both: Sequence[dry_run.Analysis]):
  if any(analysis.bound is None for analysis in both):
    return []
  bounds = [analysis.bound for analysis in both]

  def row(name, form):
    return (name, *map(form, bounds))

  return [
    row('least ms of a step', lambda b: f'{1e3 * b.seconds:.3g}'),
    row('  products at the peak', lambda b: f'{1e3 * b.compute:.3g}'),
    row('  memory at its bandwidth', lambda b: f'{1e3 * b.memory:.3g}'),
    row('  exchanges over the links', lambda b: f'{1e3 * b.links:.3g}'),
    row('bounded by', lambda b: b.limited_by),
    row('images/s of a device, at most', lambda b: f'{b.images_per_sec:.0f}'),
    row('utilisation, at most', lambda b: f'{b.utilisation:.0%}'),
    (
      'products in float32',
      *(f'{analysis.wide_products:.2%}' for analysis in both),
    ),
  ]


def _exchanged(found):
  """Returns a line with the exchanged bytes per parameter and their minimum."""
  total = sum(
    each.bytes * (2 if each.kind == 'all-reduce' else 1)
    for each in found.update.exchanges
  )
  line = f'{total / found.parameters:.2f} bytes for each parameter'
  if found.dtype == 'bfloat16' and found.mesh['fsdp'] > 1:
    line += (
      '; fsdp needs at least 8 for each part of a batch: 2 + 2 gathered in '
      'bfloat16, 4 scattered in float32'
    )
  return f'{line} (of an all-reduce twice its array).'


def _parts(batch, number):
  return f'{batch} in {number} parts' if number > 1 else f'{batch}'


def _kernels(analysis, parts):
  """Returns a text with the calls of a kernel in each part of a batch."""
  forward, backward = (n // parts for n in analysis.attention_kernels)
  times = f', {parts} times' if parts > 1 else ''
  return f'{forward} + {backward} kernels{times}'


def _product(sizes):
  number = 1
  for size in sizes:
    number *= size
  return number
