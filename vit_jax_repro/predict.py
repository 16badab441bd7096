"""`python -m vit_jax_repro.predict`: the most probable classes of images."""

from typing import Any

from absl import flags

DESCRIPTION = """Prints the most probable classes of images (JPEG, PNG, WebP,
BMP, GIF, TIFF), with probabilities. IMAGE is a file, a folder of images, a
pattern such as "photos/*.jpg", a list of paths (@images.txt), or - for a list
from standard input. Images that cannot be read are listed at the end; the
others are predicted, and the exit code is 1. With --features, an activation of
the model is written in place of classes."""
FOR_CLASSES = ('top', 'csv', 'json', 'jsonl', 'texts')


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import command_line

  command_line.run(
    'predict',
    _predict,
    command_flags(),
    DESCRIPTION,
    positional='IMAGE...',
    argv=argv,
  )


def command_flags() -> flags.FlagValues:
  """Returns the flags of this command, a new FlagValues."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  command_line.define_weights_flags(values)
  command_line.define_orientation_flag(values)
  flags.DEFINE_integer(
    'top',
    5,
    'number of classes of an image',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'batch_size',
    32,
    'images of a step, any number',
    lower_bound=1,
    flag_values=values,
  )
  for name, text in {
    'csv': 'write a row for each image to this file, and print no tables',
    'jsonl': 'write a line of JSON for each image to this file, and print no '
    'tables',
    'features': 'in place of classes, write an activation of the model for '
    'each image, such as pre_logits, to --out',
    'texts': 'the classes of an image-text model, such as "a photo of a cat,a '
    'photo of a dog", or @FILE with one on each line',
    'out': 'with --features: an array, .npy; a .csv file of the same name has '
    'the image of each row',
  }.items():
    command_line.define_string(values, name, None, text)
  return values


def show(prediction: Any) -> None:
  """Prints a jobs.Prediction as a table."""
  from vit_jax_repro.errors import printable
  from vit_jax_repro.output import reports

  print(printable(prediction.image))
  reports.table(
    ('>label', 'class', '>probability'),
    [(str(label), name, f'{p:.2%}') for label, name, p in prediction.classes],
  )


def _predict(values, arguments):
  from vit_jax_repro import command_line

  command_line.require(values, 'weights')
  if not arguments:
    raise command_line.UsageError('no image to predict; give at least one path')
  if values.features is not None:
    _extract(values, arguments)
    return
  if values.out is not None:
    raise command_line.UsageError('--out is for --features; give it, too')

  from vit_jax_repro.inference import prediction_files

  reading = _reading(values)
  outputs = {kind: values[kind].value for kind in prediction_files.KINDS}
  written = [path for path in outputs.values() if path is not None]
  images = _images(values, arguments, written)

  from vit_jax_repro import jobs
  from vit_jax_repro.output.unreadable import Unreadable

  predictions = jobs.predict_each(
    values.weights, images, top=values.top, texts=_texts(values), **reading
  )
  quiet = values.csv is not None or values.jsonl is not None
  unreadable = Unreadable(len(images))
  with prediction_files.writing(outputs) as write:
    for prediction in predictions:
      write(prediction)
      if prediction.error is not None:
        unreadable.add(prediction.error)
      elif not quiet:
        show(prediction)
    unreadable.require_some()
  if quiet:
    print(f'{", ".join(written)}: {unreadable.rate()}')
  unreadable.finish()


def _extract(values, arguments):
  from vit_jax_repro import command_line
  from vit_jax_repro.errors import InputError

  command_line.require(values, 'out')
  wrong = [f'--{name}' for name in FOR_CLASSES if values[name].present]
  if wrong:
    raise command_line.UsageError(
      f'{", ".join(wrong)} is for classes, in place of which --features writes '
      'an array; leave one out'
    )

  from vit_jax_repro.inference import extraction

  try:
    names = extraction.names_file(values.out)
  except InputError as error:
    raise command_line.UsageError(f'--out={error}') from None
  reading = _reading(values)
  images = _images(values, arguments, [values.out, names])

  from vit_jax_repro import jobs

  found = jobs.extract(
    values.weights, images, values.out, features=values.features, **reading
  )
  shape = 'x'.join(map(str, found.shape))
  print(f'{found.array}: {shape}, float32; {found.unreadable.rate()}')
  print(f'{found.names}: the image of each row')
  found.unreadable.finish()


def _texts(values):
  """Returns the texts of --texts; None without them."""
  from vit_jax_repro import command_line

  if values.texts is None:
    return None
  if values.texts.startswith('@'):
    from vit_jax_repro.inference import zero_shot

    texts = zero_shot.read_texts(values.texts[1:])
  else:
    texts = [each.strip() for each in values.texts.split(',') if each.strip()]
  if not texts:
    raise command_line.UsageError(
      f'--texts={values.texts} has no text; give texts with commas between '
      'them, or @FILE with one on each line'
    )
  return texts


def _reading(values):
  """Returns the arguments of jobs.predict_each from the flags."""
  from vit_jax_repro import command_line

  return dict(
    model=values.model,
    batch_size=values.batch_size,
    image_size=command_line.image_size(values.image_size),
    preprocessing=values.preprocessing,
    orientation=values.orientation,
  )


def _images(values, arguments, outputs):
  """Returns the paths of the images, which no output replaces."""
  from vit_jax_repro.data import image_lists
  from vit_jax_repro.published import weight_names

  images = image_lists.expand(arguments)
  images.require_one()
  images.check_outputs(outputs, keep=weight_names.files_of(values.weights))
  return images.paths


if __name__ == '__main__':
  main()
