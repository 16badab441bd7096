"""The findings of a cross-check, in sentences."""

from collections.abc import Iterator

from vit_jax_repro.comparison import (
  crosschecking,
  differences,
  preprocessing_search,
)
from vit_jax_repro.comparison.activations import LOGITS

_MOST_NAMES = 4  # listed in a sentence


def conclusions(result: crosschecking.Crosscheck) -> Iterator[str]:
  """Yields sentences on each stage of a cross-check."""
  found = result.diagnosis
  first = differences.first_outside(found.layers)
  left_out = dict(found.not_compared)
  if found.agrees:
    yield 'Agrees: every layer that was compared is within its tolerance.'
  elif first is None:
    yield (
      f'Agrees up to {found.layers[-1].name}; logits not compared: '
      f'{left_out.pop(LOGITS)}.'
    )
  else:
    yield from _explanation(result, first)
  if left_out:
    yield f'Not compared: {_listed(left_out)}.'
  if result.reading is not None:
    yield _image_sentence(result.reading)


def _explanation(result, first):
  """Yields sentences that explain the first layer over its tolerance."""
  found = result.diagnosis
  yield (
    f'Differs: the first layer over its tolerance is {first.name} '
    f'({first.max_abs:.2g} against {first.tolerance:.2g}).'
  )
  if found.named:
    yield f'Cause: {"; and ".join(map(str, found.named))}.'
  if found.alternatives:
    others = '; or '.join(map(str, found.alternatives))
    yield f'These weights and images do not distinguish it from: {others}.'
  left = differences.first_outside(found.remaining)
  if left is None:
    logits = '' if found.complete else '; logits were not compared'
    yield (
      'With that matched, every layer that was compared is within its '
      f'tolerance{logits}.'
    )
    return
  off = (
    f'{left.name} is off by {left.max_abs:.2g}, {left.excess:.3g} times its '
    'tolerance'
  )
  subject = 'The rest' if found.named else 'The difference'
  if result.parameters is None or result.parameters.equal:
    yield f'{subject} has no known cause: {off}.'
  else:
    # The module of a function keeps its weights, see torch_sources.
    module = result.port.startswith('module:')
    yield (
      f'{subject} is not explained: {off}. The weights differ (see their table)'
      f'{"" if module else "; try --port_weights=reference"}.'
    )


def _listed(left_out):
  """Returns {name: reason} in words, grouped by reason."""
  reasons = {}
  for name, why in left_out.items():
    reasons.setdefault(why, []).append(name)
  return '; '.join(
    ', '.join(names[:_MOST_NAMES])
    + (f' and {more} more' if (more := len(names) - _MOST_NAMES) > 0 else '')
    + f' ({why})'
    for why, names in reasons.items()
  )


def _image_sentence(reading):
  if reading.agrees:
    return 'Images: both sides read them to the same values.'
  gap = (
    f'Images: values differ by up to {reading.gap:.3g} of 255 '
    f'({reading.mean_gap:.2g} on average)'
  )
  if reading.found is None:
    return (
      f'{gap}; no known way of reading them gives the values of the port '
      f'(the nearest is off by {reading.remaining:.3g}).'
    )
  if reading.start is None:
    return f'{gap}; the port reads them as in the table.'
  if not reading.named:
    return f'{gap}, which is rounding.'
  causes = '; and '.join(change(reading, field) for field in reading.named)
  rest = (
    ''
    if reading.remaining <= preprocessing_search.EXACT
    else (
      f' With that matched they differ by {reading.remaining:.2g}, rounding.'
    )
  )
  return f'{gap}. Cause: {causes}.{rest}'


def change(reading: preprocessing_search.Comparison, field: str) -> str:
  """Returns the change of a field from the reference's reading to the port's.

  Both readings are known.
  """
  assert reading.found and reading.start
  return (
    f'{preprocessing_search.TOPICS[field]}: {reading.found.says(field)}, not '
    f'{reading.start.says(field)}'
  )
