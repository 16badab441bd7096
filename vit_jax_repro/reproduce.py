"""`python -m vit_jax_repro.reproduce`: the papers' numbers, and verdicts."""

import dataclasses
from typing import Any

from absl import flags

DESCRIPTION = """Checks the published numbers: shows which can be checked,
measures them, and compares. A name may be shortened to a unique part of it; a
PATTERN is a part of a name or a glob. docs/paper.md explains the verdicts."""

FORMATS = ('terminal', 'markdown', 'csv')


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import subcommands

  subcommands.run(
    'reproduce', commands(), command_flags(), DESCRIPTION, argv=argv
  )


def command_flags() -> flags.FlagValues:
  """Returns the flags of all commands, a new FlagValues."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  for name, text in {
    'results': 'the folder of measured results',
    'row': 'the id of a row, or a unique part of it',
    'table': 'all rows of this table, and no others',
    'out': 'write to this file, .md or .csv, not to the terminal',
    'weights_dir': 'folder of published files, as FOLDER/NAME.npz; by '
    "default './weights'",
    'data_dir': "folder of TFDS data sets; by default TFDS's own",
    'weights': 'a published file, for a row that allows several',
    'dataset': 'a folder or name, if the data set of a row is not in TFDS; or '
    'a folder that replaces the data set, which the result records',
    'recipe': "a recipe of fine-tuning that replaces the row's own, which the "
    'result records',
    'json': 'also write the card to this file',
    'override': 'settings that replace those of the recipe, KEY=VALUE,..., '
    'which the result records',
  }.items():
    command_line.define_string(values, name, None, text)
  for name, text in {
    'rows': 'list the rows with their ids, not models by data sets',
    'compiled': "also show XLA's count for each compiled model; takes minutes",
    'fetch': 'download missing weights files',
  }.items():
    flags.DEFINE_boolean(name, False, text, flag_values=values)
  for name, default, text in (
    ('seeds', 1, 'number of fine-tuning runs, whose mean is compared'),
    ('batch_size', 64, 'for evaluation'),
  ):
    flags.DEFINE_integer(
      name,
      default,
      text,
      lower_bound=1,
      flag_values=values,
    )
  flags.DEFINE_float(
    'budget',
    None,
    'hours; the cheapest checks run first, and none starts that would exceed '
    'them',
    lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_float(
    'tflops',
    None,
    'speed of your devices, for the hours; by default 100',
    lower_bound=1e-3,
    flag_values=values,
  )
  flags.DEFINE_enum(
    'format',
    None,
    FORMATS,
    'output format; by default for the terminal',
    flag_values=values,
  )
  return values


def _list(values, rest):
  from vit_jax_repro.errors import InputError
  from vit_jax_repro.output import messages
  from vit_jax_repro.paper import facts, listings, table

  pattern = rest[0] if rest else ''

  def fitting(tables):
    return [t for t in tables if messages.fits(pattern, t.name, t.title)]

  found = fitting(table.tables()), fitting(facts.tables())
  if not any(found):
    raise InputError(
      f'no table fits {pattern!r}; without a pattern all are shown'
    )
  view = listings.all_tables if rest else listings.by_source
  _print(values, view(*found))


def _show(values, rest):
  from vit_jax_repro import command_line
  from vit_jax_repro.output import messages
  from vit_jax_repro.paper import facts, grids, listings, table, views

  if (values.row is None) == (not rest) or (values.row and values.rows):
    raise command_line.UsageError(
      'show needs either a table, with or without --rows, or --row=ID'
    )
  if values.row is not None:
    row = table.find(values.row)
    _print(values, views.one_row(row, _results(values)))
    return
  texts = [each.name for each in facts.tables()]
  names = [*(each.name for each in table.tables()), *texts]
  name = messages.pick(rest[0], names, 'table', '`list` has all names')
  if name not in texts:
    view = views.numbers if values.rows else grids.grid
    _print(values, view(table.select(name, *rest[1:]), _results(values)))
    return
  if rest[1:] or values.rows or values.results:
    raise command_line.UsageError(
      f'{name!r} holds no accuracies; it takes no PATTERN, --rows or --results'
    )
  _print(values, listings.settings(facts.named(name)))


def _differences(values, rest):
  from vit_jax_repro.paper import differences, listings

  view = listings.all_differences(differences.select(*rest))
  _print(values, view, paged=True)


def _report(values, rest):
  del rest
  from vit_jax_repro import command_line
  from vit_jax_repro.output import files, sections
  from vit_jax_repro.paper import table, views

  command_line.require(values, 'results')
  writers = {
    '.md': lambda view: sections.markdown(view.sections),
    '.csv': lambda view: sections.as_csv(view.records),
  }
  if values.out is not None:
    if values.format is not None:
      raise command_line.UsageError('--format does not go with --out')
    ending = values.out[values.out.rfind('.') :]
    if ending not in writers:
      raise command_line.UsageError(
        f'--out={values.out} must end in {" or ".join(writers)}'
      )
    files.check_writable(values.out)
  found = table.select(values.table)
  view = views.report(found, _results(values), whole=values.table is not None)
  if values.out is None:
    _print(values, view)
  else:
    files.write_text(values.out, writers[ending](view))
    print(f'{values.out}: {view.sections[0].text[0]}')


def _plan(values, rest):
  from vit_jax_repro.output import waiting
  from vit_jax_repro.reproduction import budget, needs, views
  from vit_jax_repro.reproduction.options import Options

  rows = _rows(values, rest)
  tflops = values.tflops or needs.TFLOPS
  options = Options(
    results=values.results or 'results',
    weights_dir=values.weights_dir or 'weights',
    seeds=values.seeds,
  )
  if values.row is not None:
    _print(values, views.plan([_check(values, rows[0])], options, tflops))
    return
  with waiting.doing('counting operations'):
    view, refused = budget.plan(
      rows, lambda row: _check(values, row), options, tflops
    )
  _print(values, view)
  _fail([f'{row_id}: {why}' for row_id, why in refused.items()], len(refused))


def _run(values, rest):
  from vit_jax_repro import command_line

  command_line.require(values, 'results')
  rows = _rows(values, rest)

  from vit_jax_repro.output import messages, waiting
  from vit_jax_repro.paper import views
  from vit_jax_repro.reproduction import budget, running
  from vit_jax_repro.reproduction.options import Options, parse_overrides

  options = Options(
    results=values.results,
    weights_dir=values.weights_dir or 'weights',
    fetch=values.fetch,
    data_dir=values.data_dir,
    batch_size=values.batch_size,
    seeds=values.seeds,
    overrides=parse_overrides(values.override),
  )
  if values.row is not None:
    check = _check(values, rows[0])
    _refuse_unused_flags(values, check)
    running.run(check, options)
    _print(values, views.numbers(rows, _results(values)))
    return
  view, late, failed = budget.run(
    rows, options, lambda row: _check(values, row), values.budget
  )
  _print(values, view)
  if late:
    waiting.show(f'over budget, {len(late)} rows: {messages.listed(late)}')
  lines = budget.failures(
    failed, rows, options, lambda row: _check(values, row)
  )
  _fail(lines, len(failed))


def _refuse_unused_flags(values, check):
  from vit_jax_repro import command_line

  given = [
    f'--{name}'
    for name in ('recipe', 'override', 'seeds')
    if values[name].present
  ]
  if given and not check.is_fine_tuned:
    raise command_line.UsageError(
      f'{check.row.id} is checked by evaluating a file and takes no '
      f'{", ".join(given)}'
    )


def _fail(lines, number):
  """Prints lines on the rows that failed; exits if there are any.

  Args:
    lines: the lines.
    number: number of rows that failed.
  """
  import sys

  from vit_jax_repro import command_line
  from vit_jax_repro.output import waiting

  for line in lines:
    waiting.show(line)
  if number:
    waiting.show(f'reproduce: {number} of the rows failed')
    sys.exit(command_line.FAILED)


def _cost(values, rest):
  del rest
  from vit_jax_repro.reproduction import views

  _print(
    values, views.costs_view(*views.computed_costs(compiled=values.compiled))
  )


def _card(values, rest):
  from vit_jax_repro.output import files
  from vit_jax_repro.reproduction import card

  if values.json is not None:
    files.check_writable(values.json)
  found = card.run_card(rest[0]) if rest else card.project_card()
  if values.json is not None:
    files.write_json(values.json, dataclasses.asdict(found))
  _print(values, card.view(found))


def _rows(values, rest):
  """Returns the row of `--row`, or the rows of `--table` and a PATTERN."""
  from vit_jax_repro import command_line
  from vit_jax_repro.paper import table

  if values.row is not None:
    if values.table is not None or rest:
      raise command_line.UsageError('--row goes without --table and PATTERN')
    return [table.find(values.row)]
  if values.table is None and not rest:
    raise command_line.UsageError('give --row=ID, --table=NAME or a PATTERN')
  return table.select(values.table, *rest)


def _check(values, row):
  from vit_jax_repro.reproduction import checks

  return checks.resolve(
    row,
    weights=values.weights,
    dataset=values.dataset,
    recipe=values.recipe,
  )


def _results(values):
  from vit_jax_repro.output import waiting
  from vit_jax_repro.paper import results

  if values.results is None:
    return {}
  others = results.foreign(values.results)
  if others:
    shown = ', '.join(others[:3]) + (', ...' if others[3:] else '')
    waiting.show(
      f'note: {values.results} has JSON files that belong to no row: {shown}'
    )
  return results.read(values.results)


def _print(values, view, paged=False):
  from vit_jax_repro.output import reports, sections

  if values.format == 'csv':
    print(sections.as_csv(view.records), end='')
  elif values.format == 'markdown':
    print(sections.markdown(view.sections), end='')
  else:
    reports.terminal(view.sections, paged=paged)


_WHICH = '[--row=ID | --table=NAME | PATTERN]'
_EXAMPLE = 'vit-table-5-vit-b-16-imagenet-21k-90ep-cifar-10'
_CHOICES = ('row', 'table', 'weights', 'dataset', 'recipe')


def commands() -> dict[str, Any]:
  """Returns {name: subcommands.Command}."""
  from vit_jax_repro.subcommands import Command

  return {
    'list': Command(
      _list,
      'the tables of published numbers',
      "'ViT Table*'",
      '[PATTERN]',
      1,
      ('format',),
    ),
    'show': Command(
      _show,
      'a table, or one row in full',
      "'ViT Table 5' --results=results",
      '[TABLE [PATTERN] | --row=ID]',
      2,
      ('results', 'row', 'rows', 'format'),
    ),
    'report': Command(
      _report,
      'the verdicts on measured results',
      '--results=results --out=report.md',
      '--results=DIR',
      flags=('results', 'table', 'out', 'format'),
    ),
    'plan': Command(
      _plan,
      'the weights, data, recipe, hours and disk needed to check rows',
      "--table='ViT Table 5'",
      _WHICH,
      1,
      (*_CHOICES, 'results', 'weights_dir', 'seeds', 'tflops', 'format'),
    ),
    'run': Command(
      _run,
      'checks rows, and continues an interrupted check',
      f'--row={_EXAMPLE} --results=results --fetch',
      f'{_WHICH} --results=DIR',
      1,
      (
        *_CHOICES,
        'results',
        'weights_dir',
        'data_dir',
        'fetch',
        'seeds',
        'batch_size',
        'budget',
        'override',
        'format',
      ),
    ),
    'cost': Command(
      _cost,
      'parameters and compute of the models, computed and published',
      '--format=markdown',
      flags=('compiled', 'format'),
    ),
    'card': Command(
      _card,
      'the reproducibility card of a run or study, or of this project',
      'runs/quickstart',
      '[WORKDIR]',
      1,
      ('json', 'format'),
    ),
    'differences': Command(
      _differences,
      'where papers and released code differ',
      'polyak',
      '[PATTERN]',
      1,
      ('format',),
    ),
  }


if __name__ == '__main__':
  main()
