"""JSON files of runs, studies and benchmarks, read as columns for figures.

Errors are InputErrors and OSErrors whose one-line message names the file.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import buckets, files, run_files
from vit_jax_repro.output.messages import note

_MOST_SPLITS = 10


@dataclasses.dataclass(frozen=True)
class Curves:
  """Losses and accuracies of a training run, from metrics.jsonl."""

  name: str  # name of the workdir
  steps: np.ndarray  # [n]
  losses: np.ndarray  # [n]
  # {split: (steps, accuracies as parts of 1)}
  evaluated: Mapping[str, tuple[np.ndarray, np.ndarray]]
  dataset: str = ''  # name, or '' without a config.json

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns all columns in one flat mapping."""
    found = {'steps': self.steps, 'losses': self.losses}
    for split, (steps, parts) in self.evaluated.items():
      found |= {f'{split}_steps': steps, f'{split}_accuracies': parts}
    return found


@dataclasses.dataclass(frozen=True)
class SavedStudy:
  """The part of a study.json that its figure shows."""

  title: str
  size: str
  sides: tuple[str, ...]
  accuracies: np.ndarray  # [sides, seeds], parts of 1
  claims: tuple[str, ...]  # 'claim: verdict'


@dataclasses.dataclass(frozen=True)
class Measured:
  """Rows of `benchmark train`, `infer` or `memory`."""

  quantity: str  # with its unit
  shared: str  # properties that all rows share
  labels: tuple[str, ...]  # properties in which they differ
  sides: np.ndarray  # [n], heights of the images in pixels
  series: tuple[str, ...]  # labels without the image size
  values: np.ndarray  # [n]
  low: np.ndarray  # [n]
  high: np.ndarray  # [n]


@dataclasses.dataclass(frozen=True)
class Scaling:
  """Bounds of `benchmark memory --target=...` over the number of chips."""

  shared: str  # properties that all rows share
  series: tuple[str, ...]  # model and generation of the chip
  chips: np.ndarray  # [n]
  rates: np.ndarray  # [n], upper bounds of images per second and chip
  limits: tuple[str, ...]  # limit of each: compute, memory or links


def curves(workdir: str | os.PathLike) -> Curves:
  """Reads the losses and accuracies of a run; ignores an incomplete last line.

  A note has the number of damaged lines, which are left out.

  Args:
    workdir: a folder, or gs://BUCKET/PATH.
  """
  path = _path(workdir, 'metrics.jsonl')
  try:
    found, damaged = run_files.metrics(path)
  except (FileNotFoundError, NotADirectoryError):
    raise FileNotFoundError(
      f'no {path}; give the workdir of a training run that has written metrics'
    ) from None
  if damaged:
    note(
      f'{path}: {damaged} damaged line{"s" * (damaged > 1)} without a step of '
      f'0 to {run_files.MOST_STEPS:,} left out'
    )
  lines = [
    (line['step'], line['train_loss'], line)
    for line in found
    if 'train_loss' in line
  ]
  if not lines:
    raise InputError(f'{path} has no line with a step and a train_loss')
  splits = dict.fromkeys(
    key.removeprefix('accuracy_')
    for *_, line in lines
    for key, value in line.items()
    if key.startswith('accuracy_') and np.isfinite(value)
  )
  if len(splits) > _MOST_SPLITS:
    raise InputError(
      f'{path} has accuracies of {len(splits)} splits; at most {_MOST_SPLITS} '
      'can be drawn'
    )
  evaluated = {}
  for split in splits:
    key = f'accuracy_{split}'
    found = [
      (step, line[key])
      for step, _, line in lines
      if np.isfinite(line.get(key, np.nan))
    ]
    steps, parts = np.array(found).T
    evaluated[split] = steps, parts
  return Curves(
    os.path.basename(os.path.abspath(workdir)),
    np.array([step for step, *_ in lines]),
    np.array([loss for _, loss, _ in lines]),
    evaluated,
    dataset_of(workdir),
  )


def dataset_of(workdir: str | os.PathLike) -> str:
  """Returns the name of a run's data set, or '' if it is not stored."""
  try:
    dataset = run_files.read(_path(workdir, 'config.json')).get('dataset')
  except (InputError, FileNotFoundError, NotADirectoryError):
    return ''
  return os.path.basename(os.path.normpath(dataset)) if dataset else ''


def _path(workdir, name):
  """Returns the path or address of a run's file."""
  workdir = os.fspath(workdir)
  if not buckets.is_url(workdir):
    return os.path.join(workdir, name)
  workdir = buckets.clean(workdir)
  buckets.require(workdir, writable=False)
  return f'{workdir}/{name}'


def study(path: str | os.PathLike) -> SavedStudy:
  """Reads the sides and verdicts of a study, from its study.json or folder.

  Raises:
    InputError: the file is no such result, or its verdicts are those of an
      earlier version, which called more claims true.
  """
  if os.path.isdir(path):
    path = os.path.join(path, 'study.json')
  found = files.read_json(path, 'result of a study', finite=True)
  try:
    current = all('num_seeds' in each for each in found['judgements'])
    study = SavedStudy(
      found['title'],
      found['size'],
      tuple(side['name'] for side in found['sides']),
      np.array([side['accuracies'] for side in found['sides']], float),
      tuple(f'{j["claim"]}: {j["verdict"]}' for j in found['judgements']),
    )
  except (KeyError, TypeError, ValueError):
    raise InputError(
      f'{path} is no result of a study; give the study.json of one'
    ) from None
  if not current:
    raise InputError(
      f'{path} was judged by the rule of an earlier version; repeat the '
      'command of the study, which keeps its finished runs'
    )
  return study


def measured(paths: Sequence[str | os.PathLike]) -> Measured:
  """Reads the rows of `benchmark --json` files, without failed ones.

  Raises:
    InputError: a file is no such file or holds no value, or the files hold
      different quantities.
  """
  rows = []
  for path in paths:
    try:
      found = files.read_json(path, 'result of `benchmark`', finite=True)
      rows += [_measurement(row) for row in found['rows']]
    except (KeyError, TypeError):
      raise InputError(
        f'{path} is no result of `benchmark train`, `infer` or `memory`; '
        'give what --json=FILE wrote'
      ) from None
  rows = [row for row in rows if row['value'] is not None]
  if not rows:
    raise InputError(f'{", ".join(map(str, paths))}: nothing was measured')
  quantities = sorted({row['quantity'] for row in rows})
  if len(quantities) > 1:
    raise InputError(f'files of {" and ".join(quantities)}; draw one at a time')
  names = rows[0]['about']
  common = [n for n in names if len({row['about'][n] for row in rows}) == 1]

  def label(row, without=()):
    return ', '.join(
      text
      for name, text in row['about'].items()
      if name not in common and name not in without
    )

  return Measured(
    quantities[0],
    ', '.join(names[name] for name in common),
    tuple(label(row) or row['about']['model'] for row in rows),
    np.array([row['side'] for row in rows]),
    tuple(label(row, ('size',)) for row in rows),
    *(np.array([row[key] for row in rows]) for key in ('value', 'low', 'high')),
  )


def _measurement(row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the properties and the value of one row of a file."""
  case = row['case']
  height, width = case['image_size']
  about = {
    'kind': {'train': 'updates', 'infer': 'forward passes'}[case['kind']],
    'model': case['model'],
    'variant': row['variant'] if 'variant' in row else row['contender'],
    'batch': f'batch {case["batch_size"]}',
    'dtype': case['dtype'],
    'size': f'{height}x{width} pixels',
    'device': row.get('device_kind') or '',
  }
  if row.get('largest_batch') is not None:
    del about['batch']  # this row varies the batch
    value = low = high = row['largest_batch']
    quantity = 'largest batch of a device (images)'
  elif 'memory' in row:
    value = _total(row['memory']) / 2**30
    quantity, low, high = 'memory of a device (GiB)', value, value
  else:
    quantity, value = 'images per second of a device', row['images_per_sec']
    low = high = value
    if value is not None:
      low, high = (
        value * row['seconds'] / seconds for seconds in row['spread'][::-1]
      )
  return dict(
    about={name: text for name, text in about.items() if text},
    side=height,
    quantity=quantity,
    value=value,
    low=low,
    high=high,
  )


def _total(memory):
  """Returns the bytes of a program; files of old versions lack the total."""
  return memory['total'] if 'total' in memory else sum(memory.values())


def scaling(paths: Sequence[str | os.PathLike]) -> Scaling:
  """Reads files that `benchmark memory --target=... --json` wrote.

  Programs that do not fit or that the compiler refused are left out.

  Raises:
    InputError: a file is no such file, or no program has a bound.
  """
  rows, shared = [], set()
  for path in paths:
    try:
      found = files.read_json(path, 'result of `benchmark`', finite=True)
      for row in found['rows']:
        case, bound = row['case'], row['analysis']['bound']
        if bound is None or not row['fits']:
          continue
        size = 'x'.join(map(str, case['image_size']))
        generation = case['target'].partition(':')[0]
        rows.append(
          (
            f'{case["model"]}, {generation}',
            row['num_chips'],
            case['batch_size'] / bound['seconds'] / row['num_chips'],
            bound['limited_by'],
          )
        )
        batch = case['batch_size'] // row['num_chips']
        shared.add(f'{case["dtype"]}, {size} pixels, {batch} images of a chip')
    except (KeyError, TypeError):
      raise InputError(
        f'{path} is no result of `benchmark memory --target=...`; give what '
        '--json=FILE wrote'
      ) from None
  if not rows:
    raise InputError(f'{", ".join(map(str, paths))}: no program has a bound')
  series, chips, rates, limits = zip(*rows, strict=True)
  return Scaling(
    '; '.join(sorted(shared)),
    series,
    np.array(chips),
    np.array(rates),
    limits,
  )
