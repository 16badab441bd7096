"""Exporting of weights files, compared with JAX before they appear."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from vit_jax_repro import weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.exporting import (
  checking,
  description,
  onnx_files,
  programs,
  stablehlo_files,
)
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.output import files, waiting
from vit_jax_repro.output.messages import by, note
from vit_jax_repro.ports import converting, weight_sources
from vit_jax_repro.weights import model_card, npz, positions

# Both formats are single messages, which hold less than 2 GiB. Some of it is
# left for the program.
MOST_BYTES = 2**31 - 2**26
_ITEM_BYTES = 4  # of a float32


@dataclasses.dataclass(frozen=True)
class Exported:
  """A summary of the written files.

  Attributes:
    path: the export.
    description: the JSON file.
    model: published name of the model, or its family.
    num_parameters: number of parameters.
    num_bytes: size of the export.
    input_shape: shape of the images without the batch.
    output: name of the result.
    output_shape: its shape without the batch.
    checks: comparisons with JAX.
  """

  path: str
  description: str
  model: str
  num_parameters: int
  num_bytes: int
  input_shape: tuple[int, ...]
  output: str
  output_shape: tuple[int, ...]
  checks: tuple[checking.Check, ...]


def is_export(path: str | os.PathLike) -> bool:
  """Returns whether a file is named like an export."""
  return os.fspath(path).endswith(npz.EXPORTS)


def description_path(path: str | os.PathLike) -> str:
  """Returns the path of an export's JSON file: 'a.onnx' -> 'a.onnx.json'."""
  return f'{os.fspath(path)}.json'


def export(
  source: str | os.PathLike,
  out: str | os.PathLike,
  *,
  num_heads: int | None = None,
  drop: tuple[str, ...] = (),
  model: str | None = None,
  ema: bool = False,
  base: str | None = None,
  image_size: int | tuple[int, int] | None = None,
  preprocessing: str | None = None,
  class_names: Sequence[str] | None = None,
  license_name: str | None = None,
  overwrite: bool = False,
) -> Exported:
  """Exports a weights file for programs without this package.

  The export is written under a temporary name, read back by the library that
  runs such files, compared with JAX at several batch sizes, and then renamed
  to `out`. Its preprocessing and class names are in `description_path(out)`,
  and in the metadata of an ONNX file.

  Args:
    source, num_heads, drop, model, ema, base, preprocessing, class_names: see
      `converting.convert`.
    out: a name that ends in .onnx or .stablehlo.
    image_size: S or (height, width) of the images in pixels; position
      embeddings are resized to it. By default that of the weights.
    license_name: the Hub's name of the licence of the weights.
    overwrite: whether existing files at `out` may be replaced.

  Raises:
    InputError: a file, name or model cannot be exported, a library is not
      installed, or the export differs from JAX.
    OSError: a file cannot be read or written, or exists already.
  """
  source, out = os.fspath(source), os.fspath(out)
  if not is_export(out):
    raise InputError(f'{out!r} must end in {" or ".join(npz.EXPORTS)}')
  for path in (out, description_path(out)):
    files.check_writable(path, keep=converting.inputs_of(source, base))
    converting.check_free(path, overwrite)
  if out.endswith('.onnx'):
    onnx_files.require()
  read = weight_sources.described(
    weight_sources.read(
      source, num_heads=num_heads, model=model, ema=ema, base=base
    ),
    preprocessing=preprocessing,
    class_names=class_names,
  )
  read = weight_sources.without(read, drop)
  program = _program(read, source, image_size)
  about = description.describe(program, license_name)
  with waiting.doing('computing the logits to compare with'):
    wanted = checking.references(program)
  with (
    files.replacing(description_path(out)) as json_file,
    files.replacing(out) as file,
  ):
    with waiting.doing(f'exporting to {out}'):
      run = _written(file, out, program, about)
    with waiting.doing(f'comparing {out} with JAX'):
      checks = checking.check(run, wanted, out)
    num_bytes = os.path.getsize(file)
    files.write_json(json_file, about)
    # If the process is killed now, the new export has no description, and never
    # that of another one.
    with contextlib.suppress(FileNotFoundError):
      os.remove(os.path.realpath(description_path(out)))
  return Exported(
    path=out,
    description=description_path(out),
    model=program.restored.name,
    num_parameters=program.num_parameters,
    num_bytes=num_bytes,
    input_shape=program.image_shape,
    output=program.output,
    output_shape=program.output_shape,
    checks=tuple(checks),
  )


def _program(read, source, image_size):
  num_bytes = _ITEM_BYTES * sum(array.size for array in read.flat.values())
  if num_bytes > MOST_BYTES:
    raise InputError(
      f'{source} has {num_bytes / 1e9:.1f} GB of weights in float32; an export '
      f'holds {MOST_BYTES / 1e9:.1f} GB at most; export a smaller model, or '
      'convert this one to .safetensors'
    )
  restored = restore(
    source,
    image_size=image_size,
    read=model_card.DescribedWeights(
      params=read.params,
      spec=weights.describe(read.params),
      card=read.card,
      card_file=source if read.is_described else None,
    ),
  )
  made_for = read.card.image_size
  if (
    made_for is not None
    and tuple(made_for) != restored.image_size
    and positions.name_in(read.flat) is not None
  ):
    note(
      f'the position embeddings, made for {by(made_for)} pixels, are resized '
      f'to {by(restored.image_size)}'
    )
  if restored.num_classes:
    restored.require_trained_head(source)
  return programs.create(restored)


def _written(file: Any, out: str, program: programs.Program, about: dict):
  """Writes an export; returns it, read back, as a function of images."""
  if out.endswith('.onnx'):
    onnx_files.write(file, program, description.metadata(about))
    return onnx_files.runner(file)
  stablehlo_files.write(file, program)
  return stablehlo_files.runner(file)
