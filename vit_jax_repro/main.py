"""`python -m vit_jax_repro.main`: trains, fine-tunes, resumes."""

import contextlib
import sys
from typing import Any

from absl import flags

DESCRIPTION = """Trains a model by a configuration file, and continues an
interrupted run in the same workdir. With --target nothing is trained: the run's
programs are compiled for hardware that need not be present, without images,
weights or a workdir, and a table shows whether the run fits into its memory and
what bounds its speed. --help_config lists all keys of a configuration."""

CONFIG_HELP = """Keys of a configuration. A file in configs/ gives each of them
a value, including those without a default; a flag --config.KEY=VALUE changes
it. Where None turns a setting off, VALUE may be None, 0 or an empty text. A
SIZE is a number of pixels or HEIGHTxWIDTH; a file may also give (H, W)."""


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import command_line, config_arguments

  argv = sys.argv if argv is None else argv
  with contextlib.suppress(flags.Error):  # which `command_line.run` reports
    argv = flags.FlagValues().read_flags_from_files(argv)  # --flagfile=FILE
  argv, changes = config_arguments.split(argv)
  command_line.run(
    'main',
    lambda values, _: _run(values, changes),
    command_flags(),
    DESCRIPTION,
    argv=argv,
  )


def command_flags() -> flags.FlagValues:
  """Returns the flags of this command, a new FlagValues."""
  from vit_jax_repro import command_line, process_flags

  values = flags.FlagValues()
  flags.DEFINE_string(
    'workdir',
    None,
    'folder of the run, here or gs://BUCKET/PATH: checkpoints, metrics, '
    'model.npz',
    flag_values=values,
  )
  for name, text in {
    'target': 'compile for this hardware instead of training: v5e:2x4 (chips '
    'along each side of a TPU slice), h100, h100:1x8 (hosts x cards)',
    'json': 'with --target: also write the result to this file',
    'config': 'configs/FILE.py:ARGUMENT, here or in the package; '
    '--config.KEY=VALUE changes a key of it, see --help_config',
  }.items():
    command_line.define_string(values, name, None, text)
  flags.DEFINE_boolean(
    'largest_batch',
    False,
    'with --target: double or halve the batch until it just fits',
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'help_config',
    False,
    'list every KEY of a configuration with its type, default and meaning',
    flag_values=values,
  )
  process_flags.define(values)
  return values


def show(result: Any) -> None:
  """Prints a TrainResult of jobs.train."""
  from vit_jax_repro.errors import printable
  from vit_jax_repro.output import reports

  rows = {
    **_accuracies(result),
    'steps': f'{result.step}, {result.seconds:.1f} s',
    'model': result.model,
  }
  if result.replaced_images:
    counts = result.unreadable_by_class.items()
    by_class = ', '.join(
      f'{printable(name)} {number}' for name, number in counts
    )
    rows['replaced images'] = f'{result.replaced_images}' + (
      f'; images that cannot be decoded, by class: {by_class}' if counts else ''
    )
  if result.notes:
    rows['notes'] = '\n'.join(map(printable, result.notes))
  reports.pairs(rows)


def _accuracies(result):
  """Returns rows on the test split, and on the split chosen by."""
  from vit_jax_repro.inference import multi_label

  rows = {
    'test accuracy': f'{result.accuracy:.2%} of {result.num_examples} images'
  }
  if result.multi_label is not None:
    rows = multi_label.summary(result.multi_label)
  if result.validation_accuracy is None:
    return rows
  if result.best_model is None:
    return {'validation accuracy': f'{result.validation_accuracy:.2%}', **rows}
  best = result.best_accuracy
  if result.multi_label is not None:
    best = result.best_mean_average_precision
  chosen = f'{best:.2%} on the validation split, after step {result.best_step}'
  return {'best': chosen, **rows, 'tested': result.best_model}


def _run(values, changes):
  from vit_jax_repro import command_line, process_flags

  if values.help_config:
    _show_config_help()
    return
  if values.target is not None:
    _dry_run(values, changes)
    return
  for name in ('json', 'largest_batch'):
    if values[name].present:
      raise command_line.UsageError(
        f'--{name} needs --target; give one, or leave --{name} out'
      )
  command_line.require(values, 'config', 'workdir')
  config = _config(values, changes)
  from vit_jax_repro.parallel import job, processes

  process_flags.join(
    'main', values, job.join, position=lambda: _position(values.workdir)
  )
  if 'study' in config:
    if not processes.is_alone():
      raise command_line.UsageError(
        'a study runs in one process, on all devices of its machine; start it '
        'once, with --distributed=off'
      )
    from vit_jax_repro import studies
    from vit_jax_repro.studies import report

    report.show(studies.run(config.study, values.workdir))
  else:
    from vit_jax_repro import jobs

    result = jobs.train(config, values.workdir)
    if processes.is_first():
      show(result)


def _config(values, changes):
  from vit_jax_repro import command_line
  from vit_jax_repro.errors import InputError
  from vit_jax_repro.runs import config_files

  try:
    return config_files.load(values.config, changes)
  except InputError as error:
    raise command_line.UsageError(str(error)) from error


def _position(workdir):
  """Returns where a run would go on, from its newest checkpoint."""
  import os

  from vit_jax_repro.output import buckets

  if buckets.is_url(workdir):  # which may be what does not answer
    return ' from the newest checkpoint'

  folder = os.path.join(os.path.expanduser(workdir), 'checkpoints')
  names = os.listdir(folder) if os.path.isdir(folder) else []
  steps = [int(name) for name in names if name.isdecimal()]
  return f' from step {max(steps)}' if steps else ' from the beginning'


def _show_config_help():
  from vit_jax_repro import command_line
  from vit_jax_repro.runs import settings_help

  print(command_line.paragraph(CONFIG_HELP))
  for heading, texts in settings_help.groups().items():
    print(f'\n{heading}:', *map(command_line.entry, texts), sep='\n')


def _dry_run(values, changes):
  from vit_jax_repro import command_line

  command_line.require(values, 'config')
  config = _config(values, changes)
  if 'study' in config:
    raise command_line.UsageError(
      '--target takes the configuration of one run, not of a study'
    )
  from vit_jax_repro.analysis import dry_run, dry_run_tables
  from vit_jax_repro.output import files, waiting
  from vit_jax_repro.parallel import targets
  from vit_jax_repro.runs import dry_run as runs
  from vit_jax_repro.runs import manifest

  if values.json is not None:
    files.check_writable(values.json)
  found = runs.create(
    config,
    targets.parse(values.target),
    largest_batch=values.largest_batch,
    show=waiting.show,
  )
  if values.json is not None:
    files.write_json(
      values.json, {**dry_run.as_dict(found), **manifest.software()}
    )
  dry_run_tables.show_run(found, found.reading())


if __name__ == '__main__':
  main()
