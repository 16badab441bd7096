"""`python -m vit_jax_repro.reproduce`: the papers' numbers, and verdicts."""

import dataclasses

from absl import flags

DESCRIPTION = """The published numbers: which can be checked, what was
measured, and whether the two agree. A name may be a part that no other name
has, a PATTERN a part or a glob. docs/paper.md explains the verdicts."""

FORMATS = ('terminal', 'markdown', 'csv')


def main(argv=None):
  """Runs the verb on a command line and exits."""
  from vit_jax_repro import subcommands

  subcommands.run(
    'reproduce', commands(), command_flags(), DESCRIPTION, argv=argv
  )


def command_flags():
  """Returns the flags of all commands, a new FlagValues."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  for name, text in {
    'results': 'the folder of what was measured',
    'row': 'the id of a row, or a part of it that no other has',
    'table': 'the rows of this table alone, and all of them',
    'out': 'write to this file, .md or .csv, not to the terminal',
    'weights_dir': 'where published files lie, as `fetch` names them; by '
    "default './weights'",
    'data_dir': "where TFDS data sets lie; TFDS's own by default",
    'weights': 'which published file, where a row leaves several',
    'dataset': 'a folder or name, where TFDS has no data set of a row; or a '
    'folder in its place, which the result says',
    'recipe': "of fine-tuning, in place of the row's own, which the result "
    'says',
    'json': 'also write the card to this file',
    'override': 'other settings than the recipe has, KEY=VALUE,...; the result '
    'says so',
  }.items():
    command_line.define_string(values, name, None, text)
  for name, text in {
    'grid': 'laid out as in the paper, models by data sets',
    'compiled': "XLA's count too, of each compiled model: minutes",
    'fetch': 'get the weights files that are not there',
  }.items():
    flags.DEFINE_boolean(name, False, text, flag_values=values)
  for name, default, text in (
    ('seeds', 1, 'runs of fine-tuning, their mean is judged'),
    ('batch_size', 64, 'images at a time, of evaluation'),
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
    'hours; the cheapest checks run first, and none that would take longer',
    lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_enum(
    'format',
    None,
    FORMATS,
    'how it is printed; by default for the terminal',
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
  _print(values, listings.all_tables(*found))


def _show(values, rest):
  from vit_jax_repro import command_line
  from vit_jax_repro.output import messages
  from vit_jax_repro.paper import facts, grids, listings, table, views

  if (values.row is None) == (not rest) or (values.row and values.grid):
    raise command_line.UsageError(
      'show wants either a table, with or without --grid, or --row=ID'
    )
  if values.row is not None:
    row = table.find(values.row)
    _print(values, views.one_row(row, _results(values)))
    return
  texts = [each.name for each in facts.tables()]
  names = [*(each.name for each in table.tables()), *texts]
  name = messages.pick(rest[0], names, 'table', '`list` has all names')
  if name not in texts:
    view = grids.grid if values.grid else views.numbers
    _print(values, view(table.select(name, *rest[1:]), _results(values)))
    return
  if rest[1:] or values.grid or values.results:
    raise command_line.UsageError(
      f'{name!r} holds no accuracies; it takes no PATTERN, --grid or --results'
    )
  _print(values, listings.settings(facts.named(name)))


def _differences(values, rest):
  from vit_jax_repro.paper import differences, listings

  _print(values, listings.all_differences(differences.select(*rest)))


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
  from vit_jax_repro.reproduction import budget, views

  rows = _rows(values, rest)
  if values.row is not None:
    _print(values, views.plan([_check(values, rows[0])]))
    return
  view, refused = budget.plan(rows, lambda row: _check(values, row))
  _print(values, view)
  _fail(refused)


def _run(values, rest):
  from vit_jax_repro import command_line

  command_line.require(values, 'results')
  rows = _rows(values, rest)

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
    _refuse_what_does_nothing(values, check)
    running.run(check, options)
    _print(values, views.numbers(rows, _results(values)))
    return
  view, late, failed = budget.run(
    rows, options, lambda row: _check(values, row), values.budget
  )
  _print(values, view)
  for row_id, why in late.items():
    _say(f'{row_id}: {why}')
  _fail(failed)


def _refuse_what_does_nothing(values, check):
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


def _say(line):
  import sys

  print(line, file=sys.stderr, flush=True)


def _fail(lines):
  """Prints the rows that failed, {id: why}; exits if there are any."""
  import sys

  from vit_jax_repro import command_line

  for row_id, why in lines.items():
    _say(f'{row_id}: {why}')
  if lines:
    _say(f'reproduce: {len(lines)} of the rows failed')
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
  """Returns the rows of `--row`, or of `--table` and a PATTERN."""
  from vit_jax_repro import command_line
  from vit_jax_repro.paper import table

  if values.row is not None:
    if values.table is not None or rest:
      raise command_line.UsageError('--row goes without --table and PATTERN')
    return [table.find(values.row)]
  if values.table is None and not rest:
    raise command_line.UsageError(
      '--row=ID, --table=NAME or a PATTERN is wanted'
    )
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
  from vit_jax_repro.paper import results

  if values.results is None:
    return {}
  others = results.foreign(values.results)
  if others:
    shown = ', '.join(others[:3]) + (', ...' if others[3:] else '')
    _say(f'note: {values.results} has JSON files of no row: {shown}')
  return results.read(values.results)


def _print(values, view):
  from vit_jax_repro.output import reports, sections

  if values.format == 'csv':
    print(sections.as_csv(view.records), end='')
  elif values.format == 'markdown':
    print(sections.markdown(view.sections), end='')
  else:
    reports.terminal(view.sections)


_WHICH = '[--row=ID | --table=NAME | PATTERN]'
_EXAMPLE = 'vit-table-5-vit-b-16-imagenet-21k-90ep-cifar-10'
_CHOICES = ('row', 'table', 'weights', 'dataset', 'recipe')


def commands():
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
      'the rows of a table, or all that is known of one row',
      "'ViT Table 5' --results=results",
      '[TABLE [PATTERN] | --row=ID]',
      2,
      ('results', 'row', 'grid', 'format'),
    ),
    'report': Command(
      _report,
      'the verdicts on what was measured',
      '--results=results --out=report.md',
      '--results=DIR',
      flags=('results', 'table', 'out', 'format'),
    ),
    'plan': Command(
      _plan,
      'the weights, data, recipe and steps that checking rows takes',
      "--table='ViT Table 5'",
      _WHICH,
      1,
      (*_CHOICES, 'format'),
    ),
    'run': Command(
      _run,
      'checks rows, and continues where it was interrupted',
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
      'parameters and compute of the models, beside the published ones',
      '--format=markdown',
      flags=('compiled', 'format'),
    ),
    'card': Command(
      _card,
      'the reproducibility card of a run, or of this project',
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
