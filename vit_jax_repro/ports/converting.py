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

import numpy as np

from vit_jax_repro import models, ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages, waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import (
  folders,
  hub_card,
  state_dicts,
  weight_sources,
)
from vit_jax_repro.weights import layouts, model_card, npz, trees

TARGETS = (*ports.LIBRARIES, *layouts.LAYOUTS)
_SIGMOID = (
  "a port's file of weights alone does not say that the model decides each "
  'class on its own: take the sigmoid of its logits, not the softmax, or write '
  'a folder'
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
  image_size: tuple[int, int] | None = None,
  preprocessing: str | None = None,
  class_names: Sequence[str] | None = None,
  origin: hub_card.Origin | None = None,
  overwrite: bool = False,
) -> Converted:
  """Converts a weights file.

  The output is written under a temporary name, read back and compared bit by
  bit, and then renamed to `out`.

  Args:
    source: an .npz file of any layout (with its JSON card, if any), or a file
      or folder that `state_dicts.read` accepts (with its config.json, if any).
    out: a name that ends in .npz, .safetensors, .pth, .pt or .bin. Any other
      name is a folder; it gets the configuration with which the port computes
      the same logits, and a model card, README.md.
    to: one of TARGETS; 'official' by default for .npz.
    num_heads: number of attention heads, if no file has it.
    drop: keys of `ports.PARTS` to leave out.
    model: name of the model; its architecture overrides that of the files.
    image_size: (height, width) in pixels that the weights are made for.
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
  _check_paths(source, out, overwrite)
  read = weight_sources.read(source, num_heads=num_heads, model=model)
  read = weight_sources.described(
    read,
    image_size=image_size,
    preprocessing=preprocessing,
    class_names=class_names,
  )
  read = weight_sources.without(read, drop)
  if to == 'official':
    read = weight_sources.with_token_slot(read)
  real = os.path.realpath(out)  # writes to the target of a link
  folder = tempfile.mkdtemp(prefix='.converting.', dir=os.path.dirname(real))
  try:
    whole = os.path.join(folder, os.path.basename(os.path.abspath(out)))
    with _errors_naming(whole, out):
      write = _write_npz if to in layouts.LAYOUTS else _write_port
      with waiting.doing(f'writing {out}'):
        arrays = write(whole, read, to)
        module = models.create(read.card.architecture)
        converted = Converted(
          path=out,
          target=to,
          model=models.name_of(module)
          or weights.describe(read.params)['model'],
          num_arrays=len(arrays),
          num_parameters=sum(array.size for array in arrays.values()),
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
    allowed = tuple(name for name in ports.LIBRARIES if name != 'deit')
  if to not in allowed:
    given = 'is not given' if to is None else f'is {to!r}'
    raise InputError(
      f'--to {given}; for {out!r} choose from {", ".join(allowed)} (.npz '
      f'holds {", ".join(layouts.LAYOUTS)}; .safetensors, .pth and folders '
      'hold ports)'
    )
  return to


def inputs_of(source: str) -> list[str]:
  """Returns the paths of the files that are read, which may be missing.

  Raises:
    InputError: the source is an export, which cannot be read.
  """
  npz.refuse_export(source)
  folder = weight_sources.config_folder(source)
  inputs = [source]
  if not state_dicts.is_port(source):
    inputs.append(model_card.card_path(source))
  if folder is not None and os.path.isdir(folder):
    inputs += [entry.path for entry in os.scandir(folder) if entry.is_file()]
  return inputs


def check_free(path: str, overwrite: bool) -> None:
  """Raises a FileExistsError if a file is in the way and must not be."""
  exists = os.path.lexists(path) or os.path.exists(os.path.realpath(path))
  if exists and not overwrite:
    raise FileExistsError(
      f'{path!r} exists already; give another name, or --overwrite'
    )


def _check_paths(source, out, overwrite):
  """Raises if the output would replace files unasked, or the source."""
  folder = weight_sources.config_folder(source)
  inputs = inputs_of(source)
  if out.endswith(('.npz', *state_dicts.SUFFIXES)):
    card = [model_card.card_path(out)] if out.endswith('.npz') else []
    for path in (out, *card):
      files.check_writable(path, keep=inputs)
      check_free(path, overwrite)
    return
  parent = os.path.dirname(os.path.realpath(out))
  if not os.path.isdir(parent):
    raise OSError(f'cannot write {out!r}: there is no folder {parent!r}')
  if folder is not None and os.path.realpath(out) == os.path.realpath(folder):
    raise OSError(f'{out!r} is the source folder; give another folder')
  if os.path.lexists(out) and not os.path.isdir(out):
    raise OSError(f'{out!r} is a file; give the name of a folder')
  if not _is_empty(os.path.realpath(out)):
    check_free(out, overwrite)


def _is_empty(path):
  return os.path.isdir(path) and not os.listdir(path)


def _write_npz(path, read, layout):
  """Writes an .npz file and reads it back; returns its arrays."""
  if read.is_described:
    card = read.card
    model_card.save_model(
      path,
      read.params,
      architecture=card.architecture,
      class_names=card.class_names,
      preprocessing=card.preprocessing,
      image_size=card.image_size,
      orientation=card.orientation,
      loss=card.loss,
    )
  if not read.is_described or layout != 'official':
    weights.save(path, read.params, layout=layout)
  arrays = layouts.to_file(read.flat, layout)
  _check_same(arrays, dict(npz.read(path)))
  _check_tree(read.flat, weights.load(path))
  if 'params/cls' in arrays and layouts.POSITIONS in read.flat:
    note(
      "big_vision's files have no position for the class token, so it was "
      'added to the token: the same logits, but other numbers in the file'
    )
  return arrays


def _write_port(path, read, library):
  """Writes a port's file or folder and reads it back; returns its arrays."""
  state = ports.to_state_dict(read.params, library)
  module = models.create(read.card.architecture)
  file = path
  if path.endswith(state_dicts.SUFFIXES):
    if read.card.loss == 'sigmoid':
      note(_SIGMOID)
  else:
    os.mkdir(path)
    file = os.path.join(path, state_dicts.FILES[0])
    _write_configs(path, read, module, library)
  wrapper = 'model' if library == 'deit' else None
  state_dicts.write(file, state, wrapper=wrapper)
  back = state_dicts.read(file)
  _check_same(state, back)
  tree = ports.from_state_dict(
    back,
    num_heads=getattr(module, 'num_heads', None),
    token_slots=layouts.POSITIONS_BEFORE_CLS not in read.params,
  )
  _check_tree(read.flat, tree)
  return state


def _write_configs(folder, read, module, library):
  card = read.card
  spec = weights.describe(read.params)
  configs, remark = folders.files(
    library,
    module,
    read.params,
    image_size=card.image_size
    or model_card.DEFAULT_IMAGE_SIZE.get(spec['model'])
    or model_card.OTHER_DEFAULT_IMAGE_SIZE,
    class_names=card.class_names,
    preprocessing=card.preprocessing
    or model_card.default_preprocessing(spec, module),
    loss=card.loss,
  )
  for name, config in configs.items():
    files.write_json(os.path.join(folder, name), config)
  if remark is not None:
    note(remark)


def _check_tree(flat, back):
  """Raises an OSError if the tree read back is not the one written.

  Positions may have moved to or from the class token's slot. Class token and
  positions are then left out here; the arrays of the file were compared before.
  """
  back = trees.flatten(back)
  moving = {'cls', layouts.POSITIONS, layouts.POSITIONS_BEFORE_CLS}
  moving = moving if flat.keys() != back.keys() else set()
  _check_same(
    *(
      {n: a for n, a in tree.items() if n not in moving}
      for tree in (flat, back)
    )
  )


def _check_same(written, read):
  wrong = written.keys() ^ read.keys()
  wrong |= {
    n for n in written.keys() & read.keys() if not _same(written[n], read[n])
  }
  if wrong:
    raise OSError(
      'the written arrays differ when read back, so the file was removed: '
      f'{messages.listed(wrong)}; check the disk'
    )


def _same(array, other):
  """Returns whether two arrays are equal to the last bit, NaNs included."""
  array, other = (np.ascontiguousarray(a) for a in (array, other))
  if (array.dtype, array.shape) != (other.dtype, other.shape):
    return False
  return np.array_equal(array.view(np.uint8), other.view(np.uint8))


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
    file = state_dicts.FILES[0]
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
