"""`python -m vit_jax_repro.predict`: the most probable classes of images."""

from collections.abc import Sequence
from typing import Any

from absl import flags

DESCRIPTION = """Prints the most probable classes of image files (JPEG, PNG,
WebP, BMP, GIF, TIFF), with probabilities."""


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
    'number of classes to print for an image',
    lower_bound=1,
    flag_values=values,
  )
  return values


def as_json(
  images: Sequence[str], results: Sequence[Any]
) -> list[dict[str, Any]]:
  """Returns [{'image', 'classes': [{'label', 'name', 'probability'}]}]."""
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


def show(images: Sequence[str], results: Sequence[Any]) -> None:
  """Prints the results of jobs.predict, a table for each image."""
  from vit_jax_repro.output import reports

  for image, classes in zip(images, results, strict=True):
    print(image)
    reports.table(
      ('>label', 'class', '>probability'),
      [(str(label), name, f'{p:.2%}') for label, name, p in classes],
    )


def _predict(values, images):
  from vit_jax_repro import command_line
  from vit_jax_repro.output import files
  from vit_jax_repro.weights import model_card

  command_line.require(values, 'weights')
  if not images:
    raise command_line.UsageError('no image to predict; give at least one path')
  if values.json is not None:
    inputs = values.weights, model_card.card_path(values.weights), *images
    files.check_writable(values.json, keep=inputs)
  image_size = command_line.image_size(values.image_size)

  from vit_jax_repro import jobs

  results = jobs.predict(
    values.weights,
    images,
    model=values.model,
    top=values.top,
    image_size=image_size,
    preprocessing=values.preprocessing,
    orientation=values.orientation,
  )
  if values.json is not None:
    files.write_json(values.json, as_json(images, results))
  show(images, results)


if __name__ == '__main__':
  main()
