"""`python -m vit_jax_repro.fetch`: gets published weights by name."""

import math
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

DESCRIPTION = """Downloads a published weights file by its name: from the
authors' bucket, or else from a copy on the Hub, which is converted. Repeat the
command to continue an interrupted download. Any other repository of the Hub
(USER/REPO) is converted with the settings of its config.json. --list shows all
names, or those that match a PATTERN; --augreg ranks the AugReg files by
accuracy."""

# Flags that restrict the AugReg files; they need --augreg.
LIMITS = (
  'model',
  'pretrained_on',
  'adapted_to',
  'resolution',
  'max_params',
  'min_images_per_sec',
)
NO_COPY = """no copy: {} of {} files are only in the authors' bucket, because
neither timm nor transformers nor vit-keras has published them. Since February
2026 the bucket answers anonymous readers with 403 (issue 321 of
google-research/vision_transformer)."""
_SHOWN = 20  # ranked files that are printed
_WIDTH = 200  # characters a line when stdout is not a terminal


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import command_line

  command_line.run(
    'fetch',
    _fetch,
    command_flags(),
    DESCRIPTION,
    positional='NAME | --list [PATTERN] | --augreg',
    argv=argv,
  )


def command_flags() -> flags.FlagValues:
  """Returns the flags of this command, a new FlagValues."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  for name, default, text in (
    ('dir', '.', 'the folder for NAME.npz'),
    ('sha256', None, '64 digits that the downloaded bytes must have'),
    (
      'mirror',
      None,
      "an address that serves the buckets' files under BUCKET/PATH; tried "
      'first',
    ),
    ('index', None, "AugReg: another index.csv than the folder's"),
    ('model', None, 'AugReg: a model name, such as R26_S_32'),
    ('pretrained_on', None, 'AugReg: i21k (the default), i21k_30 or i1k'),
    ('adapted_to', None, 'AugReg: files fine-tuned on this data set'),
  ):
    command_line.define_string(values, name, default, text)
  for name, text in (
    ('list', 'show the published files'),
    ('augreg', 'rank the AugReg files by their accuracy in pre-training'),
    ('best', 'AugReg: download the first of them'),
  ):
    flags.DEFINE_boolean(name, False, text, flag_values=values)
  flags.DEFINE_integer(
    'resolution',
    None,
    'AugReg: image size of the fine-tuning, in pixels',
    lower_bound=1,
    flag_values=values,
  )
  for name, text in (
    ('max_params', 'AugReg: largest number of parameters'),
    ('min_images_per_sec', 'AugReg: lowest number of images/s on a V100'),
  ):
    flags.DEFINE_float(name, None, text, lower_bound=0, flag_values=values)
  return values


def show(fetched: Any) -> None:
  """Prints a published.fetching.Fetched."""
  import sys

  for note in fetched.notes:
    print(f'note: {note}', file=sys.stderr)
  size = f'{fetched.size / 1e6:.1f} MB, sha256 {fetched.sha256}'
  if fetched.was_there:
    print(f'already there: {fetched.file} ({size})')
  else:
    print(f'{fetched.file} ({size}) from {fetched.source}')


def show_list(entries: Sequence[Any]) -> None:
  """Prints a table of published files, and why some have no copy."""
  from vit_jax_repro.output import reports

  columns = ('name', '>classes', '>size', '>MB', '>top-1', 'sources')
  rows = []
  for entry in entries:
    sources = ['official' if entry.is_official else '']
    sources += ['release' if entry.release else '']
    sources += ['deit' if entry.url else '', entry.timm, entry.transformers]
    sources += ['' if entry.has_copy else 'no copy']
    rows.append(
      (
        entry.name,
        str(entry.num_classes or ''),
        str(entry.image_size),
        f'{entry.sizes[0] / 1e6:.0f}' if entry.sizes else '',
        f'{entry.accuracy:.2f}%' if entry.accuracy else '',
        ', '.join(filter(None, [*sources, entry.note])),
      )
    )
  reports.table(columns, rows, width=_WIDTH)
  alone = sum(not entry.has_copy for entry in entries)
  if alone:
    from vit_jax_repro import command_line

    print(command_line.paragraph(NO_COPY.format(alone, len(entries))))


def show_ranked(rows: Sequence[Any], adapted: bool) -> None:
  """Prints the first rows from `augreg.ranked`.

  Args:
    rows: ranked rows of the index.
    adapted: whether to print the fine-tuned files, not the pre-trained ones.
  """
  from vit_jax_repro.output import reports
  from vit_jax_repro.published import augreg

  columns = ['upstream', 'fine-tuned', 'params', 'images/s', 'px']
  with_upstream = not all(math.isnan(row.final_val) for row in rows)
  if not with_upstream:
    columns.remove('upstream')
  elif not adapted:
    columns.remove('fine-tuned')
  cells = []
  for row in rows[:_SHOWN]:
    values = {
      'upstream': f'{row.final_val:.2%}',
      'fine-tuned': f'{row.adapt_final_val:.2%}',
      'params': f'{row.params / 1e6:.1f} M',
      'images/s': f'{row.images_per_sec:.0f}'.replace('nan', ''),
      'px': str(row.resolution),
    }
    cells.append(
      (augreg.file_of(row, adapted), *(values[column] for column in columns))
    )
  names = ('name', *(f'>{column}' for column in columns))
  reports.table(names, cells, width=_WIDTH)
  if len(rows) > _SHOWN:
    print(f'and {len(rows) - _SHOWN} more')


def _fetch(values, arguments):
  _check_usage(values, arguments)
  if values.list:
    from vit_jax_repro.published import catalogue

    show_list(catalogue.matching(*arguments))
    return
  name = arguments[0] if arguments else None
  if values.augreg:
    name = _best(values)
  if name is None:
    return
  from vit_jax_repro.published import fetching

  show(
    fetching.fetch(name, values.dir, sha256=values.sha256, mirror=values.mirror)
  )


def _check_usage(values, arguments):
  from vit_jax_repro import command_line
  from vit_jax_repro.output import locations

  if values.list and values.augreg:
    raise command_line.UsageError('--list and --augreg: give one of them')
  wrong = [
    f'--{name}'
    for name in (*LIMITS, 'index', 'best')
    if values[name].value not in (None, False) and not values.augreg
  ]
  if wrong:
    raise command_line.UsageError(
      f'{", ".join(wrong)} only with --augreg; give it, too'
    )
  if locations.is_address(values.dir):
    raise command_line.UsageError(
      f'--dir={values.dir} must be a folder on this machine'
    )
  if values.mirror and not re.match('https?://[^/]', values.mirror):
    raise command_line.UsageError(
      f'--mirror={values.mirror} must be an address that begins with http:// '
      'or https:// and serves the files under BUCKET/PATH'
    )
  most, least = (1, 0) if values.list else (0, 0) if values.augreg else (1, 1)
  if not least <= len(arguments) <= most:
    raise command_line.UsageError(
      f'{len(arguments)} names given; give one name, or --list [PATTERN], or '
      '--augreg'
    )


def _best(values):
  """Prints the ranking; returns the name of the first file if --best is set."""
  from vit_jax_repro.published import augreg, augreg_index

  adapted = values.adapted_to is not None
  if values.index is not None:
    found = augreg.read_index(values.index)
  else:
    found = augreg_index.rows(values.dir, adapted=adapted, mirror=values.mirror)
  limits = {name: values[name].value for name in LIMITS}
  limits['pretrained_on'] = values.pretrained_on or 'i21k'
  rows = augreg.ranked(found, **limits)
  show_ranked(rows, adapted)
  return augreg.file_of(rows[0], adapted) if values.best else None


if __name__ == '__main__':
  main()
