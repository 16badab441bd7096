"""Conversion of weights files between libraries, verified before they appear.

Metadata is converted as well: a run's JSON card becomes the config.json of a
port's folder, and such a config.json becomes a card.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Sequence

from vit_jax_repro import models, ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages, waiting
from vit_jax_repro.ports import (
  code_constants,
  file_kinds,
  hub_card,
  jax_checkpoints,
  peft_adapters,
  state_dicts,
  weight_sources,
  writing,
)
from vit_jax_repro.weights import layouts, model_card, npz, trees

TARGETS = (*ports.LIBRARIES, *layouts.LAYOUTS)
# The libraries that load a model from a folder with its configuration.
FOLDERS = tuple(
  name
  for name in ports.LIBRARIES
  if name not in ('deit', 'dinov2', *code_constants.LIBRARIES)
)


@dataclasses.dataclass(frozen=True)
class Converted:
  """A summary of the written file or folder."""

  path: str
  target: str  # one of TARGETS
  model: str  # published name of the model, or its family
  num_arrays: int
  num_parameters: int
  num_bytes: int


def convert(
  source: str | os.PathLike,
  out: str | os.PathLike,
  *,
  to: str | None = None,
  num_heads: int | None = None,
  drop: tuple[str, ...] = (),
  model: str | None = None,
  ema: bool = False,
  base: str | None = None,
  image_size: int | tuple[int, int] | None = None,
  preprocessing: str | None = None,
  class_names: Sequence[str] | None = None,
  origin: hub_card.Origin | None = None,
  overwrite: bool = False,
) -> Converted:
  """Converts a weights file.

  The output is written under a temporary name, read back and compared bit by
  bit, and then renamed to `out`.

  An .npz file gets both towers of an image-text model, unless `drop` leaves
  parts out. Otherwise only its image tower is converted.

  Args:
    source: a file or folder of a kind in `file_kinds.NAMES`, under any name;
      with its JSON card or config.json, if any.
    out: a name that ends in .npz, .safetensors, .pth, .pt or .bin. Any other
      name is a folder; it gets the configuration with which the port computes
      the same logits, and a model card, README.md.
    to: one of TARGETS; 'official' by default for .npz.
    num_heads: number of attention heads, if no file has it.
    drop: keys of `ports.PARTS` to leave out.
    model: name of the model; its architecture overrides that of the files.
    ema: whether to take the averaged weights of a training checkpoint.
    base: path of the model that a PEFT adapter changes; by default that in the
      adapter's configuration.
    image_size: S or (height, width) in pixels that the weights are made for.
    preprocessing: a name for `preprocess.pick_preprocessing`.
    class_names: a name for each class, in the order of the labels. These three
      override what the files say, and are written to the description of `out`.
    origin: where the weights come from, for the model card of a folder; see
      `published.origins.find`. By default only a run's own files are read.
    overwrite: whether existing files at `out` may be replaced. `source` never
      is.

  Raises:
    InputError: a file, name or model cannot be converted.
    OSError: a file cannot be read or written, or exists already.
  """
  source, out = os.fspath(source), os.fspath(out)
  if not source or not out:
    raise InputError(f'{source=} and {out=} must both be the name of a file')
  to = _target(out, to)
  _check_paths(source, out, overwrite, base)
  read = weight_sources.read(
    source,
    num_heads=num_heads,
    model=model,
    ema=ema,
    base=base,
    both_towers=to in layouts.LAYOUTS and not drop,
  )
  read = weight_sources.described(
    read,
    image_size=image_size,
    preprocessing=preprocessing,
    class_names=class_names,
  )
  read = weight_sources.without(read, drop)
  module = models.create(read.card.architecture)
  try:
    weights.check_whole(read.flat, module, read.card.image_size)
  except InputError as error:
    raise InputError(f'{source}: {error}') from None
  if to == 'official':
    read = weight_sources.with_token_slot(read)
  real = os.path.realpath(out)  # writes to the target of a link
  folder = tempfile.mkdtemp(prefix='.converting.', dir=os.path.dirname(real))
  try:
    whole = os.path.join(folder, os.path.basename(os.path.abspath(out)))
    with _errors_naming(whole, out), waiting.doing(f'writing {out}'):
      arrays = writing.write(whole, read, to)
      converted = Converted(
        path=out,
        target=to,
        model=models.name_of(module) or weights.describe(read.params)['model'],
        num_arrays=len(arrays),
        num_parameters=_num_parameters(arrays, read.params),
        num_bytes=sum(array.nbytes for array in arrays.values()),
      )
      if os.path.isdir(whole):
        hub_card.write(
          whole,
          name=os.path.basename(whole),
          library=to,
          model=converted.model,
          num_parameters=converted.num_parameters,
          card=read.card,
          origin=origin or hub_card.read_origin(source),
          # The run measured its own model, read in its own way.
          is_measured=not any((drop, model, image_size, preprocessing)),
        )
    _place(whole, out)
  finally:
    shutil.rmtree(folder)
  return converted


def _target(out, to):
  """Returns which of TARGETS to write; raises if `out` cannot hold it."""
  if to is not None and to not in TARGETS:
    raise InputError(
      f'unknown --to={to}; {messages.did_you_mean(to, TARGETS)}choose from '
      f'{", ".join(TARGETS)}'
    )
  if out.endswith(npz.EXPORTS):
    raise InputError(f'{out!r} is the name of an export; see jobs.export')
  if out.endswith('.npz'):
    allowed, to = layouts.LAYOUTS, to or layouts.LAYOUTS[0]
  elif out.endswith(state_dicts.SUFFIXES):
    allowed = ports.LIBRARIES
  else:
    allowed = FOLDERS
  if to not in allowed:
    given = 'is not given' if to is None else f'is {to!r}'
    raise InputError(
      f'--to {given}; for {out!r} choose from {", ".join(allowed)} (.npz '
      f'holds {", ".join(layouts.LAYOUTS)}; .safetensors, .pth and folders '
      'hold ports)'
    )
  return to


def inputs_of(source: str, base: str | None = None) -> list[str]:
  """Returns the paths of the files that are read.

  Raises:
    FileNotFoundError, InputError, OSError: see `file_kinds.kind_of`.
  """
  kind = file_kinds.kind_of(source)
  folder = weight_sources.config_folder(source)
  inputs = [source]
  if kind == 'npz':
    inputs.append(model_card.card_path(source))
  elif kind in jax_checkpoints.KINDS:
    inputs.append(jax_checkpoints.card_file(source))
  if folder is not None and os.path.isdir(folder):
    inputs += [entry.path for entry in os.scandir(folder) if entry.is_file()]
  if kind == 'tensorflow':
    inputs += file_kinds.tensorflow_files(source)
  if kind == 'peft':
    inputs += inputs_of(peft_adapters.find_base(source, base))
  return inputs


def check_free(path: str, overwrite: bool) -> None:
  """Raises a FileExistsError if a file is in the way and must not be."""
  exists = os.path.lexists(path) or os.path.exists(os.path.realpath(path))
  if exists and not overwrite:
    raise FileExistsError(
      f'{path!r} exists already; give another name, or --overwrite'
    )


def _check_paths(source, out, overwrite, base):
  """Raises if the output would replace files unasked, or the source."""
  inputs = inputs_of(source, base)
  if out.endswith(('.npz', *state_dicts.SUFFIXES)):
    card = [model_card.card_path(out)] if out.endswith('.npz') else []
    for path in (out, *card):
      files.check_writable(path, keep=inputs)
      check_free(path, overwrite)
    return
  parent = os.path.dirname(os.path.realpath(out))
  if not os.path.isdir(parent):
    raise OSError(f'cannot write {out!r}: there is no folder {parent!r}')
  folders_read = {
    os.path.realpath(folder)
    for folder in map(weight_sources.config_folder, inputs)
    if folder is not None
  }
  if os.path.realpath(out) in folders_read:
    raise OSError(f'{out!r} is the source folder; give another folder')
  if os.path.lexists(out) and not os.path.isdir(out):
    raise OSError(f'{out!r} is a file; give the name of a folder')
  if not _is_empty(os.path.realpath(out)):
    check_free(out, overwrite)


def _is_empty(path):
  return os.path.isdir(path) and not os.listdir(path)


def _num_parameters(arrays, params):
  """Returns the number of written values, but not those of statistics."""
  flat = trees.flatten(params).items()
  statistics = sum(x.size for name, x in flat if trees.is_statistic(name))
  return sum(array.size for array in arrays.values()) - statistics


@contextlib.contextmanager
def _errors_naming(whole, out):
  """Replaces the temporary path by the user's path in error messages."""
  try:
    yield
  except (InputError, OSError) as error:
    kind = OSError if isinstance(error, OSError) else InputError
    if getattr(error, 'errno', None) or whole not in str(error):
      raise
    raise kind(str(error).replace(whole, out)) from None


def _place(whole, out):
  """Renames the written file or folder; an existing folder keeps other files.

  The description of the weights (the card, config.json) is removed first and
  written last. Even if the process is killed in between, weights never have
  the description of others.
  """
  real, descriptions = os.path.realpath(out), []
  if os.path.isdir(whole):
    if not os.path.isdir(real) or _is_empty(real):
      os.replace(whole, real)
      return
    file = file_kinds.FILES[0]
    for name in sorted(set(os.listdir(whole)) - {file}):
      paths = os.path.join(whole, name), os.path.join(real, name)
      descriptions.append(paths)
    whole, real = os.path.join(whole, file), os.path.join(real, file)
  elif out.endswith('.npz'):
    card = os.path.realpath(model_card.card_path(out))
    descriptions.append((model_card.card_path(whole), card))
  for _, target in descriptions:
    with contextlib.suppress(FileNotFoundError):
      os.remove(target)
  os.replace(whole, real)
  for written, target in descriptions:
    if os.path.exists(written):
      with open(written, encoding='utf-8') as file:
        files.write_text(target, file.read())
