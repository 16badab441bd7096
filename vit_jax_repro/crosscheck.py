"""`python -m vit_jax_repro.crosscheck`: where a port differs, and why."""

import os

from absl import flags

DESCRIPTION = """Compares a PyTorch port with this reference on the same weights
and images, layer by layer, and names the causes of the differences. With
--export it writes inputs, activations and logits instead, with which a port in
any language can be tested. docs/crosscheck.md explains the tables."""


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import command_line

  command_line.run(
    'crosscheck', _crosscheck, command_flags(), DESCRIPTION, argv=argv
  )


def command_flags() -> flags.FlagValues:
  """Returns the flags of this command, a new FlagValues."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  command_line.define_weights_flags(values)
  for name, text in {
    'port': 'transformers:ID, timm:NAME or module:PACKAGE.FUNCTION, a function '
    'that returns a torch.nn.Module',
    'report': 'also write the report to this Markdown file',
    'export': 'write inputs, activations and logits to this .npz file; needs '
    'no PyTorch',
  }.items():
    command_line.define_string(values, name, None, text)
  flags.DEFINE_list(
    'images',
    [],
    'at most 8 image files, comma-separated; by default random images, for '
    'which no preprocessing is compared',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'dtype',
    'float32',
    ['float32', 'float64'],
    'dtype of both computations; float64 shows the smallest differences',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'port_weights',
    'own',
    ['own', 'reference'],
    "compute with the port's own weights, or with those of --weights, "
    'converted',
    flag_values=values,
  )
  return values


def _crosscheck(values, rest):
  del rest
  from vit_jax_repro import command_line
  from vit_jax_repro.output import files
  from vit_jax_repro.weights import model_card

  command_line.require(values, 'weights')
  if (values.port is None) == (values.export is None):
    raise command_line.UsageError(
      'one of --port and --export must be given, not both; see --help'
    )
  inputs = values.weights, model_card.card_path(values.weights)
  for path in (values.json, values.report, values.export):
    if path is not None:
      files.check_writable(path, keep=(*inputs, *values.images))
  if None not in (values.json, values.report) and (
    os.path.realpath(values.json) == os.path.realpath(values.report)
  ):
    raise command_line.UsageError(
      f'--json and --report are both {values.report}; give different names'
    )
  model = dict(
    images=values.images,
    model=values.model,
    image_size=command_line.image_size(values.image_size),
    preprocessing=values.preprocessing,
  )
  if values.export is not None:
    _export(values, model)
  else:
    _compare(values, model)


def _export(values, model):
  from vit_jax_repro import command_line

  for name in ('json', 'report'):
    if values[name].value is not None:
      raise command_line.UsageError(f'--{name} does not go with --export')

  from vit_jax_repro.comparison import crosschecking

  names = crosschecking.export_reference(values.weights, values.export, **model)
  print(f'{values.export}: images and {len(names)} activations')


def _compare(values, model):
  from vit_jax_repro.comparison import crosschecking, report
  from vit_jax_repro.output import files, reports, sections

  result = crosschecking.crosscheck(
    values.weights,
    values.port,
    dtype=values.dtype,
    port_weights=values.port_weights,
    **model,
  )
  parts = report.sections(result)
  reports.terminal(parts, foldable=report.TEXT_COLUMNS)
  if values.report is not None:
    files.write_text(values.report, sections.markdown(parts))
  if values.json is not None:
    files.write_json(values.json, report.as_json(result))


if __name__ == '__main__':
  main()
