"""`python -m vit_jax_repro.evaluate`: accuracy of a weights file."""

from collections.abc import Sequence
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
HEAD_FLAGS = (
  'labels', 'among', 'per_class', 'confusion', 'wrong', 'zero_shot', 'prompts',
)  # fmt: skip


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
  flags.DEFINE_enum(
    'among',
    'model',
    ['model', 'dataset'],
    "whether all classes of the model compete, or only the data set's, as for "
    'ImageNet-A and ImageNet-R',
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'per_class', False, 'also print accuracy by class', flag_values=values
  )
  for name, text in {
    'confusion': 'write the confusion matrix to this .csv or .png file',
    'wrong': 'write the images that are wrong, and what was predicted, to this '
    'CSV file',
  }.items():
    command_line.define_string(values, name, None, text)
  flags.DEFINE_boolean(
    'zero_shot',
    False,
    "compare images with texts of the data set's classes, by an image-text "
    'model such as lit/LiT-B16B_2',
    flag_values=values,
  )
  command_line.define_string(
    values,
    'prompts',
    None,
    'with --zero_shot: a file of templates such as "a photo of a {}", one on '
    'each line',
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
  }
  if result.top5_accuracy is not None:
    rows['top-5 accuracy'] = f'{result.top5_accuracy:.2%}'
  if scores is not None:
    rows |= multi_label.summary(dataclasses.asdict(scores))
  if result.num_competing < result.num_classes:
    rows['model'] += f', of which {result.num_competing} compete'
  rows['time'] = f'{result.seconds:.1f} s, {result.images_per_sec:.1f} images/s'
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
  from vit_jax_repro.errors import printable
  from vit_jax_repro.output import reports

  reports.table(
    ('class', '>images', '>average precision', '>precision', '>recall', '>F1'),
    [
      (
        printable(each.name),
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
  from vit_jax_repro.errors import printable

  return f'{len(lines)}, {fate}:\n' + '\n'.join(map(printable, lines))


def _evaluate(values, _):
  from vit_jax_repro import command_line, process_flags
  from vit_jax_repro.parallel import job, processes

  command_line.require(values, 'weights', 'dataset')
  if values.prompts is not None and not values.zero_shot:
    raise command_line.UsageError('--prompts needs --zero_shot; give it, too')
  shots = _few_shot_options(values)
  process_flags.join('evaluate', values, job.join, ends_at_sigterm=True)
  if processes.is_first():
    _check_outputs(values)
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

  if shots is not None:
    result = jobs.fewshot(values.weights, values.dataset, **shots, **options)
    if processes.is_first():
      _finish(values, result, show_few_shot)
    return
  each = values.per_class or values.confusion or values.wrong
  result = jobs.evaluate(
    values.weights,
    values.dataset,
    labels=values.labels,
    among=values.among,
    each=bool(each),
    one_label=values.confusion is not None,
    zero_shot=values.zero_shot,
    prompts=values.prompts,
    **options,
  )
  if processes.is_first():
    alone = dataclasses.replace(result, each_image=None)
    _finish(values, alone, show, result.each_image)


def _check_outputs(values):
  """Raises an error in one line if an output cannot be written."""
  from vit_jax_repro import command_line
  from vit_jax_repro.analysis import confusion
  from vit_jax_repro.data import label_files
  from vit_jax_repro.errors import InputError
  from vit_jax_repro.output import files
  from vit_jax_repro.published import weight_names

  if values.confusion is not None:
    try:
      confusion.check_ending(values.confusion)
    except InputError as error:
      raise command_line.UsageError(f'--confusion={error}') from None
  keep = weight_names.files_of(values.weights)
  for path in (values.json, values.confusion, values.wrong):
    if path is not None:
      own = [path] if label_files.is_of_data(path, values.dataset) else []
      files.check_writable(path, keep=[*keep, *own])
      keep.append(path)


def _finish(values, result, display, each=None):
  """Writes and prints a result.

  Args:
    values: the parsed flags.
    result: a jobs.Evaluation or jobs.FewShot.
    display: prints it.
    each: its each_image.EachImage, if a flag asks for it.
  """
  import dataclasses

  from vit_jax_repro.analysis import confusion
  from vit_jax_repro.inference import each_image
  from vit_jax_repro.output import files

  found, classes = dataclasses.asdict(result), []
  found.pop('each_image', None)
  if each is not None and values.per_class:
    classes = each.per_class()
    found['per_class'] = [dataclasses.asdict(row) for row in classes]
    found['mean_class_accuracy'] = each_image.mean_accuracy(classes)
  if each is not None and values.confusion is not None:
    confusion.write(values.confusion, *each.confusion())
  if each is not None and values.wrong is not None:
    each_image.write_wrong(values.wrong, each)
  if values.json is not None:
    files.write_json(values.json, found)
  display(result)
  if classes:
    show_classes(classes)
  for path in (values.confusion, values.wrong):
    if path is not None:
      print(path)


def show_classes(classes: Sequence[Any]) -> None:
  """Prints a table of each_image.ClassAccuracy."""
  from vit_jax_repro.errors import printable
  from vit_jax_repro.inference import each_image
  from vit_jax_repro.output import reports

  reports.table(
    ('class', '>images', '>correct', '>accuracy', 'most often taken for'),
    [
      (
        printable(row.name),
        str(row.num_examples),
        str(row.correct),
        '' if row.accuracy is None else f'{row.accuracy:.2%}',
        f'{printable(row.taken_for)} ({row.taken_for_count})'
        if row.taken_for
        else '',
      )
      for row in classes
    ],
    title=f'mean of the classes: {each_image.mean_accuracy(classes):.2%}',
  )


def _few_shot_options(values):
  """Returns the arguments that only jobs.fewshot has; None without --shots."""
  from vit_jax_repro import command_line

  wrong = [f'--{name}' for name in HEAD_FLAGS if values[name].present]
  if values.shots is not None and wrong:
    raise command_line.UsageError(
      f'{", ".join(wrong)} is for the head of the file, which --shots does not '
      'use; leave one out'
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
