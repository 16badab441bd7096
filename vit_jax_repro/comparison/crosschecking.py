"""The two jobs of `crosscheck`: the comparison of a port, and the export."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from vit_jax_repro.comparison import (
  activations,
  causes,
  diagnosis,
  export,
  gradients,
  inputs,
  parameters,
  preprocessing_search,
  torch_architecture,
  torch_facts,
  torch_gradients,
  torch_layers,
  torch_models,
  torch_sources,
)
from vit_jax_repro.data import labels
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.output.messages import note
from vit_jax_repro.published import weight_names
from vit_jax_repro.weights import trees

# Weights for the port: its own, or the reference's.
PORT_WEIGHTS = ('own', 'reference')
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
  # {name of the reference: module of the port that computes it}.
  modules: dict[str, str]
  facts: tuple[str, ...]  # sentences, read off the port's modules
  # {field of the reference: (value read off the port, the reference's)}.
  constants: dict[str, tuple]
  spread: float  # largest difference of the logits of several passes
  tolerance: float  # of the logits
  gradients: gradients.Gradients | None  # None if they were not asked for
  # For each image, the best classes of the reference and of the port, on the
  # same tensor: (label, name, logit).
  top: tuple[tuple[tuple, tuple], ...]
  # None without image files, or if the port has no comparable preprocessing.
  reading: preprocessing_search.Comparison | None
  # Like `top`, but each side with its own preprocessing.
  end_to_end: tuple[tuple[tuple, tuple], ...]

  @property
  def is_random(self) -> bool:
    """Returns whether passes of the port differ beyond tolerance."""
    return self.spread > self.tolerance

  @property
  def agrees(self) -> bool:
    """Returns whether activations, and gradients if compared, agree."""
    return self.diagnosis.agrees and (
      self.gradients is None or self.gradients.agrees
    )


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
  with_gradients: bool = False,
  show: Callable[[str], object] = str,
) -> Crosscheck:
  """Compares a PyTorch port with the reference, layer by layer.

  First, both get the same tensor: the images as the reference preprocesses
  them, or random images. Then, if there are image files and the port has a
  preprocessing, each side preprocesses the files itself.

  Args:
    weights_path, model, image_size, preprocessing: see `restoring.restore`.
    port: see `comparison.torch_sources`.
    images: paths of image files, at most `inputs.MAX_IMAGES`.
    dtype: dtype of the computation on both sides, 'float32' or 'float64'.
      float64 shows the smallest causes.
    port_weights: 'own' for the weights that the port comes with; 'reference'
      for the weights of the file, converted.
    with_gradients: also compare the gradients of a loss, see
      `comparison.gradients`, if the logits can be compared.
    show: called with a line on each step of the comparison.

  Raises:
    InputError: an argument or a file is wrong, the port cannot be created,
      fails or is of another architecture, or PyTorch is not installed. The
      message has one line.
    OSError: a file cannot be read.
  """
  torch_sources.check(port)
  weights_path = weight_names.find(weights_path)
  inputs.check(images, dtype)
  if port_weights not in PORT_WEIGHTS:
    raise InputError(
      f'{port_weights=} must be one of {", ".join(PORT_WEIGHTS)}'
    )
  show('loading PyTorch')
  torch = torch_models.require_torch()
  show(f'reading {os.fspath(weights_path)}')
  read = weight_names.load(weights_path)
  source = read.params
  restored = _unrolled(
    restore(weights_path, model, image_size, preprocessing, read=read)
  )
  if with_gradients:
    _check_gradients(restored)
  show(f'loading {port}')
  other = torch_sources.make(
    port, restored.image_size, own_weights=port_weights == 'own'
  )
  if images and other.preprocess is not None:
    inputs.require_tensorflow()
  library, tree = parameters.canonical(other, restored)
  torch_architecture.check(torch, port, other.module, tree, source)
  if port_weights == 'reference':
    parameters.give(other, source)
    library, tree = parameters.canonical(other, restored)
  tensor = inputs.read(images, restored)
  show(f'reference on {len(tensor)} images')
  examiner = diagnosis.Examiner(
    restored.model, restored.params, tensor, dtype=dtype, show=show
  )
  show(f'{port} on {len(tensor)} images')
  observed = _observe(other, tensor, examiner, restored.model, dtype)
  blocks = torch_layers.block_paths(observed.places)
  constants = torch_facts.constants(torch, observed.calls, blocks)
  tolerance = examiner.tolerances[activations.LOGITS]
  found, read_off = _diagnose(
    examiner,
    observed,
    constants,
    parameters.resized_positions(source, restored),
    parameters.as_cause(tree, source, restored),
    is_random=observed.spread > tolerance,
  )
  slopes = None
  if with_gradients and not found.complete:
    note('the logits cannot be compared, so gradients are not compared either')
  elif with_gradients:
    show('gradients')
    # Gradients may show constants that the activations do not.
    topics = {cause.topic for cause in found.named}
    more = [cause for cause in read_off if cause.topic not in topics]
    variant = examiner.variant((*found.named, *more))
    slopes = _gradients(
      other, tensor, observed, variant, examiner.reference, library, dtype
    )
  reading, end_to_end = None, ()
  if images and other.preprocess is not None:
    show('preprocessing of the images')
    reading, end_to_end = _stage_two(images, tensor, other, restored, dtype)
  return Crosscheck(
    weights=os.fspath(weights_path),
    port=port,
    model=restored.name,
    image_size=restored.image_size,
    dtype=dtype,
    files=tuple(os.fspath(path) for path in images),
    preprocessing=restored.preprocessing,
    versions=inputs.versions(),
    parameters=None if tree is None else parameters.compare(source, tree),
    library=library,
    diagnosis=found,
    modules={name: str(place) for name, place in observed.places.items()},
    facts=(
      other.modes,
      *([torch_facts.DRAWS] if observed.draws else ()),
      *torch_facts.facts(torch, other.module, observed.calls, blocks),
    ),
    constants=torch_facts.differing(constants, restored.model),
    spread=observed.spread,
    tolerance=tolerance,
    gradients=slopes,
    top=_tops(examiner.reference, observed.outputs, restored),
    reading=reading,
    end_to_end=end_to_end,
  )


def _unrolled(restored):
  """Returns the model with its blocks one by one, so that each has a name."""
  if not getattr(restored.model, 'scan', False):
    return restored
  params = trees.nest(trees.unstack(trees.flatten(restored.params)))
  model = restored.model.clone(scan=False)
  return dataclasses.replace(restored, model=model, params=params)


def _check_gradients(restored):
  image = jax.ShapeDtypeStruct((1, *restored.image_size, 3), 'float32')
  variables = {'params': restored.params}
  shape = jax.eval_shape(restored.model.apply, variables, image).shape
  if not restored.num_classes or len(shape) != 2:
    raise InputError(
      'the model gives no logits [B, K], so it has no classification loss; '
      'leave out --gradients'
    )


def _diagnose(
  examiner, observed, constants, resized, own_weights, *, is_random
):
  start = examiner.variant(())
  if is_random:  # no substitution can reproduce it
    return examiner.diagnose(observed.outputs, ()), ()
  known = causes.known(start.model, start.params, resized, constants)
  read_off = causes.read_off(known, constants)
  if own_weights is not None:
    read_off.append(own_weights)
  return examiner.diagnose(observed.outputs, known, read_off), read_off


def _gradients(port, images, observed, variant, outputs, library, dtype):
  """Compares gradients with those of a variant of the reference."""
  by_name, by_parameter = torch_gradients.of_port(
    port, images, observed.places, dtype=dtype
  )
  return gradients.compare(
    variant,
    by_name,
    torch_gradients.canonical(
      port, by_parameter, library, getattr(variant.model, 'num_heads', None)
    ),
    [name for name, value in by_parameter.items() if value is None],
    {name: array.shape for name, array in outputs.items()},
    dtype,
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
  weights_path = weight_names.find(weights_path)
  inputs.check(images, 'float32')
  export.check_path(path)
  restored = restore(weights_path, model, image_size, preprocessing)
  tensor = inputs.read(images, restored)
  outputs = activations.run(restored.model, restored.params, tensor)
  tolerances = activations.tolerances(
    outputs, restored.model, restored.params, tensor
  )
  about = {
    'weights': os.path.basename(os.fspath(weights_path)),
    'model': _fields(restored.model),
    'image_size': list(restored.image_size),
    'preprocessing': restored.preprocessing if images else None,
    'files': [os.path.basename(os.fspath(path)) for path in images],
    'versions': inputs.versions(),
  }
  export.write(path, tensor, outputs, tolerances, about)
  return list(outputs)


def _observe(port, images, examiner, model, dtype):
  """Returns what the port computes; raises if nothing can be compared."""
  shapes = {name: array.shape for name, array in examiner.reference.items()}
  observed = torch_models.observe(
    port,
    images,
    examiner.reference,
    form=torch_layers.Form.of(model, shapes),
    dtype=dtype,
  )
  if not examiner.compare((), observed.outputs):
    raise InputError(
      f'{port.name} gives nothing to compare: no logits of shape '
      f'{shapes[activations.LOGITS]} and no known layer; '
      'name its `layers`, or check the number of classes'
    )
  return observed


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


def _stage_two(images, tensor, port, restored, dtype):
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
    encoded, tensor, port_inputs, preprocessing=restored.preprocessing
  )
  reference = activations.run(restored.model, restored.params, tensor)
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
