"""`python -m vit_jax_repro.evaluate`: accuracy of a weights file."""

from typing import Any

from absl import flags

DESCRIPTION = """Measures top-1 and top-5 accuracy of a weights file on a data
set. Every image counts exactly once; one that cannot be decoded counts as
wrong and is listed. If images may have several labels and the model decides
each class on its own, mean average precision, precision, recall and F1 are
measured, too. With --shots, the head of the file is not used: a few
images of each class are drawn from another split, and the accuracy of a linear
classifier of their features, fitted by least squares, is measured instead."""
FEW_SHOT_FLAGS = ('seeds', 'l2', 'train_split')


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import command_line

  command_line.run('evaluate', _evaluate, command_flags, DESCRIPTION, argv=argv)


def command_flags() -> flags.FlagValues:
  """Returns the flags of this command, a new FlagValues."""
  from vit_jax_repro import command_line, process_flags
  from vit_jax_repro.data import class_matching

  values = flags.FlagValues()
  command_line.define_weights_flags(values)
  command_line.define_orientation_flag(values)
  command_line.define_string(
    values,
    'dataset',
    None,
    "'digits', a TFDS name, vtab/TASK, or a folder of SPLIT/CLASS/*.jpg "
    'or SPLIT/labels.csv',
  )
  command_line.define_string(
    values, 'split', 'test', 'the split, or a part of one such as test[:10%]'
  )
  command_line.define_string(
    values, 'data_dir', None, "folder of TFDS data sets; by default TFDS's own"
  )
  flags.DEFINE_integer(
    'batch_size',
    64,
    'images of a step, any number',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_enum(
    'labels',
    class_matching.BY_NAME,
    [class_matching.BY_NAME, class_matching.AS_IS],
    "find the data set's classes in the model by name, or take its labels as "
    'they are',
    flag_values=values,
  )
  _define_few_shot_flags(values)
  process_flags.define(values)
  return values


def _define_few_shot_flags(values):
  from vit_jax_repro import command_line

  command_line.define_string(
    values, 'shots', None, 'images of each class to learn from, such as 1,5,10'
  )
  command_line.define_string(
    values,
    'train_split',
    'train',
    'with --shots: the split that these images are drawn from',
  )
  flags.DEFINE_integer(
    'seeds',
    3,
    'with --shots: number of draws',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_float(
    'l2',
    1024.0,
    'with --shots: factor of the squared weights in the loss',
    flag_values=values,
  )


def show(result: Any) -> None:
  """Prints a jobs.Evaluation as a table."""
  import dataclasses

  from vit_jax_repro.inference import multi_label
  from vit_jax_repro.output import reports

  height, width = result.image_size
  scores, number, skipping = result.multi_label, result.num_examples, 'skipped'
  if scores is not None:  # which count the images without a label, too
    number, skipping = scores.num_examples, 'are not in the accuracies'
  rows = {
    'weights': result.weights,
    'model': f'{result.model}, {result.num_classes} classes',
    'data set': f'{result.dataset}, split {result.split}',
    'images': f'{number}, as {height}x{width} pixels ({result.preprocessing})',
    'top-1 accuracy': f'{result.accuracy:.2%}  ({result.correct} correct)',
    'top-5 accuracy': f'{result.top5_accuracy:.2%}',
  }
  if scores is not None:
    rows |= multi_label.summary(dataclasses.asdict(scores))
  rows |= {
    'time': f'{result.seconds:.1f} s, {result.images_per_sec:.1f} images/s',
  }
  if result.skipped:
    rows['images'] += f'; {result.skipped} without a label {skipping}'
  if result.unmatched:
    fate = 'whose images count as wrong' if scores is None else 'not measured'
    rows['not in the model'] = _listed(result.unmatched, f'classes {fate}')
  if result.unreadable:
    rows['unreadable'] = _listed(result.unreadable, 'counted as wrong')
  if result.notes:
    rows['notes'] = '\n'.join(result.notes)
  reports.pairs(rows)
  if scores is not None:
    _show_classes(scores)


def _show_classes(scores):
  from vit_jax_repro.output import reports

  reports.table(
    ('class', '>images', '>average precision', '>precision', '>recall', '>F1'),
    [
      (
        each.name,
        str(each.images),
        '-' if not each.images else f'{each.average_precision:.2%}',
        *(f'{x:.2%}' for x in (each.precision, each.recall, each.f1)),
      )
      for each in scores.classes
    ],
  )


def show_few_shot(result: Any) -> None:
  """Prints a jobs.FewShot as a table."""
  from vit_jax_repro.output import reports

  height, width = result.image_size
  rows = {
    'weights': result.weights,
    'model': f'{result.model}, {result.feature_size} features',
    'data set': f'{result.dataset}, {result.num_classes} classes, learns from '
    f'split {result.train_split}, tested on split {result.split}',
    'images': f'{result.num_examples}, as {height}x{width} pixels '
    f'({result.preprocessing})',
    'least squares': f'l2 {result.l2:g}, {result.seeds} seeds',
  }
  for row in result.results:
    each = ', '.join(f'{accuracy:.2%}' for accuracy in row.accuracies)
    rows[f'{row.shots}-shot accuracy'] = (
      f'{row.mean:.2%} +- {row.spread:.2%}  ({each})'
    )
  rows['time'] = f'{result.seconds:.1f} s'
  if result.unreadable:
    rows['unreadable'] = _listed(
      result.unreadable, 'left out of training, counted as wrong in the test'
    )
  if result.notes:
    rows['notes'] = '\n'.join(result.notes)
  reports.pairs(rows)


def _listed(lines, fate):
  return f'{len(lines)}, {fate}:\n' + '\n'.join(lines)


def _evaluate(values, _):
  from vit_jax_repro import command_line, process_flags
  from vit_jax_repro.output import files
  from vit_jax_repro.parallel import job, processes
  from vit_jax_repro.weights import model_card

  command_line.require(values, 'weights', 'dataset')
  shots = _few_shot_options(values)
  process_flags.join('evaluate', values, job.join, ends_at_sigterm=True)
  if values.json is not None and processes.is_first():
    inputs = values.weights, model_card.card_path(values.weights)
    files.check_writable(values.json, keep=inputs)
  options: dict[str, Any] = dict(
    model=values.model,
    split=values.split,
    batch_size=values.batch_size,
    preprocessing=values.preprocessing,
    image_size=command_line.image_size(values.image_size),
    data_dir=values.data_dir,
    orientation=values.orientation,
  )

  import dataclasses

  from vit_jax_repro import jobs

  if shots is None:
    result, display = (
      jobs.evaluate(
        values.weights, values.dataset, labels=values.labels, **options
      ),
      show,
    )
  else:
    result, display = (
      jobs.fewshot(values.weights, values.dataset, **shots, **options),
      show_few_shot,
    )
  if not processes.is_first():
    return
  if values.json is not None:
    files.write_json(values.json, dataclasses.asdict(result))
  display(result)


def _few_shot_options(values):
  """Returns the arguments that only jobs.fewshot has; None without --shots."""
  from vit_jax_repro import command_line

  if values.shots is not None and values['labels'].present:
    raise command_line.UsageError(
      '--labels is for the head of the file, which --shots does not use; leave '
      'one out'
    )
  if values.shots is None:
    given = [f'--{name}' for name in FEW_SHOT_FLAGS if values[name].present]
    if given:
      raise command_line.UsageError(
        f'{" and ".join(given)} needs --shots; give it, too'
      )
    return None
  numbers = values.shots.split(',')
  if not all(number.isdecimal() for number in numbers):
    raise command_line.UsageError(
      f'--shots={values.shots} must be numbers of images such as 1,5,10,25'
    )
  return dict(
    shots=[int(number) for number in numbers],
    seeds=values.seeds,
    l2=values.l2,
    train_split=values.train_split,
  )


if __name__ == '__main__':
  main()
