"""`python -m vit_jax_repro.convert`: weights from library to library."""

from typing import Any

from absl import flags

DESCRIPTION = """Converts weights (IN: .npz of any layout, .safetensors, a
checkpoint of PyTorch, Flax or Orbax, an adapter of PEFT, or the folder of a
library, under any name) to OUT: .npz, .safetensors, .pth, or a folder from
which transformers and timm load a model. The conversion is exact:
OUT is read back and compared bit by bit. The exceptions are an adapter of
PEFT, which is merged into its base, and the positions of a class token in
big_vision's files and of registers in timm's, which are added to the tokens.
A name OUT that ends in .onnx or .stablehlo gives a program that runs
without this package, in float32 and for any batch size. It is compared with JAX
before it gets its name; OUT.json describes the images that it takes."""


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import command_line

  command_line.run(
    'convert',
    _convert,
    command_flags(),
    DESCRIPTION,
    positional='IN OUT',
    argv=argv,
  )


def command_flags() -> flags.FlagValues:
  """Returns the flags of this command, a new FlagValues."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  for name, text in {
    'to': 'layout of OUT: timm, transformers, transformers_v4 (names before '
    'version 5), deit, dinov2, torchvision, jeonsworld; for .npz: official '
    '(the default), linen, big_vision, big_vision_scan',
    'model': 'a model name; by default inferred from the files',
    'image_size': 'pixels that the weights are made for, S or HEIGHTxWIDTH, '
    'if IN does not say it; for .onnx and .stablehlo the size of the images; '
    'position embeddings are resized to it',
    'preprocessing': 'how images are read, such as timm:crop_pct=0.9, if IN '
    'does not say it',
    'license': "the licence in OUT's model card, by the Hub's name of it such "
    'as mit; by default that of the published weights that IN is',
    'class_names': 'file with the name of each class on a line of its own, if '
    'IN does not have them',
  }.items():
    command_line.define_string(values, name, None, text)
  flags.DEFINE_integer(
    'num_heads',
    None,
    'number of attention heads, for a model of unpublished width',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_list(
    'drop',
    [],
    'parts to leave out: pre_logits, head, mask, or txt for the text tower of '
    'an image-text model',
    flag_values=values,
  )
  command_line.define_source_flags(values)
  flags.DEFINE_boolean(
    'overwrite', False, 'replace OUT if it exists', flag_values=values
  )
  return values


def show(converted: Any) -> None:
  """Prints one line about a converting.Converted."""
  print(
    f'wrote {converted.path}: {converted.model} as {converted.target}, '
    f'{converted.num_arrays} arrays, {converted.num_parameters} parameters, '
    f'{converted.num_bytes / 1e6:.1f} MB'
  )


def show_export(exported: Any) -> None:
  """Prints the lines about an exports.Exported."""
  for check in exported.checks:
    print(
      f'batch of {check.batch_size}: differs from JAX by '
      f'{check.difference:.1e} of the largest of the {exported.output} '
      f'(allowed {check.allowed:.1e}; noise of float32 {check.noise:.1e})'
    )
  shapes = [
    ', '.join(map(str, ('batch', *shape)))
    for shape in (exported.input_shape, exported.output_shape)
  ]
  print(
    f'wrote {exported.path}: {exported.model}, images [{shapes[0]}] to '
    f'{exported.output} [{shapes[1]}], {exported.num_parameters} parameters, '
    f'{exported.num_bytes / 1e6:.1f} MB'
  )
  print(f'wrote {exported.description}: preprocessing and class names')


def _convert(values, paths):
  from vit_jax_repro import command_line

  if len(paths) != 2:
    raise command_line.UsageError(
      f'{len(paths)} paths given; convert takes two: IN OUT'
    )
  image_size = command_line.image_size(values.image_size)
  import dataclasses

  from vit_jax_repro.exporting import exports
  from vit_jax_repro.output import weight_texts
  from vit_jax_repro.ports import converting
  from vit_jax_repro.published import origins, weight_names

  source, out = paths
  is_export = exports.is_export(out)
  if is_export and values.to is not None:
    raise command_line.UsageError(
      f'--to={values.to} is for weights files, not for {out}; leave it out'
    )
  if values.base:
    source = weight_texts.on_base(source, values.base)
  path, ema = weight_texts.split(weight_names.find(source))
  path, base = weight_texts.split_base(path)
  origin = origins.find(source, path, (values.to or '').partition('_')[0])
  if values.license:
    origin = dataclasses.replace(origin, license=values.license)
  options: dict[str, Any] = dict(
    num_heads=values.num_heads,
    drop=tuple(values.drop),
    model=values.model,
    ema=values.ema or ema,
    base=base,
    image_size=image_size,
    preprocessing=values.preprocessing,
    class_names=values.class_names and _lines(values.class_names),
    overwrite=values.overwrite,
  )
  if is_export:
    show_export(
      exports.export(path, out, license_name=origin.license, **options)
    )
  else:
    show(converting.convert(path, out, to=values.to, origin=origin, **options))


def _lines(path):
  with open(path, encoding='utf-8-sig') as file:  # Windows adds a mark
    return file.read().splitlines()


if __name__ == '__main__':
  main()
