"""Which published file a number was measured with, or is fine-tuned from."""

import dataclasses
import itertools
import re

from vit_jax_repro.published import catalogue

_BRACES = re.compile(r'\{([^{}]*)\}')
# augreg/MODEL-DATA-EPOCHSep-lr_0.001-*[--DATASET-steps_20k-lr_*-res_SIZE].npz
_AUGREG = re.compile(
  r'augreg/(?P<model>\w+?)-(?P<data>i1k|i21k)-(?P<epochs>\d+)ep-.*?\*'
  r'(--(?P<adapted>.+)-steps_.*-res_(?P<size>\d+))?\.npz'
)
_TASK = '<task>'


@dataclasses.dataclass(frozen=True)
class Weights:
  """The files of one number.

  Either `files` has them (several: runs of the same, or one for each task), or
  `pick` says how to choose one, perhaps among `choices`.
  """

  files: tuple[str, ...] = ()  # names for published.catalogue.find
  choices: tuple[str, ...] = ()
  pick: str = ''
  per_task: bool = False  # `files` hold '<task>' where VTAB's task stands


def weights_of(checkpoint: str) -> Weights:
  """The files that a row's `checkpoint` means.

  Args:
    checkpoint: a name below a bucket, with `{a|b}`, `{0,1,2}`, `*` and
      `<task>` where the source does not say which.

  Raises:
    ValueError: a name that is not understood.
  """
  if _TASK in checkpoint:
    return Weights(files=tuple(_expanded(checkpoint, ',')), per_task=True)
  if '{' in checkpoint:
    choices = tuple(_expanded(checkpoint, '|'))
    return Weights(
      choices=choices,
      pick='the source does not say which of these files it was: '
      + ', '.join(choices),
    )
  if '*' in checkpoint:
    return Weights(pick=_augreg_query(checkpoint))
  return Weights(files=(catalogue.find(checkpoint).name,))


def fits(checkpoint: str, name: str) -> bool:
  """Whether an AugReg file is of a pattern's model, data and resolution.

  Args:
    checkpoint: of a row, with '*'.
    name: of a published file.
  """
  match = _AUGREG.fullmatch(checkpoint)
  start = f'augreg/{match["model"]}-{match["data"]}-{match["epochs"]}ep-'
  if not name.startswith(start):
    return False
  upstream, _, adapted = name.partition('--')
  if not match['adapted']:
    return not adapted and upstream == name
  size = f'-res_{match["size"]}'
  return adapted.startswith(f'{match["adapted"]}-') and adapted.endswith(size)


def _expanded(name, separator):
  """Every name that braces stand for, without .npz."""
  parts = _BRACES.split(name.removesuffix('.npz'))
  choices = [
    part.split(separator) if i % 2 else [part] for i, part in enumerate(parts)
  ]
  return [''.join(chosen) for chosen in itertools.product(*choices)]


def _augreg_query(checkpoint):
  match = _AUGREG.fullmatch(checkpoint)
  if match is None:
    raise ValueError(
      f'checkpoint {checkpoint!r} is no pattern of AugReg names; name one file'
    )
  data = match['data']
  if (data, match['epochs']) == ('i21k', '30'):
    data = 'i21k_30'  # as index.csv has it
  query = f'--model={match["model"]} --pretrained_on={data}'
  if match['adapted']:
    query += f' --adapted_to={match["adapted"]} --resolution={match["size"]}'
  return (
    "the file with the best upstream accuracy in the bucket's index.csv: "
    f'python -m vit_jax_repro.fetch --augreg {query} --best'
  )
