"""Other values for settings of a recipe, from a command line."""

import ast
from typing import Any


def parse(text: str | None) -> dict[str, Any]:
  """'batch=128,pp.crop=224' -> {'batch': 128, 'pp.crop': 224}.

  A value is a Python literal, or else a text; None and '' are no settings.

  Raises:
    ValueError: a part that is not KEY=VALUE.
  """
  found = {}
  for part in (text or '').split(',') if text else ():
    key, equals, value = part.partition('=')
    if not (key and equals and value):
      raise ValueError(
        f'override {part!r} is not KEY=VALUE, such as batch=128 or pp.crop=224'
      )
    try:
      found[key.strip()] = ast.literal_eval(value.strip())
    except (SyntaxError, ValueError):
      found[key.strip()] = value.strip()
  return found
