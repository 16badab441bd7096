"""The two jobs of `crosscheck`: the comparison of a port, and the export."""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Sequence

import numpy as np

from vit_jax_repro import weights
from vit_jax_repro.comparison import (
  activations,
  causes,
  diagnosis,
  differences,
  export,
  parameters,
  preprocessing_search,
  torch_models,
  torch_sources,
)
from vit_jax_repro.data import labels, preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import state_dicts

# Weights for the port: its own, or the reference's.
PORT_WEIGHTS = ('own', 'reference')
MAX_IMAGES = 8  # limited because the activations of all images are kept
_TOP = 5


@dataclasses.dataclass(frozen=True)
class Crosscheck:
  """The result of `crosscheck`."""

  weights: str
  port: str
  model: str
  image_size: tuple[int, int]
  dtype: str
  files: tuple[str, ...]  # empty for random images
  preprocessing: str
  versions: dict[str, str]
  parameters: parameters.Parameters | None  # None if the names are unknown
  library: str | None  # library whose names the port's parameters have
  diagnosis: diagnosis.Diagnosis
  # For each image, the best classes of the reference and of the port, on the
  # same tensor: (label, name, logit).
  top: tuple[tuple[tuple, tuple], ...]
  # None without image files, or if the port has no comparable preprocessing.
  reading: preprocessing_search.Comparison | None
  # Like `top`, but each side with its own preprocessing.
  end_to_end: tuple[tuple[tuple, tuple], ...]


def crosscheck(
  weights_path: str | os.PathLike,
  port: str,
  *,
  images: Sequence[str | os.PathLike] = (),
  model: str | None = None,
  image_size: int | tuple[int, int] | None = None,
  preprocessing: str | None = None,
  dtype: str = 'float32',
  port_weights: str = 'own',
) -> Crosscheck:
  """Compares a PyTorch port with the reference, layer by layer.

  First, both get the same tensor: the images as the reference preprocesses
  them, or random images. Then, if there are image files and the port has a
  preprocessing, each side preprocesses the files itself.

  Args:
    weights_path, model, image_size, preprocessing: see `restoring.restore`.
    port: see `comparison.torch_sources`.
    images: paths of image files, at most `MAX_IMAGES`.
    dtype: dtype of the computation on both sides, 'float32' or 'float64'.
      float64 shows the smallest causes.
    port_weights: 'own' for the weights that the port comes with; 'reference'
      for the weights of the file, converted.

  Raises:
    InputError: an argument or a file is wrong, the port cannot be created or
      fails, or PyTorch is not installed. The message has one line.
    OSError: a file cannot be read.
  """
  check(weights_path, images, dtype)
  if port_weights not in PORT_WEIGHTS:
    raise InputError(
      f'{port_weights=} must be one of {", ".join(PORT_WEIGHTS)}'
    )
  torch_models.require_torch()
  restored = restore(weights_path, model, image_size, preprocessing)
  source = weights.load(weights_path)
  other = torch_sources.make(
    port, restored.image_size, own_weights=port_weights == 'own'
  )
  if port_weights == 'reference':
    parameters.give(other, source)
  library, tree = parameters.canonical(other, restored)
  inputs = _inputs(images, restored)
  examiner, outputs = _run_both(other, inputs, restored, dtype)
  found = examiner.diagnose(
    outputs,
    causes.known(
      restored.model,
      restored.params,
      parameters.resized_positions(source, restored),
    ),
    parameters.as_cause(tree, source, restored),
  )
  reading, end_to_end = None, ()
  if images and other.preprocess is not None:
    reading, end_to_end = _stage_two(images, inputs, other, restored, dtype)
  return Crosscheck(
    weights=os.fspath(weights_path),
    port=port,
    model=restored.name,
    image_size=restored.image_size,
    dtype=dtype,
    files=tuple(os.fspath(path) for path in images),
    preprocessing=restored.preprocessing,
    versions=versions(),
    parameters=None if tree is None else parameters.compare(source, tree),
    library=library,
    diagnosis=found,
    top=_tops(examiner.reference, outputs, restored),
    reading=reading,
    end_to_end=end_to_end,
  )


def export_reference(
  weights_path: str | os.PathLike,
  path: str | os.PathLike,
  *,
  images: Sequence[str | os.PathLike] = (),
  model: str | None = None,
  image_size: int | tuple[int, int] | None = None,
  preprocessing: str | None = None,
) -> list[str]:
  """Writes inputs, activations and logits; see `comparison.export`.

  Args:
    weights_path, images, model, image_size, preprocessing: see `crosscheck`.
    path: path of the archive, ending in '.npz'.

  Returns:
    Names of the activations, including the logits.

  Raises:
    InputError: see `crosscheck` and `export.check_path`.
    OSError: a file cannot be read, or the archive cannot be written.
  """
  check(weights_path, images, 'float32')
  export.check_path(path)
  restored = restore(weights_path, model, image_size, preprocessing)
  inputs = _inputs(images, restored)
  outputs = activations.run(restored.model, restored.params, inputs)
  tolerances = activations.tolerances(
    outputs, restored.model, restored.params, inputs
  )
  about = {
    'weights': os.path.basename(os.fspath(weights_path)),
    'model': _fields(restored.model),
    'image_size': list(restored.image_size),
    'preprocessing': restored.preprocessing if images else None,
    'files': [os.path.basename(os.fspath(path)) for path in images],
    'versions': versions(),
  }
  export.write(path, inputs, outputs, tolerances, about)
  return list(outputs)


def check(
  weights_path: str | os.PathLike,
  images: Sequence[str | os.PathLike],
  dtype: str,
) -> None:
  """Checks arguments of `crosscheck` before a model is loaded.

  Raises:
    InputError: the weights are those of a port, there are too many images, or
      the dtype is unknown.
    FileNotFoundError: an image does not exist.
  """
  if state_dicts.is_port(weights_path):
    raise InputError(
      f'{os.fspath(weights_path)} holds weights of a PyTorch port; bring them '
      'into an .npz file first, with the command convert'
    )
  if len(images) > MAX_IMAGES:
    raise InputError(
      f'{len(images)} images are more than the {MAX_IMAGES} whose activations '
      'are kept; give fewer'
    )
  for path in images:
    if not os.path.isfile(path):
      raise FileNotFoundError(f'no such image: {os.fspath(path)}')
  if dtype not in activations.DTYPES:
    raise InputError(f'{dtype=} must be one of {", ".join(activations.DTYPES)}')


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the installed libraries."""
  found = {'python': platform.python_version()}
  for name in ('jax', 'flax', 'torch', 'transformers', 'timm'):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _inputs(images, restored):  # -> [B, H, W, 3] float32
  if not images:
    return activations.random_images(restored.image_size)
  return np.stack(
    [
      preprocess.read_image(
        path,
        preprocessing=restored.preprocessing,
        image_size=restored.image_size,
        orientation='none',  # as torchvision and timm read them
      )
      for path in images
    ]
  )


def _run_both(port, inputs, restored, dtype):
  """Returns the examiner of the reference and the port's activations."""
  model = restored.model
  examiner = diagnosis.Examiner(model, restored.params, inputs, dtype=dtype)
  outputs = torch_models.run(
    port,
    inputs,
    examiner.reference,
    num_layers=getattr(model, 'num_layers', 0),
    patch_size=getattr(model, 'patch_size', None),
    dtype=dtype,
  )
  if not differences.compare(examiner.reference, outputs, examiner.tolerances):
    raise InputError(
      f'{port.name} gives nothing to compare: no logits of shape '
      f'{examiner.reference[activations.LOGITS].shape} and no known layer; '
      'name its `layers`, or check the number of classes'
    )
  return examiner, outputs


def _tops(reference, port, restored):
  """Returns the best classes of both sides for each image.

  Empty if the logits cannot be compared.
  """
  sides = reference[activations.LOGITS], port.get(activations.LOGITS)
  if sides[1] is None or sides[0].ndim != 2 or sides[1].shape != sides[0].shape:
    return ()
  return tuple(
    tuple(_top(row, restored.class_names) for row in rows)
    for rows in zip(*sides, strict=True)
  )


def _top(logits, class_names):  # [K]
  order = np.argsort(-logits, kind='stable')[:_TOP]
  return tuple(
    (int(i), labels.readable(i, class_names), float(logits[i])) for i in order
  )


def _stage_two(images, inputs, port, restored, dtype):
  """Compares the preprocessings, and the best classes that they lead to."""
  encoded = [pathlib.Path(path).read_bytes() for path in images]
  preprocessed = []
  for path in images:
    image = torch_models.preprocessed(port, os.fspath(path))
    if image.shape != (3, *restored.image_size):
      note(
        f'the preprocessing of {port.name} gives {image.shape}, not '
        f'{(3, *restored.image_size)}; it is not compared (see --image_size)'
      )
      return None, ()
    preprocessed.append(np.moveaxis(image, 0, -1))
  port_inputs = np.stack(preprocessed)
  reading = preprocessing_search.compare(
    encoded, inputs, port_inputs, preprocessing=restored.preprocessing
  )
  reference = activations.run(restored.model, restored.params, inputs)
  outputs = torch_models.run(port, port_inputs, (), dtype=dtype)
  return reading, _tops(reference, outputs, restored)


def _fields(model):
  """Returns the fields of a module that JSON can represent."""
  skipped = ('parent', 'name', 'dtype', 'param_dtype')
  return {
    field.name: getattr(model, field.name)
    for field in dataclasses.fields(model)
    if field.name not in skipped
  }
