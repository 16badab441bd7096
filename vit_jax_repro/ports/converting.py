"""Weights from one library's files to another's, checked before they appear.

What a file says beside its arrays goes along: a run's JSON card into the
config.json of a port's folder, and from one into a card.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile

import numpy as np

from vit_jax_repro import models, ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import folders, state_dicts, weight_sources
from vit_jax_repro.weights import layouts, model_card, npz, trees

TARGETS = (*ports.LIBRARIES, *layouts.LAYOUTS)


@dataclasses.dataclass(frozen=True)
class Converted:
  """What was written."""

  path: str
  target: str  # one of TARGETS
  model: str  # its published name, or its family
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
  overwrite: bool = False,
) -> Converted:
  """Converts a weights file.

  What was written is read back and compared, bit by bit, before it gets its
  name.

  Args:
    source: an .npz file of any layout (with the JSON file beside it), or a
      file or folder that `state_dicts.read` takes (with its config.json).
    out: ends in .npz, .safetensors, .pth, .pt or .bin; any other name is a
      folder, with the configuration that gives the port the same logits.
    to: one of TARGETS; 'official' by default for .npz.
    num_heads: of the attention, where no file tells it.
    drop: keys of `ports.PARTS` to leave out.
    model: a name whose architecture the weights have, whatever the files say.
    overwrite: whether what is at `out` may be replaced; never `source`.

  Raises:
    InputError: one line on a file, name or model that cannot be converted.
    OSError: a file cannot be read or written, or is there already.
  """
  source, out = os.fspath(source), os.fspath(out)
  if not source or not out:
    raise InputError(f'{source=} and {out=} must both be the name of a file')
  to = _target(out, to)
  _check_paths(source, out, overwrite)
  read = weight_sources.read(source, num_heads=num_heads, model=model)
  read = weight_sources.without(read, drop)
  if to == 'official':
    read = weight_sources.with_token_slot(read)
  real = os.path.realpath(out)  # links are written through
  folder = tempfile.mkdtemp(prefix='.converting.', dir=os.path.dirname(real))
  try:
    whole = os.path.join(folder, os.path.basename(os.path.abspath(out)))
    with _named(whole, out):
      write = _write_npz if to in layouts.LAYOUTS else _write_port
      arrays = write(whole, read, to)
    _place(whole, out)
  finally:
    shutil.rmtree(folder)
  module = models.create(read.card.architecture)
  return Converted(
    path=out,
    target=to,
    model=models.name_of(module) or weights.describe(read.params)['model'],
    num_arrays=len(arrays),
    num_parameters=sum(array.size for array in arrays.values()),
    num_bytes=sum(array.nbytes for array in arrays.values()),
  )


def _target(out, to):
  """Which of TARGETS to write, if `out` can hold it."""
  if to is not None and to not in TARGETS:
    raise InputError(f'unknown --to={to}; choose from {", ".join(TARGETS)}')
  if out.endswith('.npz'):
    allowed, to = layouts.LAYOUTS, to or layouts.LAYOUTS[0]
  elif out.endswith(state_dicts.SUFFIXES):
    allowed = ports.LIBRARIES
  else:
    allowed = tuple(name for name in ports.LIBRARIES if name != 'deit')
  if to not in allowed:
    what = 'is not given' if to is None else f'is {to!r}'
    raise InputError(
      f'--to {what}; for {out!r} choose from {", ".join(allowed)} (.npz '
      f'holds {", ".join(layouts.LAYOUTS)}; .safetensors, .pth and folders '
      'hold ports)'
    )
  return to


def _check_paths(source, out, overwrite):
  """Nothing of the user's is replaced unasked, the source never."""
  folder = weight_sources.config_folder(source)
  inputs = [source]
  if not state_dicts.is_port(source):
    inputs.append(model_card.card_path(source))
  if folder is not None and os.path.isdir(folder):
    inputs += [entry.path for entry in os.scandir(folder) if entry.is_file()]
  if out.endswith(('.npz', *state_dicts.SUFFIXES)):
    card = [model_card.card_path(out)] if out.endswith('.npz') else []
    for path in (out, *card):
      files.check_writable(path, keep=inputs)
      _check_free(path, overwrite)
    return
  parent = os.path.dirname(os.path.realpath(out))
  if not os.path.isdir(parent):
    raise OSError(f'cannot write {out!r}: there is no folder {parent!r}')
  if folder is not None and os.path.realpath(out) == os.path.realpath(folder):
    raise OSError(f'{out!r} is what is read; give another folder')
  if os.path.lexists(out) and not os.path.isdir(out):
    raise OSError(f'{out!r} is a file; give the name of a folder')
  if not _is_empty(os.path.realpath(out)):
    _check_free(out, overwrite)


def _check_free(path, overwrite):
  there = os.path.lexists(path) or os.path.exists(os.path.realpath(path))
  if there and not overwrite:
    raise FileExistsError(
      f'{path!r} is there already; give another name, or --overwrite'
    )


def _is_empty(path):
  return os.path.isdir(path) and not os.listdir(path)


def _write_npz(path, read, layout):
  """Writes and reads back a file of ours; returns its arrays."""
  if read.said:
    card = read.card
    model_card.save_model(
      path,
      read.params,
      architecture=card.architecture,
      class_names=card.class_names,
      preprocessing=card.preprocessing,
      image_size=card.image_size,
    )
  if not read.said or layout != 'official':
    weights.save(path, read.params, layout=layout)
  arrays = layouts.to_file(read.flat, layout)
  _check_same(arrays, dict(npz.read(path)))
  _check_tree(read.flat, weights.load(path))
  if 'params/cls' in arrays and layouts.POSITIONS in read.flat:
    note(
      "big_vision's files have no position for the class token, so it was "
      'added to the token: the same logits, but not the same numbers'
    )
  return arrays


def _write_port(path, read, library):
  """Writes and reads back a file or folder of a port; returns its arrays."""
  state = ports.to_state_dict(read.params, library)
  module = models.create(read.card.architecture)
  file = path
  if not path.endswith(state_dicts.SUFFIXES):
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
  )
  for name, config in configs.items():
    files.write_json(os.path.join(folder, name), config)
  if remark is not None:
    note(remark)


def _check_tree(flat, back):
  """The tree that a file is read as is the one that was written.

  Positions may have moved to the class token's slot, or from it: then only
  what was written is compared with what is in the file.
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
      'what was written is not what is read back, so it was removed: '
      f'{messages.listed(wrong)}; check the disk'
    )


def _same(array, other):
  """Whether two arrays are the same to the last bit, NaNs included."""
  array, other = (np.ascontiguousarray(a) for a in (array, other))
  if (array.dtype, array.shape) != (other.dtype, other.shape):
    return False
  return np.array_equal(array.view(np.uint8), other.view(np.uint8))


@contextlib.contextmanager
def _named(whole, out):
  """Errors name the file that the user knows, not the one on its way."""
  try:
    yield
  except (InputError, OSError) as error:
    kind = OSError if isinstance(error, OSError) else InputError
    if getattr(error, 'errno', None) or whole not in str(error):
      raise
    raise kind(str(error).replace(whole, out)) from None


def _place(whole, out):
  """Gives what was written its name; a folder that is there keeps others.

  What tells how to read the weights (the card, config.json) is removed first
  and comes last: whenever this ends, no weights stand beside another's.
  """
  real, told = os.path.realpath(out), []
  if os.path.isdir(whole):
    if not os.path.isdir(real) or _is_empty(real):
      os.replace(whole, real)
      return
    file = state_dicts.FILES[0]
    for name in sorted(set(os.listdir(whole)) - {file}):
      told.append((os.path.join(whole, name), os.path.join(real, name)))
    whole, real = os.path.join(whole, file), os.path.join(real, file)
  elif out.endswith('.npz'):
    card = os.path.realpath(model_card.card_path(out))
    told.append((model_card.card_path(whole), card))
  for _, target in told:
    with contextlib.suppress(FileNotFoundError):
      os.remove(target)
  os.replace(whole, real)
  for made, target in told:
    if os.path.exists(made):
      with open(made, encoding='utf-8') as file:
        files.write_text(target, file.read())
