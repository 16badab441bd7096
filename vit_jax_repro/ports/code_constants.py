"""Settings of models that libraries have in their code and in no file.

Sources: torchvision, models/vision_transformer.py (torch.nn.GELU, LayerNorms
with epsilon 1e-6, the `transforms` of its weights); jeonsworld/ViT-pytorch,
models/modeling.py and utils/data_utils.py; facebookresearch/dinov2,
hub/backbones.py (`interpolate_offset`, `interpolate_antialias`) and
data/transforms.py; facebookresearch/deit, main.py (positions of --finetune).
"""

from collections.abc import Mapping
from typing import Any

from vit_jax_repro import models
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports.configs import PortConfig

_FIELDS = {'gelu': 'erf', 'layer_norm_eps': 1e-6}
LIBRARIES = ('torchvision', 'jeonsworld')
# torchvision reads images of 224 pixels as it trained its own weights, others
# as SWAG's. jeonsworld squashes images to [-1, 1] like the authors.
_TORCHVISION_224 = 'deit:crop_pct=0.875,interpolation=bilinear'
_TORCHVISION_SWAG = 'deit:crop_pct=1'


def resizing(library: str, spec: Mapping[str, Any]) -> str | None:
  """Returns how a library resizes the positions of a model with these parts.

  It is None where a file does not show whose code the model was made for: the
  authors' ViTs are in files of all libraries.

  Args:
    library: one of `ports.LIBRARIES`.
    spec: the fields that `weights.describe` returns.
  """
  registers = 'num_registers' in spec
  if not registers and 'layer_scale_init' not in spec:
    return None
  return {
    'timm': 'bicubic_antialias',
    'deit': 'bicubic',
    'dinov2': 'bicubic_antialias' if registers else 'bicubic_offset',
  }.get(library, 'bicubic_antialias' if registers else 'bicubic')


def config(
  library: str, image_size: tuple[int, int] | None
) -> PortConfig | None:
  """Returns the settings of a library's models; None if files have them.

  Args:
    library: one of `ports.LIBRARIES`.
    image_size: (height, width) that the weights are made for, if known.
  """
  if library not in LIBRARIES:
    return None
  preprocessing = 'vit_jax'
  if library == 'torchvision':
    at_224 = image_size == (224, 224)
    preprocessing = _TORCHVISION_224 if at_224 else _TORCHVISION_SWAG
  note(
    f'{library} files do not say how images are read; {preprocessing!r} is '
    'taken, as its own code does; `convert --preprocessing` writes another'
  )
  return PortConfig(
    dict(_FIELDS),
    token_slots=True,
    image_size=image_size,
    preprocessing=preprocessing,
  )


def note_on_differences(library: str, architecture: Mapping[str, Any]) -> None:
  """Prints a note if a library's code computes otherwise than the model."""
  if library not in LIBRARIES:
    return
  module = models.create(architecture)
  own = [
    f'{key}={value}, not {getattr(module, key)}'
    for key, value in _FIELDS.items()
    if getattr(module, key) != value
  ]
  if own:
    note(
      f"{library}'s models have {' and '.join(own)} as these weights do, and "
      'no setting for it: logits there differ a little'
    )
