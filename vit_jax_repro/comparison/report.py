"""The report of a cross-check: sentences, tables and JSON."""

import dataclasses
import math
from typing import Any

from vit_jax_repro.comparison import (
  conclusions,
  crosschecking,
  differences,
  gradients,
  preprocessing_search,
)
from vit_jax_repro.output.sections import Section

_MOST_ROWS = 12  # of tables whose last rows matter little


def sections(result: crosschecking.Crosscheck) -> list[Section]:
  """Returns the sections of the report of a cross-check."""
  parts = [
    _verdict(result),
    _weights(result),
    _layers(result),
    Section('Read off the port', result.facts),
    *_gradients(result),
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
      'agrees': result.agrees,
      'explained': found.explained,
      'causes': [str(cause) for cause in found.named],
      'alternatives': [
        '; and '.join(map(str, causes)) for causes in found.alternatives
      ],
      'first_difference': _gap(found.layers, found.order),
      'remaining': _gap(found.remaining, found.order),
      'tried': [str(cause) for cause in found.tried],
      'facts': list(result.facts),
      'random': result.is_random,
      'indistinguishable': [str(cause) for cause in found.indistinguishable],
      'weights_equal': None
      if result.parameters is None
      else result.parameters.equal,
      'layers': [
        _layer(layer) | {'module': result.modules.get(layer.name)}
        for layer in found.layers
      ],
      'gradients': None
      if result.gradients is None
      else {
        'agrees': result.gradients.agrees,
        'loss': gradients.LOSS,
        'layers': [_layer(layer) for layer in result.gradients.layers],
        'parameters': [_layer(layer) for layer in result.gradients.parameters],
        'without': list(result.gradients.without),
      },
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


def _layer(layer):
  return dataclasses.asdict(layer) | {'within': layer.within}


def _gap(layers, order):
  found = conclusions.gap(layers, order)
  return found and {
    'after': found.after,
    'at': found.at.name,
    'between': list(found.between),
  }


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


def _layers(result):
  found = result.diagnosis
  return _compared('Layers, same tensor', (), found.layers, result.modules)


def _compared(title, text, layers, modules, noun='layer'):
  """Returns a section with a table of differences."""
  first = differences.first_outside(layers)
  rows = [
    (
      layer.name,
      *((modules.get(layer.name, ''),) if modules else ()),
      f'{layer.max_abs:.2e}',
      f'{layer.relative:.2e}',
      f'{layer.cosine:.6f}',
      f'{layer.tolerance:.2e}',
      'first' if layer is first else '' if layer.within else 'over',
    )
    for layer in layers
  ]
  columns = (
    noun,
    *(('in the port',) if modules else ()),
    'max abs',
    'relative',
    'cosine',
    'tolerance',
    '',
  )
  return Section(title, text, columns, tuple(rows))


def _gradients(result):
  """Returns the sections on gradients."""
  found = result.gradients
  if found is None:
    return []
  text = (f'Of the {gradients.LOSS}. In the order of the backward pass.',)
  parts = [
    _compared(
      'Gradients by the activations', text, found.layers, result.modules
    )
  ]
  if found.parameters:
    text = ('The largest differences first, in tolerances.',)
    table = _compared(
      'Gradients by the parameters', text, found.parameters, {}, 'parameter'
    )
    parts.append(_cut(table))
  return parts


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
