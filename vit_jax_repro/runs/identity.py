"""Whether a run is still the same run: its settings, its data, its weights.

Fingerprints in manifest.json identify data, weights, and the run that it
continues. So a run continues when they have moved, for example to the disk of
another machine.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flax import traverse_util

from vit_jax_repro.data import datasets
from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import listed, note, quoted
from vit_jax_repro.runs import card_settings, configuration, settings

# {setting that names files: the keys of the manifest that identify them}
_SPLITS = ('train', 'test', 'validation')
_FINGERPRINTS = {
  'dataset': tuple(f'{split}_fingerprint' for split in _SPLITS),
  'pretrained_dir': ('pretrained_fingerprint',),
  'model_or_filename': ('pretrained_fingerprint',),
  'teacher': ('teacher_fingerprint',),
  'continue_from': ('continued_fingerprint',),
}
# What machines may see under other names. They share the folders of runs.
PLACES = tuple(key for key in _FINGERPRINTS if key != 'continue_from')
WEIGHTS = {'pretrained_dir', 'model_or_filename'}
_MUST_BE_SET = {'dataset', 'pretrained_dir', 'teacher', 'continue_from'}
# Keys of the manifest that other keys decide.
_IMPLIED = (
  'dataset',
  'continued_from',
  *(f'{split}_images' for split in _SPLITS),
  *(f'{split}_classes' for split in _SPLITS),
)


def differences(
  before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str]
) -> list[str]:
  """Lists what differs between configurations: "seed was 0 and is 1", ...

  Args:
    before, now: plain mappings of settings.
    free: keys that may differ, such as `FREE`.
  """
  before, now = complete(before), complete(now)
  return [
    f'{key} was {before.get(key)!r} and is {now.get(key)!r}'
    for key in sorted(before.keys() | now.keys())
    if key not in free and before.get(key) != now.get(key)
  ]


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a flat configuration in which missing keys have their defaults.

  So a run can be continued that began before the package had these keys.

  Args:
    config: plain mapping of settings.
  """
  config = card_settings.settled(config)
  complete = settings.defaults() | traverse_util.flatten_dict(config, sep='.')
  if isinstance(config.get('model'), Mapping):
    model = configuration.with_defaults(config['model'])
    complete = traverse_util.flatten_dict({'model': model}, sep='.') | complete
  return json.loads(json.dumps(complete, default=str))


def check(begun: Mapping[str, Any], path: str, remedy: str) -> None:
  """Raises an InputError that names the file unless it describes a model.

  Args:
    begun: the contents of a config.json.
    path: path or address of that file.
    remedy: the end of the message.
  """
  try:
    complete(begun)
  except InputError as error:
    raise InputError(f'{path}: {error}; {remedy}') from error


def moved(
  before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str]
) -> dict[str, tuple[Any, Any]]:
  """Returns the places that differ and may hold the same: {key: (was, is)}.

  A data set that is no folder of images counts as another one, not as moved.

  Args:
    before, now: plain mappings of settings.
    free: keys that may differ, as for `differences`.
  """
  before, now = complete(before), complete(now)
  found = {}
  for key in _FINGERPRINTS:
    was, place = before.get(key), now.get(key)
    if key in free or was == place:
      continue
    if key in _MUST_BE_SET and not (was and place):
      continue
    if key != 'dataset' or datasets.may_be_folder(str(place)):
      found[key] = was, place
  return found


def require_same(
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  moved_places: Mapping[str, tuple[Any, Any]],
  holder: str,
  remedy: str,
) -> None:
  """Compares descriptions of data; notes what has moved and is the same.

  Args:
    old, new: descriptions for manifest.json. Keys of both are compared.
    moved_places: result of `moved`.
    holder: names what has the old data: 'runs/a holds a run'.
    remedy: what a user can do about other data.

  Raises:
    InputError: the data or weights are others, or nothing shows that moved
      ones are the same.
  """
  for key in new:  # the training split comes first
    if key in old and key not in _IMPLIED and old[key] != new[key]:
      raise InputError(
        f'{holder} on other data: {_change(key, old, new)}; {remedy}'
      )
  for key, (was, place) in moved_places.items():
    identified = [x for x in _FINGERPRINTS[key] if x in old and x in new]
    if not identified:
      raise InputError(
        f'{holder} with other settings: {key} was {was!r} and is {place!r}, '
        'and no fingerprint shows that these are the same; give the old place, '
        f'or {remedy}'
      )
    note(
      f'config.{key} was {was!r} and is {place!r}: the same by the fingerprint '
      f'{old[identified[0]]}, so the run continues'
    )


def _change(key, old, new):
  """Describes how the values of a key of manifest.json differ."""
  split = key.removesuffix('_fingerprint')
  if split in _SPLITS:
    found = list(_changes_of_split(split, old, new))
    if found:
      return f'the {split} split {", ".join(found)}'
  if key.endswith('_contents'):
    split = key.removesuffix('_contents')
    return f'the {split} split has images with other contents, of the same size'
  text = f'{key} was {old[key]!r} and is {new[key]!r}'
  named = [name for name in _MUST_BE_SET if (key,) == _FINGERPRINTS[name]]
  return f'config.{named[0]} has other contents, {text}' if named else text


def _changes_of_split(split: str, old: Any, new: Any) -> Iterator[str]:
  """Yields which classes and how many images of a split are others.

  Manifests of older versions have only the fingerprints.
  """
  number = f'{split}_images'
  if number not in old:
    return
  before, now = (each.get(f'{split}_classes', {}) for each in (old, new))
  if before.keys() - now.keys():
    yield f'lacks the classes {listed(before.keys() - now.keys())}'
  if now.keys() - before.keys():
    yield f'has the new classes {listed(now.keys() - before.keys())}'
  other = [
    f'{before[name]} images of {quoted(name)} and has {now[name]}'
    for name in before
    if before[name] != now.get(name, before[name])
  ]
  if other:
    more = f' (and other numbers in {len(other) - 1} more classes)'
    yield f'had {other[0]}{more if len(other) > 1 else ""}'
  if old[number] != new[number]:
    yield f'had {old[number]} images in all and has {new[number]}'
  else:
    yield f'has {new[number]} images as before, with other file names or sizes'
