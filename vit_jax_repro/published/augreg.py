"""Queries on index.csv of the AugReg bucket, which ranks the AugReg files.

A row describes one file (`adapt_filename`) fine-tuned from one pre-trained file
(`filename`); accuracies are fractions. Source of the columns: get_augreg_df in
vit_jax/checkpoint.py of google-research/vision_transformer.
"""

import csv
import dataclasses
import functools
import math
import os
from collections.abc import Iterable

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import variants
from vit_jax_repro.published import catalogue

INDEX = 'vit_models/augreg/index.csv'


@dataclasses.dataclass(frozen=True)
class IndexRow:
  """One row of the index."""

  filename: str  # of the pre-trained file, without .npz
  model: str  # 'R26+ViT-S_32'
  pretrained_on: str  # i1k, i21k (300 epochs), i21k_30
  final_val: float  # validation accuracy of the pre-trained model, or NaN
  adapted_to: str  # data set of the fine-tuning, such as 'imagenet2012'
  resolution: int  # of the fine-tuning
  adapt_final_val: float  # accuracy of the fine-tuned model, a fraction
  adapt_filename: str
  params: float
  images_per_sec: float  # inference on a V100, by timm; NaN: not known


def read_index(path: str | os.PathLike) -> list[IndexRow]:
  """Reads index.csv.

  Raises:
    InputError: the file is not AugReg's index.csv, or lists no file.
    OSError: the file cannot be read.
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
      f"{path} is not the AugReg bucket's index.csv (at {error}); download it "
      'again'
    ) from None
  if not rows:
    raise InputError(f'{path} lists no AugReg file; download it again')
  return rows


def rows_with_copies(adapted: bool) -> list[IndexRow]:
  """Returns rows for the AugReg files of the catalogue that have a copy.

  They replace index.csv if the bucket refuses it. Their `final_val` is NaN, so
  `ranked` orders them by their accuracy on ImageNet after fine-tuning.

  Args:
    adapted: whether the rows are for fine-tuned files. Otherwise each row's
      pre-trained file has a copy, too.
  """
  entries = {entry.name: entry for entry in catalogue.table() if entry.has_copy}
  rows = []
  for name, entry in entries.items():
    pretrained, _, tuning = name.removesuffix('.npz').partition('--')
    if not tuning or (not adapted and pretrained not in entries):
      continue
    assert entry.model and entry.image_size and entry.accuracy, name
    data, epochs = pretrained.split('-')[1:3]
    rows.append(
      IndexRow(
        filename=pretrained.removeprefix('augreg/'),
        model=entry.model,
        pretrained_on='i21k_30' if (data, epochs) == ('i21k', '30ep') else data,
        final_val=math.nan,
        adapted_to=tuning.split('-')[0],
        resolution=entry.image_size,
        adapt_final_val=entry.accuracy / 100,
        adapt_filename=name.removeprefix('augreg/'),
        params=entry.sizes[0] / 4,  # bytes of a float32; the rest is small
        images_per_sec=entry.images_per_sec or math.nan,
      )
    )
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
  """Returns the matching rows, the best first.

  Rows are ordered by the accuracy in pre-training (`final_val`), by which the
  original's AugReg configuration also chooses. It is not comparable between
  different values of `pretrained_on`. Rows of the same pre-trained file, and
  rows without `final_val`, are ordered by `adapt_final_val`.

  Args:
    rows: from `read_index`.
    model: a name for `models.create`; None: any model.
    pretrained_on: a value of that column.
    adapted_to: the data set of fine-tuned files; None: pre-trained files, each
      of them once.
    resolution: of the fine-tuning; the speed depends on it.
    max_params, min_images_per_sec: limits, inclusive.

  Raises:
    InputError: the model is unknown, or no row matches.
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
      available = sorted({str(getattr(row, field)) for row in found})
      raise InputError(
        f'the AugReg index has no file with {field}={value}'
        f'{_after(wanted, field)}; choose from {available}'
      )
    found = left
  found = _within(found, max_params, min_images_per_sec)
  found.sort(key=_rank, reverse=True)
  if adapted_to is None:
    found = _one_each(found)
  return found


def file_of(row: IndexRow, adapted: bool) -> str:
  """Returns the name of a row's file, pre-trained or fine-tuned."""
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


# Cached: the index has tens of thousands of rows.
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
    speeds = [row.images_per_sec for row in rows]
    known = [speed for speed in speeds if not math.isnan(speed)]
    fastest = f'the fastest runs at {max(known):g} images/s'
    raise InputError(
      f'no AugReg file is within {max_params=} and {min_images_per_sec=}: the '
      f'smallest has {min(row.params for row in rows):g} parameters, '
      f'{fastest if known else "their images/s are not known"}'
    )
  return found


def _rank(row):
  values = row.final_val, row.adapt_final_val
  return [(not math.isnan(value), value) for value in values]


def _one_each(rows):
  """Returns the row of lowest resolution of each pre-trained file, in order."""
  best = {}
  for row in rows:
    other = best.setdefault(row.filename, row)
    if row.resolution < other.resolution:
      best[row.filename] = row
  return list(best.values())
