"""The AugReg files by accuracy: queries on the bucket's index.csv.

Columns: vit_jax/checkpoint.py, get_augreg_df, of google-research/
vision_transformer. A row is one fine-tuned file (`adapt_filename`) of one
pre-trained file (`filename`); accuracies are fractions.
"""

import csv
import dataclasses
import functools
import math
import os
from collections.abc import Iterable

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import variants

INDEX = 'vit_models/augreg/index.csv'


@dataclasses.dataclass(frozen=True)
class IndexRow:
  """One row of the index."""

  filename: str  # of the pre-trained file, without .npz
  model: str  # 'R26+ViT-S_32'
  pretrained_on: str  # i1k, i21k (300 epochs), i21k_30
  final_val: float  # accuracy of the pre-trained model, not of the test set
  adapted_to: str  # data set of the fine-tuning, 'imagenet2012'
  resolution: int  # of the fine-tuning
  adapt_final_val: float  # accuracy of the fine-tuned model, a fraction
  adapt_filename: str
  params: float
  images_per_sec: float  # inference on a V100, by timm


def read_index(path: str | os.PathLike) -> list[IndexRow]:
  """Reads index.csv.

  Raises:
    InputError: it is another file.
    OSError: it cannot be read.
  """
  try:
    with open(path, encoding='utf-8', newline='') as file:
      rows = [_row(row) for row in csv.DictReader(file)]
  except (
    AttributeError,
    csv.Error,
    LookupError,
    TypeError,
    ValueError,
  ) as error:
    raise InputError(
      f"{path} is not the AugReg bucket's index.csv (at {error}); get it again"
    ) from None
  if not rows:
    raise InputError(f'{path} lists no AugReg file; get it again')
  return rows


def ranked(
  rows: Iterable[IndexRow],
  *,
  model: str | None = None,
  pretrained_on: str = 'i21k',
  adapted_to: str | None = None,
  resolution: int | None = None,
  max_params: float | None = None,
  min_images_per_sec: float | None = None,
) -> list[IndexRow]:
  """Returns the files that fit, the best first.

  Best by the accuracy in pre-training (`final_val`), as the original's AugReg
  configuration chooses; that of different `pretrained_on` is not comparable.
  Fine-tuned files of the same pre-trained one come by `adapt_final_val`.

  Args:
    rows: of `read_index`.
    model: a name as `models.create` takes it; None: any.
    pretrained_on: a value of that column.
    adapted_to: a data set: its fine-tuned files are meant; None: the
      pre-trained files, each once.
    resolution: of the fine-tuning, which the speed depends on.
    max_params, min_images_per_sec: limits, both included.

  Raises:
    InputError: an unknown model, or nothing fits.
  """
  rows = list(rows)
  wanted = {
    'model': model and variants.canonical_name(model),
    'pretrained_on': pretrained_on,
    'adapted_to': adapted_to,
    'resolution': resolution,
  }
  wanted = {field: value for field, value in wanted.items() if value}
  found = rows
  for field, value in wanted.items():
    left = [row for row in found if getattr(row, field) == value]
    if not left:
      there = sorted({str(getattr(row, field)) for row in found})
      raise InputError(
        f'the AugReg index has no file with {field}={value}'
        f'{_after(wanted, field)}; choose from {there}'
      )
    found = left
  found = _within(found, max_params, min_images_per_sec)
  found.sort(key=_rank, reverse=True)
  if adapted_to is None:
    found = _one_each(found)
  return found


def file_of(row: IndexRow, adapted: bool) -> str:
  """Returns the name of the pre-trained or fine-tuned file."""
  return f'augreg/{row.adapt_filename if adapted else row.filename}'


def _row(row):
  return IndexRow(
    filename=row['filename'].removesuffix('.npz'),
    model=_model(row['filename'].split('-')[0]),
    pretrained_on=row['ds'],
    final_val=float(row['final_val'] or 'nan'),
    adapted_to=row['adapt_ds'],
    resolution=int(float(row['adapt_resolution'])),
    adapt_final_val=float(row['adapt_final_val'] or 'nan'),
    adapt_filename=row['adapt_filename'].removesuffix('.npz'),
    params=float(row['params'] or 'nan'),
    images_per_sec=float(row['infer_samples_per_sec'] or 'nan'),
  )


# The index has tens of thousands of rows.
_model = functools.cache(variants.canonical_name)


def _after(wanted, field):
  before = list(wanted)[: list(wanted).index(field)]
  text = ', '.join(f'{each}={wanted[each]}' for each in before)
  return f' among those with {text}' if text else ''


def _within(rows, max_params, min_images_per_sec):
  found = [
    row
    for row in rows
    if (max_params is None or row.params <= max_params)
    and (min_images_per_sec is None or row.images_per_sec >= min_images_per_sec)
  ]
  if not found:
    raise InputError(
      f'no AugReg file keeps to {max_params=} and {min_images_per_sec=}: the '
      f'smallest has {min(row.params for row in rows):g} parameters, the '
      f'fastest does {max(row.images_per_sec for row in rows):g} images/s'
    )
  return found


def _rank(row):
  values = row.final_val, row.adapt_final_val
  return [(not math.isnan(value), value) for value in values]


def _one_each(rows):
  """Returns each pre-trained file's row of lowest resolution, in order."""
  best = {}
  for row in rows:
    other = best.setdefault(row.filename, row)
    if row.resolution < other.resolution:
      best[row.filename] = row
  return list(best.values())
