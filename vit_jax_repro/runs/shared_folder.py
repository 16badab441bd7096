"""Whether all processes of a run see the same folder."""

import os
import pathlib
import time
import uuid

import jax
import numpy as np

from vit_jax_repro.training import agreement

_SECONDS = 5  # that a new file may take to be seen through a network


def check(folder: str | os.PathLike, seconds: float = _SECONDS) -> None:
  """Refuses a folder that is not the same one in all processes.

  Process 0 writes an empty file into the folder, or the nearest one above
  that exists, the others look for it, and process 0 removes it. So a pod
  whose machines have a disk each is refused before it trains, not after the
  first checkpoint. All processes must call this together.

  Raises:
    ValueError: in every process: some do not see the file.
    OSError: in every process: process 0 cannot write there.
  """
  if jax.process_count() == 1:
    return
  from jax.experimental import multihost_utils

  folder = pathlib.Path(os.path.abspath(os.path.expanduser(folder)))
  token, said = None, None
  if jax.process_index() == 0:
    token, said = _write(folder)
  try:
    told = agreement.first_text(said)
    above, _, name = told.partition(' ')
    if not above:
      raise OSError(f'process 0 {name}; choose another workdir')
    seen = _appears([folder, *folder.parents][int(above)] / name, seconds)
    answers = multihost_utils.process_allgather(np.bool_(seen))
  finally:
    if token is not None:
      token.unlink()
  blind = [str(number) for number in np.flatnonzero(~answers)]
  if blind:
    raise ValueError(
      f'workdir={folder} of process 0 is not there for process '
      f'{", ".join(blind)} of {jax.process_count()}; give the full path of a '
      'folder that all machines share, by NFS or a bucket mounted with gcsfuse'
    )


def _write(folder):
  """The file (None: it failed), and 'LEVELS_ABOVE NAME' or ' what is wrong'."""
  levels = [folder, *folder.parents]
  above = next(i for i, level in enumerate(levels) if level.is_dir())
  token = levels[above] / f'.seen-by-all-{uuid.uuid4().hex}'
  try:
    token.touch()
  except OSError as error:
    return None, f' cannot write in {levels[above]} ({error.strerror})'
  return token, f'{above} {token.name}'


def _appears(path, seconds):
  end = time.monotonic() + seconds
  while not path.exists():
    if time.monotonic() > end:
      return False
    time.sleep(0.1)
  return True
