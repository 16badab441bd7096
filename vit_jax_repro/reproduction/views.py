"""Views of planned checks and of the cost of models."""

from collections.abc import Sequence

from vit_jax_repro.analysis import core_days, cost, sizes
from vit_jax_repro.data import catalogue
from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.paper import facts, table
from vit_jax_repro.recipes.recipe import num_examples
from vit_jax_repro.reproduction import checks, needs
from vit_jax_repro.reproduction.options import Options

# Columns of `costs_view`; those with > are aligned to the right.
_COMPUTE = (
  'system',
  '>epochs',
  '>params, M',
  '>MACs, G',
  '>XLA, GFLOPs',
  '>exaFLOPs',
  '>published',
  '>ratio',
)
_CORE_DAYS = (
  'system',
  'pre-trained on',
  '>epochs',
  '>exaFLOPs',
  '>core-days at peak',
  '>published',
  '>part of peak',
)


def plan(
  found: Sequence[checks.Check],
  options: Options | None = None,
  tflops: float = needs.TFLOPS,
) -> View:
  """Returns a view of checks: one in full, several as a table with a total.

  Args:
    found: the checks.
    options: folders of weights and results; None: 'weights' and 'results'.
    tflops: speed for the hours, in TFLOP/s.
  """
  options = options or Options(results='results')
  needed = [needs.of(check, options) for check in found]
  records = tuple(
    {**_record(check), **_amounts(each, tflops)}
    for check, each in zip(found, needed, strict=True)
  )
  about = needs.ABOUT.format(
    tflops=tflops, weights=options.weights_dir, results=options.results
  )
  if len(found) == 1:
    lines = tuple(item for item in records[0].items() if item[1])
    return View((Section(found[0].row.id, (about,), ('', ''), lines),), records)
  amounts = ('hours', 'GB to download', 'GB of disk')
  rows = [
    (
      table.named(check.row.table).short(check.row),
      '; '.join(pick.partition(':')[0] for pick in check.pick),
      record['how'],
      *(record[name] for name in amounts),
    )
    for check, record in zip(found, records, strict=True)
  ]
  whole = needs.total(needed)
  sums = _amounts(whole, tflops)
  rows.append(('total', '', '', *(sums[name] for name in amounts)))
  columns = ('row', 'to choose', 'how', *(f'>{name}' for name in amounts))
  files = tuple(
    (name, '?' if size is None else _gigabytes(size))
    for part in (whole.weights, whole.archives)
    for name, size in sorted(part.items())
  )
  prefixes = {table.named(check.row.table).prefix for check in found}
  beginning = f'Ids begin with {" or ".join(sorted(prefixes))}'
  return View(
    (
      Section('Checks', (about, beginning), columns, tuple(rows)),
      Section('To download', (), ('file or data set', '>GB'), files),
    ),
    records,
  )


def _amounts(needed, tflops):
  more = '' if needed.is_known else '+'
  if not needed.operations and not needed.download:
    return {'hours': '', 'GB to download': '', 'GB of disk': ''}
  return {
    'hours': f'{needed.hours(tflops):.2f}',
    'GB to download': _gigabytes(needed.download) + more,
    'GB of disk': _gigabytes(needed.disk) + more,
  }


def _gigabytes(size):
  return f'{size / 1e9:.2f}'


def computed_costs(
  *, compiled: bool = False
) -> tuple[list[cost.Cost], list[core_days.CoreDays], list[sizes.Size]]:
  """Returns rows for `costs_view`: ViT Tables 6 and 2, parameter counts.

  Args:
    compiled: see `cost.table`.
  """
  published = {
    (row.model, int(row.epochs)): row.exaflops
    for row in table.select('ViT Table 6')
    if row.exaflops is not None
  }
  days = {
    (row.model, row.pretrain_dataset): row.value
    for row in table.select('ViT Table 2')
    if row.metric == table.COST
  }
  return (
    cost.table(published, compiled=compiled),
    core_days.table(days),
    sizes.table(facts.named('Model sizes').rows),
  )


def costs_view(
  costs: Sequence[cost.Cost],
  days: Sequence[core_days.CoreDays],
  parameters: Sequence[sizes.Size],
) -> View:
  """Returns a view of pre-training compute, its time, and of parameters."""
  compute = Section(
    'Pre-training on JFT-300M: ViT Table 6',
    (
      'exaFLOPs are 3 x 2 x multiply-adds (MACs) x images, of models without '
      f'a head at {cost.IMAGE_SIZE} pixels and {cost.JFT_IMAGES / 1e6:.0f} M '
      'images an epoch. Without its class token, ViT-B/32 has 49 tokens and '
      'needs 55.0. For R50x1+ViT-L/16 the table has 859 for 7 epochs, and less '
      'than twice that for 14.',
    ),
    _COMPUTE,
    tuple(_compute(row) for row in costs),
  )
  time = Section(
    'Pre-training in TPUv3 core-days: ViT Table 2',
    (
      'The published number is cores (two per chip) times days. Ours is '
      'computed: exaFLOPs as above over the peak of a core, 61.5 TFLOP/s in '
      'bfloat16 (half a chip, arXiv:2304.01433). So it is the least time, and '
      'ours over the published number is the part of the peak that the '
      'published run used. ImageNet-21k: 14.2 M images, 90 epochs (pvc-33).',
    ),
    _CORE_DAYS,
    tuple(
      (
        row.system,
        row.dataset,
        str(row.epochs),
        f'{row.exaflops:.0f}',
        f'{row.at_peak:.0f}',
        f'{row.published:.0f}',
        f'{row.used:.0%}',
      )
      for row in days
    ),
  )
  counts = Section(
    'Parameters in millions',
    (
      f'At {cost.IMAGE_SIZE} pixels; heads have {sizes.NUM_CLASSES} classes. '
      'A count with = gives the published one, rounded or truncated:',
    ),
    ('system', '>published', *(f'>{name}' for name in sizes.COUNTS)),
    tuple(_counts(row) for row in parameters),
  )
  records = [
    _cost_record('compute', row.system, row.model, column, value, published)
    for row in costs
    for column, value, published in (
      ('parameters without a head', row.parameters, ''),
      ('multiply-adds', row.multiply_adds, ''),
      ('FLOPs of XLA', row.operations or '', ''),
      (f'exaFLOPs of {row.epochs} epochs', row.exaflops, row.published),
    )
  ]
  records += [
    _cost_record(
      'core-days',
      row.system,
      row.model,
      f'TPUv3 core-days at peak of {row.epochs} epochs on {row.dataset}',
      row.at_peak,
      row.published,
    )
    for row in days
  ]
  records += [
    _cost_record(
      'parameters', row.system, row.model, name, count, row.published
    )
    for row in parameters
    for name, count in row.counts.items()
  ]
  return View((compute, time, counts), tuple(records))


def _record(check):
  recipes = [recipe for tried in check.recipes[:1] for recipe in tried]
  named = {
    'recipe': ', '.join(dict.fromkeys(recipe.name for recipe in recipes)),
    'source': '; '.join(dict.fromkeys(recipe.source for recipe in recipes)),
    'learning rates': ', '.join(
      f'{rate:g}' for recipe in recipes[:1] for rate in recipe.base_lrs
    ),
    'steps': ', '.join(
      str(recipe.settings['total_steps']) for recipe in recipes
    ),
    'chosen on': str(recipes[0].tune['test'])
    if recipes and recipes[0].tune
    else '',
    'trained on': recipes[0].settings['pp']['train'] if recipes else '',
  }
  return {
    'row': check.row.id,
    'how': check.kind,
    'file': ', '.join(check.files),
    'model': check.model,
    'data set': ', '.join(check.datasets),
    'split': check.split,
    'tested images': ', '.join(
      str(num_examples(name, check.split) or '') for name in check.datasets
    ),
    'measured': check.metric.replace('_', ' '),
    'head': '' if check.head == 'both' else check.head,
    'size': ', '.join(map(str, dict.fromkeys(check.image_sizes))),
    'preprocessing': check.preprocessing,
    **named,
    'to pick': '\n'.join(check.pick),
    'in its place': '\n'.join(
      f'{what}: {value}' for what, value in check.substituted.items()
    ),
    'notes': '\n'.join(check.notes),
    'needs': '\n'.join(dict.fromkeys(map(_needs, check.datasets))).strip(),
  }


def _needs(dataset):
  row = catalogue.find(dataset)
  if row is None or row.manual is None:
    return ''
  return f'{row.tfds}: {", ".join(row.manual.files)} ({row.manual.origin})'


def _cost_record(about, system, model, quantity, value, published):
  return {
    'about': about,
    'system': system,
    'model': model,
    'quantity': quantity,
    'value': value,
    'published': published,
  }


def _compute(row):
  return (
    row.system,
    str(row.epochs),
    f'{row.parameters / 1e6:.2f}',
    f'{row.multiply_adds / 1e9:.2f}',
    '' if row.operations is None else f'{row.operations / 1e9:.2f}',
    f'{row.exaflops:.1f}',
    f'{row.published:g}',
    f'{row.ratio:.3f}',
  )


def _counts(row):
  return (
    row.system,
    row.published,
    *(
      f'{"= " * (name in row.fitting)}{count / 1e6:.2f}'
      for name, count in row.counts.items()
    ),
  )
