"""What the processes of a run tell each other; at once where there is one."""

import jax
import numpy as np

_LENGTH = 640  # bytes of a text


def first_text(text: str | None) -> str | None:
  """The text of the first process that has one, cut, in every process.

  All processes must call it together.
  """
  if jax.process_count() == 1:
    return text
  from jax.experimental import multihost_utils

  mine = np.zeros(_LENGTH, np.uint8)
  encoded = (text or '').encode()[:_LENGTH]
  mine[: len(encoded)] = list(encoded)
  texts = multihost_utils.process_allgather(mine)
  texts = (bytes(row).rstrip(b'\0').decode(errors='ignore') for row in texts)
  return next(filter(None, texts), None)


def wait_for_all(name: str) -> None:
  """Returns when every process has called it with this name."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)
