"""The report of a cross-check: sentences, tables and JSON."""

import dataclasses
import math
from typing import Any

from vit_jax_repro.comparison import (
  conclusions,
  crosschecking,
  differences,
  preprocessing_search,
)
from vit_jax_repro.output.sections import Section

# Columns of long texts, which are folded in a narrow terminal.
TEXT_COLUMNS = (
  'array', 'cause', 'image', 'layer', 'port', 'reference', 'step', 'the port',
)  # fmt: skip

_MOST_ROWS = 12  # of tables whose last rows matter little


def sections(result: crosschecking.Crosscheck) -> list[Section]:
  """Returns the sections of the report of a cross-check."""
  parts = [
    _verdict(result),
    _weights(result),
    _layers(result.diagnosis),
    _causes(result.diagnosis),
    _tops('Best classes, same tensor', result.top, result.files),
  ]
  if result.reading is not None:
    parts += [
      _reading(result.reading),
      _tops(
        'Best classes, each with its own preprocessing',
        result.end_to_end,
        result.files,
      ),
    ]
  return [part for part in parts if part is not None]


def as_json(result: crosschecking.Crosscheck) -> dict[str, Any]:
  """Returns the result of a cross-check for scripts.

  Infinities and NaN become None.
  """
  found, reading = result.diagnosis, result.reading
  return _finite(
    {
      'weights': result.weights,
      'port': result.port,
      'model': result.model,
      'image_size': list(result.image_size),
      'dtype': result.dtype,
      'files': list(result.files),
      'preprocessing': result.preprocessing,
      'versions': result.versions,
      'agrees': found.agrees,
      'explained': found.explained,
      'causes': [str(cause) for cause in found.named],
      'alternatives': [str(cause) for cause in found.alternatives],
      'indistinguishable': [str(cause) for cause in found.indistinguishable],
      'weights_equal': None
      if result.parameters is None
      else result.parameters.equal,
      'layers': [
        dataclasses.asdict(layer) | {'within': layer.within}
        for layer in found.layers
      ],
      'not_compared': [
        {'name': name, 'why': why} for name, why in found.not_compared
      ],
      'images': None
      if reading is None
      else {
        'agrees': reading.agrees,
        'largest_difference': reading.gap,  # of 255
        'causes': [
          conclusions.change(reading, field) for field in reading.named
        ],
      },
    }
  )


def _finite(value):
  if isinstance(value, dict):
    return {key: _finite(part) for key, part in value.items()}
  if isinstance(value, list):
    return [_finite(part) for part in value]
  bad = isinstance(value, float) and not math.isfinite(value)
  return None if bad else value


def _verdict(result):
  return Section(
    f'{result.port} against {result.weights}',
    (
      f'Model {result.model}, {_by(result.image_size)} pixels, '
      f'{result.dtype}; {_inputs(result)}; '
      + ', '.join(f'{k} {v}' for k, v in result.versions.items())
      + '.',
      *conclusions.conclusions(result),
    ),
  )


def _by(image_size):
  return 'x'.join(map(str, image_size))


def _inputs(result):
  if not result.files:
    return 'random images'
  return f'{len(result.files)} images read as {result.preprocessing}'


def _weights(result):
  found = result.parameters
  if found is None:
    return None
  text = (
    f'{found.num_equal} of {found.num_arrays} arrays are equal bit for bit '
    f'(names of {result.library}).'
  )
  rows = [
    *((name, f'differs by up to {gap:.3g}') for name, gap in found.different),
    *found.unmatched,
  ]
  return _cut(Section('Weights', (text,), ('array', 'port'), tuple(rows)))


def _cut(section):
  more = len(section.rows) - _MOST_ROWS
  if more <= 0:
    return section
  last = (f'{more} more', *[''] * (len(section.columns) - 1))
  rows = (*section.rows[:_MOST_ROWS], last)
  return dataclasses.replace(section, rows=rows)


def _layers(found):
  rows = []
  first = differences.first_outside(found.layers)
  for layer in found.layers:
    mark = '' if layer.within else 'over'
    rows.append(
      (
        layer.name,
        f'{layer.max_abs:.2e}',
        f'{layer.relative:.2e}',
        f'{layer.cosine:.6f}',
        f'{layer.tolerance:.2e}',
        'first' if layer is first else mark,
      )
    )
  columns = (
    'layer', 'max abs', 'relative', 'cosine', 'tolerance', '',
  )  # fmt: skip
  return Section('Layers, same tensor', (), columns, tuple(rows))


def _causes(found):
  named = set(map(id, found.named))
  rows = []
  for trial in found.trials:
    mark = ''
    if not trial.distinguishable:
      mark = 'indistinguishable'
    elif id(trial.cause) in named:
      mark = 'named'
    elif trial.closes and not found.agrees:
      mark = 'explains as well'
    rows.append(
      (
        trial.cause.topic,
        trial.cause.port,
        f'{trial.effect:.3g}',
        f'{trial.worst:.3g}',
        mark,
      )
    )
  text = (
    'Each cause is substituted alone on the side of the reference. Numbers are '
    'in units of the tolerance, at the worst layer. Indistinguishable: the '
    'effect is below the noise on these weights and images.'
  )
  columns = ('cause', 'the port', 'effect', 'then off by', '')
  return Section('Known causes', (text,), columns, tuple(rows))


def _tops(title, tops, files):
  if not tops:
    return None
  rows = []
  for i, (reference, port) in enumerate(tops):
    image = files[i] if files else f'random {i + 1}'
    for rank, (ours, theirs) in enumerate(zip(reference, port, strict=True)):
      rows.append((image if rank == 0 else '', _class(ours), _class(theirs)))
  same = sum(ours[0][0] == theirs[0][0] for ours, theirs in tops)
  orders = sum(
    [c[0] for c in ours] == [c[0] for c in theirs] for ours, theirs in tops
  )
  text = (
    f'The best class is the same for {same} of {len(tops)} images, the order '
    f'of the best {len(tops[0][0])} for {orders}.'
  )
  return Section(title, (text,), ('image', 'reference', 'port'), tuple(rows))


def _class(entry):
  label, name, logit = entry
  return f'{label} {name.split(",")[0]} ({logit:.4f})'


def _reading(reading):
  shown = reading.found or reading.start
  rows = [
    (
      topic,
      reading.start.says(field) if reading.start else '',
      shown.says(field) if reading.found else 'unknown',
    )
    for field, topic in preprocessing_search.TOPICS.items()
    if shown is not None
  ]
  text = [
    'How the reference and the port each read the files.',
    *(
      'Not visible on these images: '
      f'{preprocessing_search.TOPICS[trial.field]}: '
      f'{trial.reading.says(trial.field)}.'
      for trial in reading.indistinguishable
    ),
  ]
  columns = ('step', 'reference', 'port')
  return Section('Reading images', tuple(text), columns, tuple(rows))
