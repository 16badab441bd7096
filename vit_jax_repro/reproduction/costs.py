"""What models cost beside what is published of it, as something to show."""

from collections.abc import Sequence

from vit_jax_repro.analysis import cost, sizes
from vit_jax_repro.paper import facts, table
from vit_jax_repro.paper.sections import Section, View

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


def computed(
  *, compiled: bool = False
) -> tuple[list[cost.Cost], list[sizes.Size]]:
  """Rows for `view`: ViT Table 6, and all published numbers of parameters.

  Args:
    compiled: see `cost.table`.
  """
  published = {
    (row.model, int(row.epochs)): row.exaflops
    for row in table.select('ViT Table 6')
  }
  rows = facts.named('Model sizes').rows
  return cost.table(published, compiled=compiled), sizes.table(rows)


def view(costs: Sequence[cost.Cost], parameters: Sequence[sizes.Size]) -> View:
  """View of pre-training compute, and of numbers of parameters."""
  compute = Section(
    'Pre-training on JFT-300M: ViT Table 6',
    (
      'exaFLOPs are 3 x 2 x multiply-adds (MACs) x images, of models without '
      f'a head at {cost.IMAGE_SIZE} pixels and {cost.JFT_IMAGES / 1e6:.0f} M '
      'images an epoch. With 49 tokens, without its class token, ViT-B/32 '
      'would come to 55.0; of R50x1+ViT-L/16 the table has 859 for 7 epochs, '
      'and less than twice that for 14.',
    ),
    _COMPUTE,
    tuple(_compute(row) for row in costs),
  )
  counts = Section(
    'Parameters in millions',
    (
      f'At {cost.IMAGE_SIZE} pixels; heads have {sizes.NUM_CLASSES} classes. '
      'Which of the counts is the published one, rounded or cut off:',
    ),
    ('system', '>published', *(f'>{name}' for name in sizes.COUNTS), 'fits'),
    tuple(_counts(row) for row in parameters),
  )
  records = [
    _record('compute', row.system, row.model, column, value, published)
    for row in costs
    for column, value, published in (
      ('parameters without a head', row.parameters, ''),
      ('multiply-adds', row.multiply_adds, ''),
      ('FLOPs of XLA', row.operations or '', ''),
      (f'exaFLOPs of {row.epochs} epochs', row.exaflops, row.published),
    )
  ]
  records += [
    _record('parameters', row.system, row.model, name, count, row.published)
    for row in parameters
    for name, count in row.counts.items()
  ]
  return View((compute, counts), tuple(records))


def _record(about, system, model, quantity, value, published):
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
    *(f'{count / 1e6:.2f}' for count in row.counts.values()),
    '; '.join(row.fitting) or 'none',
  )
