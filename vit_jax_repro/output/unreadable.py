"""The images of a command that could not be read, listed at its end."""

import time

from vit_jax_repro.errors import InputError, printable
from vit_jax_repro.output import waiting

_MOST_LISTED = 20


class Unreadable:
  """The images of a command that could not be read, and its duration."""

  def __init__(self, total: int):
    self._total = total
    self._reasons: list[str] = []
    self._started = time.perf_counter()

  def add(self, reason: str) -> None:
    """Notes a line on an image."""
    self._reasons.append(printable(reason))

  def require_some(self) -> None:
    """Raises an InputError if no image could be read; lists the reasons."""
    if len(self._reasons) == self._total:
      if self._total == 1:
        raise InputError(self._reasons[0])
      self._list()
      raise InputError(f'none of the {self._total:,} images can be read')

  def rate(self) -> str:
    """Returns the number of images that could be read, with their rate."""
    seconds = time.perf_counter() - self._started
    number = self._total - len(self._reasons)
    return f'{number:,} images in {seconds:.1f} s, {number / seconds:.1f}/s'

  def finish(self) -> None:
    """Raises an InputError if an image could not be read; lists the reasons."""
    number = len(self._reasons)
    if not number:
      return
    rest = f'the other {self._total - number:,} images are in the result'
    if number == 1:
      raise InputError(f'{self._reasons[0]}; {rest}')
    self._list()
    raise InputError(f'{number:,} images cannot be read; {rest}')

  def _list(self):
    for reason in self._reasons[:_MOST_LISTED]:
      waiting.show(f'unreadable: {reason}')
    more = len(self._reasons) - _MOST_LISTED
    if more > 0:
      waiting.show(f'unreadable: {more:,} more')
