"""`python -m vit_jax_repro.crosscheck`: where a port differs, and why."""

import os
import sys
import traceback

from absl import flags

DESCRIPTION = """Compares a PyTorch port with this reference on the same weights
and images, layer by layer, and names the causes of the differences. With
--export it writes inputs, activations and logits instead, with which a port in
any language can be tested. With --check the exit code is 0 if the port agrees,
1 if it differs, and 2 if the command ends before a comparison, whatever the
reason: a missing file, a wrong flag, a port that fails, another architecture.
docs/crosscheck.md explains the tables."""
AGREES, DIFFERS, NOT_COMPARED = 0, 1, 2  # exit codes with --check


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import command_line

  values, codes = command_flags(), []
  try:
    command_line.run(
      'crosscheck',
      lambda values, rest: codes.append(_crosscheck(values, rest)),
      values,
      DESCRIPTION,
      argv=argv,
    )
  except SystemExit as stop:
    if stop.code == command_line.FAILED and _checks(values):
      sys.exit(NOT_COMPARED)
    raise
  except Exception:
    if not _checks(values):
      raise
    traceback.print_exc()  # a bug; the usual exit code would be DIFFERS
    sys.exit(NOT_COMPARED)
  if codes and _checks(values):
    sys.exit(codes[0])


def _checks(values):
  return values.is_parsed() and values.check


def command_flags() -> flags.FlagValues:
  """Returns the flags of this command, a new FlagValues."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  command_line.define_weights_flags(values)
  for name, text in {
    'port': 'transformers:ID, timm:NAME, or a function that returns a '
    'torch.nn.Module: PATH/FILE.py:FUNCTION or module:PACKAGE.FUNCTION',
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
  flags.DEFINE_bool(
    'gradients',
    False,
    'also compare the gradients of a classification loss, layer by layer, for '
    'ports that are to be trained',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'check',
    False,
    'set the exit code: 0 the port agrees, 1 it differs, 2 nothing was '
    'compared (a missing file too)',
    flag_values=values,
  )
  return values


def _crosscheck(values, rest):
  """Runs the command; returns the exit code that --check asks for."""
  del rest
  from vit_jax_repro import command_line
  from vit_jax_repro.output import files
  from vit_jax_repro.published import weight_names

  command_line.require(values, 'weights')
  if (values.port is None) == (values.export is None):
    raise command_line.UsageError(
      'one of --port and --export must be given, not both; see --help'
    )
  inputs = weight_names.files_of(values.weights)
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
    return _export(values, model)
  return _compare(values, model)


def _export(values, model):
  from vit_jax_repro import command_line

  for name in ('json', 'report', 'gradients', 'check'):
    if values[name].value:
      raise command_line.UsageError(f'--{name} does not go with --export')

  from vit_jax_repro.comparison import crosschecking

  names = crosschecking.export_reference(values.weights, values.export, **model)
  print(f'{values.export}: images and {len(names)} activations')
  return AGREES


def _compare(values, model):
  from vit_jax_repro.output import waiting

  first = f'crosscheck: comparing {values.port}'
  waiting.show(first)
  with waiting.doing(first):
    # These libraries take seconds to import.
    from vit_jax_repro.comparison import crosschecking, report
    from vit_jax_repro.output import files, reports, sections

    result = crosschecking.crosscheck(
      values.weights,
      values.port,
      dtype=values.dtype,
      port_weights=values.port_weights,
      with_gradients=values.gradients,
      show=lambda step: waiting.now_doing(f'crosscheck: {step}'),
      **model,
    )
  parts = report.sections(result)
  if values.report is not None:
    files.write_text(values.report, sections.markdown(parts))
  if values.json is not None:
    files.write_json(values.json, report.as_json(result))
  reports.terminal(parts, paged=True)
  return AGREES if result.agrees else DIFFERS


if __name__ == '__main__':
  main()
