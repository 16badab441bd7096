"""The argument of a configuration file, the text after its colon."""

from collections.abc import Mapping
from typing import Any

from vit_jax_repro.errors import InputError

OF_FINETUNING = dict(
  variant=str, steps=int, image_size=int, dropout=float, num_examples=int
)
OF_PRETRAINING = dict(variant=str, num_examples=int, batch=int)


def parse(
  text: str,
  form: str,
  options: Mapping[str, type],
  *,
  needed: int,
) -> tuple[list[str], dict[str, Any]]:
  """Splits 'RECIPE,MODEL,DATASET,KEY=VALUE,...' into its parts.

  Args:
    text: the argument.
    form: names of the positional parts, separated by commas.
    options: allowed keys and the types of their values.
    needed: number of positional parts that are required.

  Returns:
    The positional parts, with '' for each missing one, and the options.

  Raises:
    InputError: too few or too many parts, an unknown key or a bad value.
  """
  names = form.split(',')
  parts = text.split(',')
  front = [part for part in parts if '=' not in part]
  if not needed <= len(front) <= len(names) or front != parts[: len(front)]:
    raise InputError(
      f'argument {text!r} must be {form} (the first {needed} are required), '
      f'then KEY=VALUE with a KEY from {list(options)}'
    )
  found = {}
  for part in parts[len(front) :]:
    key, _, value = part.partition('=')
    try:
      found[key] = options[key](value)
    except (KeyError, ValueError):
      raise InputError(
        f'{part!r} in the argument {text!r} must be KEY=VALUE with one of '
        f'{ {key: kind.__name__ for key, kind in options.items()} }'
      ) from None
  return front + [''] * (len(names) - len(front)), found
