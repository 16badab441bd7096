"""Parts of the classes of a folder in percent, and who belongs to them.

The images of a class are sorted by a hash of a seed and of their bytes. A part
such as 'train[:80%]' is an interval of that order, in percent.
"""

import collections
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from vit_jax_repro.errors import InputError

UNUSED = 'unused'
# Which side gets an image first if a class has too few for all.
_FIRST = ('train', 'test', 'validation', UNUSED)
_PART = re.compile(r'train\[(?:(-?\d+)%)?:(?:(-?\d+)%)?\]')

Interval = tuple[int, int]  # in percent of each class
Segment = tuple[int, int, str]  # start, stop, side


def intervals(text: str) -> tuple[Interval, ...] | None:
  """Parses a sum of parts such as 'train[:80%]'; None if it is none.

  Raises:
    InputError: a part is empty or beyond the images, or two of them overlap.
  """
  found = []
  for term in text.split('+'):
    match = _PART.fullmatch(term.strip())
    if match is None:
      return None
    start, stop = (
      default if number is None else int(number) + 100 * (number[0] == '-')
      for number, default in zip(match.groups(), (0, 100), strict=True)
    )
    if not 0 <= start < stop <= 100:
      raise InputError(
        f'{term.strip()!r} must be a part from 0 to 100 percent that is not '
        "empty, such as 'train[:80%]'"
      )
    found.append((start, stop))
  found.sort()
  for (_, stop), (start, _) in itertools.pairwise(found):
    if start < stop:
      raise InputError(f'{text!r} has images twice; leave one of them out')
  return tuple(found)


def rest(taken: Iterable[Interval]) -> tuple[Interval, ...]:
  """Returns the intervals of 0 to 100 percent that are not taken."""
  free, start = [], 0
  for begin, stop in [*sorted(taken), (100, 100)]:
    if begin > start:
      free.append((start, begin))
    start = max(start, stop)
  return tuple(free)


def overlap(part: Iterable[Interval], other: Sequence[Interval]) -> bool:
  """Returns whether two parts have images in common."""
  return any(
    max(start, begin) < min(stop, end)
    for start, stop in part
    for begin, end in other
  )


def text_of(part: Iterable[Interval]) -> str:
  """Returns intervals in the notation of a split."""
  return '+'.join(
    f'train[{f"{start}%" if start else ""}:{f"{stop}%" if stop < 100 else ""}]'
    for start, stop in part
  )


def segments_of(parts: Mapping[str, Sequence[Interval]]) -> list[Segment]:
  """Returns the parts and what is unused in order, from 0 to 100 percent."""
  taken = [
    (start, stop, side) for side, part in parts.items() for start, stop in part
  ]
  unused = [(*each, UNUSED) for each in rest([(a, b) for a, b, _ in taken])]
  return sorted([*taken, *unused])


def side_of(content: str, seed: int, segments: Iterable[Segment]) -> str:
  """Returns the side of an image that only its hash determines.

  Args:
    content: SHA-256 of the image.
    seed: another one gives another side.
    segments: see `segments_of`.
  """
  percent = 100 * int(_key(seed, content)[:12], 16) / 16**12
  return next(side for start, stop, side in segments if percent < stop)


def _key(seed, content):
  return hashlib.sha256(f'{seed} {content}'.encode()).hexdigest()


def sides_by_rank(
  label_of: Mapping[str, int],
  seed: int,
  segments: Sequence[Segment],
  *,
  fill: bool,
) -> dict[str, str]:
  """Divides the images of each class alone.

  Args:
    label_of: {SHA-256 of an image: its class}.
    seed: another one gives another order.
    segments: see `segments_of`.
    fill: whether each side has an image at least, as long as there are enough:
      first the training side, then the test side.

  Returns:
    {SHA-256 of an image: side}.
  """
  of_class = collections.defaultdict(list)
  for content, label in label_of.items():
    of_class[label].append(content)
  sides = {}
  for contents in of_class.values():
    counts = _counts(len(contents), segments, fill)
    places = [
      side
      for count, (*_, side) in zip(counts, segments, strict=True)
      for _ in range(count)
    ]
    contents.sort(key=lambda content: _key(seed, content))
    sides.update(zip(contents, places, strict=True))
  return sides


def _counts(number, segments, fill):
  """Returns the images of each segment, of a class of this many."""
  ends = [round(stop * number / 100) for _, stop, _ in segments]
  counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
  ranks = [_FIRST.index(side) for *_, side in segments] if fill else []
  for rank in range(_FIRST.index(UNUSED)):
    mine = [i for i, other in enumerate(ranks) if other == rank]
    if not mine or any(counts[i] for i in mine):
      continue
    # A side that comes first keeps its last image.
    givers = [i for i, r in enumerate(ranks) if counts[i] > (r < rank)]
    if givers:
      counts[max(givers, key=lambda i: counts[i])] -= 1
      counts[mine[0]] += 1
  return counts
