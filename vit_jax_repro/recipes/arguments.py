"""The argument of a configuration file, the text after its colon."""

from collections.abc import Callable, Mapping
from typing import Any

from vit_jax_repro.errors import InputError

OF_FINETUNING = dict(
  variant=str, steps=int, image_size=int, dropout=float, num_examples=int
)
OF_PRETRAINING = dict(variant=str, num_examples=int, batch=int)


def parse(
  text: str,
  form: str,
  options: Mapping[str, Callable[[str], Any]],
  *,
  needed: int,
) -> tuple[list[str], dict[str, Any]]:
  """Returns the parts of 'RECIPE,MODEL,DATASET,KEY=VALUE,...'.

  Args:
    text: the argument.
    form: the names of the parts in front, between commas, for the message.
    options: keys that may follow, and what reads their values.
    needed: how many of the parts in front must be there.

  Returns:
    The parts in front, the others filled up with ''; the options.

  Raises:
    InputError: too few or too many parts, an unknown key or a bad value.
  """
  names = form.split(',')
  parts = text.split(',')
  front = [part for part in parts if '=' not in part]
  if not needed <= len(front) <= len(names) or front != parts[: len(front)]:
    raise InputError(
      f'argument {text!r} must be {form}, the first {needed} of them needed, '
      f'then KEY=VALUE of {list(options)}'
    )
  found = {}
  for part in parts[len(front) :]:
    key, _, value = part.partition('=')
    try:
      found[key] = options[key](value)
    except (KeyError, ValueError):
      raise InputError(
        f'{part!r} in the argument {text!r} must be KEY=VALUE, of '
        f'{ {key: kind.__name__ for key, kind in options.items()} }'
      ) from None
  return front + [''] * (len(names) - len(front)), found
