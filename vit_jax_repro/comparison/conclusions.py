"""The findings of a cross-check, in sentences."""

import dataclasses
from collections.abc import Iterator, Sequence

from vit_jax_repro.comparison import (
  causes,
  crosschecking,
  differences,
  gradients,
  preprocessing_search,
  torch_sources,
)
from vit_jax_repro.comparison.activations import LOGITS
from vit_jax_repro.output import messages

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
    yield from _explanation(result)
  yield from _constants(result)
  if result.gradients is not None:
    yield from _gradients(result)
  if left_out:
    yield f'Not compared: {_listed(left_out)}.'
  if found.indistinguishable:
    yield (
      'These weights and images cannot show: '
      f'{"; ".join(map(str, found.indistinguishable))}'
      f'{"" if result.dtype == "float64" else " (see --dtype=float64)"}.'
    )
  if result.reading is not None:
    yield _image_sentence(result.reading)


@dataclasses.dataclass(frozen=True)
class Gap:
  """The place of the first difference.

  Attributes:
    after: the last activation before it that agrees, or None.
    at: the first one that differs.
    between: activations between them that could not be compared.
  """

  after: str | None
  at: differences.LayerDifference
  between: tuple[str, ...]


def gap(
  layers: Sequence[differences.LayerDifference], order: Sequence[str]
) -> Gap | None:
  """Returns the place of the first difference, None if all agree.

  Args:
    layers: differences of the layers that were compared, in an order.
    order: names of all activations in this order.
  """
  first = differences.first_outside(layers)
  if first is None:
    return None
  compared = [layer.name for layer in layers]
  before = compared[: compared.index(first.name)]
  after = before[-1] if before else None
  start = order.index(after) + 1 if after else 0
  return Gap(after, first, tuple(order[start : order.index(first.name)]))


def _place(result, layers, order=None):
  """Returns 'first difference between X (agrees) and Y (differs by ...)'."""
  found = gap(layers, order or result.diagnosis.order)
  assert found is not None
  text = 'the images'
  if found.after is not None:
    text = f'{_named(result, found.after)} (agrees)'
  text = (
    f'first difference between {text} and {_named(result, found.at.name)} '
    f'(differs by {found.at.max_abs:.2g}, tolerance {found.at.tolerance:.2g})'
  )
  hidden = [
    n for n in found.between if n in dict(result.diagnosis.not_compared)
  ]
  if hidden:
    text += f'; {_several(hidden)} in between could not be compared'
  return text


def _named(result, name):
  """Returns the name of a layer with that of the port's module."""
  where = result.modules.get(name)
  return name if where is None else f'{name} [{where}]'


def _explanation(result):
  """Yields sentences that explain the first layer over its tolerance."""
  found = result.diagnosis
  place = _place(result, found.layers)
  is_unknown = not found.named and not result.is_random
  yield (
    f'Differs. Cause: unknown; {place}.'
    if is_unknown
    else (f'Differs: {place}.')
  )
  if result.is_random:
    yield (
      'The port is random: the logits of passes over the same images '
      f'differ by up to {result.spread:.2g}, as with a dropout that stays on '
      'after eval(). So no cause is sought.'
    )
    return
  left = differences.first_outside(found.remaining)
  if not found.named:
    yield (
      f'Tried without success: {_tried(found.tried)}.'
      if found.tried
      else 'Tried: nothing, because no known cause acts there.'
    )
  elif left is not None:
    before, after = map(differences.worst, (found.layers, found.remaining))
    yield (
      f'Cause of a part: {_joined(found.named)}. With it matched the largest '
      f'difference falls from {before:.3g} to {after:.3g} tolerances. What '
      f'remains is unknown; {_place(result, found.remaining)}.'
    )
  else:
    yield f'Cause: {_joined(found.named)}.'
    if found.alternatives:
      others = '; or '.join(map(_joined, found.alternatives))
      yield (f'These weights and images do not distinguish it from: {others}.')
    logits = '' if found.complete else '; logits were not compared'
    yield (
      'With that matched, every layer that was compared is within its '
      f'tolerance{logits}.'
    )
  if left is not None and not (
    result.parameters is None or result.parameters.equal
  ):
    # The module of a function keeps its weights, see torch_sources.
    own = torch_sources.has_own_function(result.port)
    yield (
      'The weights differ, too (see their table)'
      f'{"" if own else "; try --port_weights=reference"}.'
    )


def _joined(causes):
  return '; and '.join(map(str, causes))


def _tried(causes):
  topics = dict.fromkeys(cause.topic for cause in causes)
  number = f'{len(causes)} values, alone and together'
  return f'{", ".join(topics)} ({number if len(causes) > 1 else "1 value"})'


def _constants(result):
  """Yields a sentence on constants that differ and are not named as causes."""
  topics = {cause.topic for cause in result.diagnosis.named}
  if 'activation' in topics:  # read off as the GELU's form
    topics.add(causes.TOPICS['gelu'])
  rest = [
    f'{causes.TOPICS[field]}: {theirs}, not {ours}'
    for field, (theirs, ours) in result.constants.items()
    if causes.TOPICS[field] not in topics
  ]
  if not rest:
    return
  explained = not result.is_random and result.diagnosis.explained
  yield f'Read off its modules: {"; ".join(rest)}. ' + (
    'It is not needed to explain what differs on these weights and images.'
    if explained
    else 'It does not explain all that differs.'
  )


def _gradients(result):
  """Yields sentences on the gradients."""
  found = result.gradients
  matched = result.diagnosis.named or result.constants
  given = ', with these causes and constants matched' if matched else ''
  layers = [*found.layers]
  if found.agrees:
    yield f'Gradients agree{given} ({gradients.LOSS}).'
    return
  if differences.first_outside(layers) is not None:
    place = _place(result, layers, [layer.name for layer in layers])
    yield f'Gradients differ{given} ({gradients.LOSS}): backwards, {place}.'
  else:
    yield f'Gradients by the activations agree{given} ({gradients.LOSS}).'
  if not all(layer.within for layer in found.parameters):
    worst = found.parameters[0]
    yield (
      f'Gradients by the parameters differ, the most at {worst.name} (by '
      f'{worst.max_abs:.2g}, tolerance {worst.tolerance:.2g}).'
    )
  if found.without:
    yield f'No gradient reaches: {messages.listed(found.without)}.'


def _several(names):
  more = len(names) - _MOST_NAMES
  text = ', '.join(names[:_MOST_NAMES])
  return f'{text} and {more} more' if more > 0 else text


def _listed(left_out):
  """Returns {name: reason} in words, grouped by reason."""
  reasons = {}
  for name, why in left_out.items():
    reasons.setdefault(why, []).append(name)
  return '; '.join(
    f'{_several(names)} ({why})' for why, names in reasons.items()
  )


def _image_sentence(reading):
  if reading.agrees:
    return 'Images: both sides read them to the same values.'
  text = (
    f'Images: values differ by up to {reading.gap:.3g} of 255 '
    f'({reading.mean_gap:.2g} on average)'
  )
  if reading.found is None:
    return (
      f'{text}; no known way of reading them gives the values of the port '
      f'(the nearest is off by {reading.remaining:.3g}).'
    )
  if reading.start is None:
    return f'{text}; the port reads them as in the table.'
  if not reading.named:
    return f'{text}, which is rounding.'
  changes = '; and '.join(change(reading, field) for field in reading.named)
  rest = (
    ''
    if reading.remaining <= preprocessing_search.EXACT
    else (
      f' With that matched they differ by {reading.remaining:.2g}, rounding.'
    )
  )
  return f'{text}. Cause: {changes}.{rest}'


def change(reading: preprocessing_search.Comparison, field: str) -> str:
  """Returns the change of a field from the reference's reading to the port's.

  Both readings are known.
  """
  assert reading.found and reading.start
  return (
    f'{preprocessing_search.TOPICS[field]}: {reading.found.says(field)}, not '
    f'{reading.start.says(field)}'
  )
