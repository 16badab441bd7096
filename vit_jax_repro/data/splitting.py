"""Division of a folder without splits, ROOT/CLASS/*, by its images' contents.

Each class is divided alone. The images of a class are sorted by a hash of the
seed and of their bytes, and cut in percent. So names, dates and the order of
files do not matter, and equal images are on one side. A run records the sides
in its workdir, see split_records.py. Whoever reads that record gets the same
sides, also after files were renamed, moved, added or removed; an added image
gets its side from its own hash.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro.data import percent_parts
from vit_jax_repro.errors import InputError

SIDES = ('train', 'validation', 'test')
_BY_DEFAULT = {'validation': ((60, 80),), 'test': ((80, 100),)}
_NAMES = ('test', 'validation', 'val', 'valid')  # of sides that are not train


@dataclasses.dataclass(frozen=True)
class Record:
  """The sides of images in an earlier run.

  Fields:
    path: of the file.
    parts, seed: of the division, see `Division`.
    sides: {SHA-256 of an image: side}.
  """

  path: str
  parts: Mapping[str, tuple[percent_parts.Interval, ...]]
  seed: int
  sides: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Division:
  """The parts of each class that are for training, validation and test.

  Fields:
    train, validation, test: 'train[:80%]' and sums of such parts, of all
      images; or a bare name, which gets the rest. If `train` is bare, `test`
      gets 'train[80%:]' and `validation` 'train[60%:80%]'.
    seed: another one gives other sides.
    record: of an earlier run. It decides if it is of the same parts and seed.
      Otherwise its training images must not become test images.
  """

  train: str = 'train'
  validation: str | None = None
  test: str = 'test'
  seed: int = 0
  record: Record | None = None

  def texts(self) -> dict[str, str]:
    """Returns {side: text} of the sides that exist."""
    named = {side: getattr(self, side) for side in SIDES}
    return {side: text for side, text in named.items() if text}

  def parts(self) -> dict[str, tuple[percent_parts.Interval, ...]]:
    """Returns {side: its intervals}.

    Raises:
      InputError: a text is no part, or two sides share images, or one has none.
    """
    found = {side: _parsed(side, text) for side, text in self.texts().items()}
    bare = [side for side, part in found.items() if part is None]
    if 'train' in bare:
      found |= {side: _BY_DEFAULT[side] for side in bare if side != 'train'}
    elif len(bare) == 2:
      raise InputError(
        f'config.pp.train={self.train!r} leaves open which part is for '
        'validation and which for test; name one, such as '
        "--config.pp.test='train[80%:]'"
      )
    taken = [each for part in found.values() if part for each in part]
    parts = {
      side: percent_parts.rest(taken) if part is None else part
      for side, part in found.items()
    }
    self._check(parts)
    return parts

  def divide(
    self,
    contents: Sequence[str],
    labels: Sequence[int],
    *,
    is_stratified: bool = True,
  ) -> 'Divided':
    """Gives each image a side.

    Args:
      contents: SHA-256 of each image, see image_hashes.py.
      labels: the class of each image. An image that is in two classes is
        divided with the first.
      is_stratified: whether `labels` are the classes, for the user.

    Raises:
      InputError: as `parts`; or a training image of an earlier run, of which
        this one has the weights, would become a test image.
    """
    parts, record = self.parts(), self.record
    segments = percent_parts.segments_of(parts)
    label_of: dict[str, int] = {}
    for content, label in zip(contents, labels, strict=True):
      label_of.setdefault(content, label)
    known = record.sides.keys() & label_of.keys() if record else set()
    is_same = record and (record.parts, record.seed) == (parts, self.seed)
    if record is None or not known or not is_same:
      sides = percent_parts.sides_by_rank(
        label_of, self.seed, segments, fill=True
      )
      if record is not None:
        _check_unseen(sides, record)
      return Divided(self, sides, 0, is_stratified)
    sides = {
      content: record.sides.get(content)
      or percent_parts.side_of(content, self.seed, segments)
      for content in label_of
    }
    return Divided(self, sides, len(known), is_stratified)

  def side_of(self, text: str) -> str | None:
    """Returns the side that a text of a split names; None if it names none."""
    texts = self.texts()
    for side, own in texts.items():
      if text in (own, own.partition('[')[0]) and text != 'train':
        return side
    if text in texts:
      return text
    part = percent_parts.intervals(text)
    for side, own in self.parts().items():
      if part is not None and part == own:
        return side
    return None

  def _check(self, parts):
    for side, part in parts.items():
      if not part:
        raise InputError(
          f'{self._shown(parts, side)} gets no image, because the other parts '
          'take all; make them smaller'
        )
      for other in SIDES[: SIDES.index(side)]:
        if percent_parts.overlap(part, parts.get(other, ())):
          raise InputError(
            f'{self._shown(parts, other)} and {self._shown(parts, side)} have '
            'images in common; choose parts that do not overlap, such as '
            "'train[:80%]' and 'train[80%:]'"
          )

  def _shown(self, parts, side):
    text = getattr(self, side)
    part = percent_parts.text_of(parts[side])
    of = '' if text == part or not part else f' ({part} of the folder)'
    return f'config.pp.{side}={text!r}{of}'


@dataclasses.dataclass(frozen=True)
class Divided:
  """A division of the images of a folder."""

  division: Division
  sides: Mapping[str, str]  # {SHA-256 of an image: side}
  num_recorded: int  # images whose side was recorded before
  is_stratified: bool  # whether each class was divided alone

  @property
  def text(self) -> str:
    """Returns a line for the user: percents, seed, where it is recorded."""
    parts = self.division.parts()
    shares = ', '.join(
      f'{sum(stop - start for start, stop in part)} % {side}'
      for side, part in sorted(parts.items(), key=lambda item: item[1][0])
    )
    how = 'stratified' if self.is_stratified else 'not by class'
    line = f'no splits: {shares}, {how}, seed {self.division.seed}'
    record = self.division.record
    if record is None or not self.num_recorded:
      return line
    new = len(self.sides) - self.num_recorded
    line += f', as recorded in {record.path}'
    return f'{line} ({new:,} images are new)' if new else line

  def chosen(
    self, part: str, contents: Sequence[str], labels: Sequence[int]
  ) -> set[str] | None:
    """Returns the contents in a part that is no side; None if it is none.

    Args:
      part: such as 'train[:10%]'.
      contents, labels: as for `Division.divide`.

    Raises:
      InputError: an earlier run recorded the sides, which may cut the part.
    """
    intervals = percent_parts.intervals(part)
    if intervals is None:
      return None
    record = self.division.record
    if record is not None and self.num_recorded:
      raise InputError(
        f'{part!r} may mix training and test images, because the folder was '
        f'divided as in {record.path}; choose from '
        f'{[*self.division.texts()]}'
      )
    segments = percent_parts.segments_of({part: intervals})
    label_of = dict(zip(reversed(contents), reversed(labels), strict=True))
    sides = percent_parts.sides_by_rank(
      label_of, self.division.seed, segments, fill=False
    )
    return {content for content, side in sides.items() if side == part}

  def record(self) -> dict[str, Any]:
    """Returns the contents of the record, see split_records.py."""
    old = self.division.record
    images = old.sides if old is not None and self.num_recorded else {}
    return {
      **{side: getattr(self.division, side) for side in SIDES},
      'seed': self.division.seed,
      'images': {**images, **self.sides},
    }


def _check_unseen(sides, record):
  seen = sum(
    side in ('validation', 'test') and record.sides.get(content) == 'train'
    for content, side in sides.items()
  )
  if seen:
    raise InputError(
      f'{seen} images for validation or test are training images of the run '
      'whose weights this one starts from; set config.pp.train, validation, '
      f'test and split_seed as in {record.path}'
    )


def _parsed(side, text):
  """Returns the intervals of a side; None if it is a bare name."""
  found = percent_parts.intervals(text)
  if found is not None:
    return found
  if (text in _NAMES) if side != 'train' else (text == 'train'):
    return None
  raise InputError(
    f'config.pp.{side}={text!r} has no meaning in a folder without splits; '
    f'choose {side!r} or a part in percent, such as '
    f'{"train[:80%]" if side == "train" else "train[80%:]"!r}'
  )
