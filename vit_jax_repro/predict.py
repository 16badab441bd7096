"""`python -m vit_jax_repro.predict`: what is on an image."""

from absl import flags

DESCRIPTION = """Prints the most probable classes of image files (JPEG, PNG,
GIF, BMP), with probabilities."""


def main(argv=None):
  """Runs the verb on a command line and exits."""
  from vit_jax_repro import command_line

  command_line.run(
    'predict',
    _predict,
    command_flags(),
    DESCRIPTION,
    positional='IMAGE...',
    argv=argv,
  )


def command_flags():
  """The flags of this verb, anew."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  command_line.define_weights_flags(values)
  flags.DEFINE_integer(
    'top',
    5,
    'how many classes to print for an image',
    lower_bound=1,
    flag_values=values,
  )
  return values


def as_json(images, results):
  """[{'image': path, 'classes': [{'label', 'name', 'probability'}]}]."""
  return [
    {
      'image': image,
      'classes': [
        {'label': label, 'name': name, 'probability': probability}
        for label, name, probability in classes
      ],
    }
    for image, classes in zip(images, results, strict=True)
  ]


def show(images, results):
  """Prints what jobs.predict gave, a table for each image."""
  from rich import console, table

  out = console.Console(markup=False, highlight=False)
  for image, classes in zip(images, results, strict=True):
    grid = table.Table('label', 'class', 'probability')
    grid.columns[0].justify = grid.columns[2].justify = 'right'
    for label, name, probability in classes:
      grid.add_row(str(label), name, f'{probability:.2%}')
    out.print(image, soft_wrap=True)
    out.print(grid)


def _predict(values, images):
  from vit_jax_repro import command_line
  from vit_jax_repro.runs import json_files, model_files

  command_line.require(values, 'weights')
  if not images:
    raise command_line.UsageError('no image to predict; give at least one path')
  if values.json is not None:
    inputs = values.weights, model_files.card_path(values.weights), *images
    json_files.check_writable(values.json, keep=inputs)
  image_size = command_line.image_size(values.image_size)

  from vit_jax_repro import jobs

  results = jobs.predict(
    values.weights,
    images,
    model=values.model,
    top=values.top,
    image_size=image_size,
    preprocessing=values.preprocessing,
  )
  if values.json is not None:
    json_files.write(values.json, as_json(images, results))
  show(images, results)


if __name__ == '__main__':
  main()
