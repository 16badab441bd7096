"""Endings of a text that names weights: averages, and the base of an adapter.

`PATH#ema` means the averaged weights of a checkpoint, and `ADAPTER#base=BASE` a
PEFT adapter merged into a base model.
"""

import os

EMA = '#ema'
BASE = '#base='


def split(text: str | os.PathLike) -> tuple[str, bool]:
  """Returns a text without `EMA`, and whether it ended so."""
  text = os.fspath(text)
  if not text.endswith(EMA) or os.path.exists(os.path.expanduser(text)):
    return text, False
  return text.removesuffix(EMA), True


def averaged(text: str) -> str:
  """Returns a text with the ending `EMA`, which it may have already."""
  return split(text)[0] + EMA


def split_base(text: str | os.PathLike) -> tuple[str, str | None]:
  """Returns a text without `BASE` and what follows, and the base or None."""
  text = os.fspath(text)
  adapter, _, base = text.partition(BASE)
  if not base or os.path.exists(os.path.expanduser(text)):
    return text, None
  return adapter, base


def on_base(text: str, base: str) -> str:
  """Returns the text of an adapter with its base."""
  return f'{text}{BASE}{base}'
