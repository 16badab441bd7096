"""DINOv2 and DeiT III in timm and transformers, with the weights of a tree.

As a program it prints the table in docs/crosscheck.md, of models of full size:
`PYTHONPATH=tests/helpers python tests/helpers/register_ports.py`.
"""

import numpy as np
import timm_stub
import tiny_models
import torch

from vit_jax_repro import models, ports, weights
from vit_jax_repro.comparison import (
  activations,
  causes,
  diagnosis,
  torch_layers,
  torch_models,
)
from vit_jax_repro.models.patches import patch_grid
from vit_jax_repro.weights import layouts, positions, trees


def _filled(module, state):
  module.load_state_dict(
    {name: torch.from_numpy(np.array(a)) for name, a in state.items()}
  )
  return module.eval()


def in_timm(model, params, image_size):
  """Returns timm's model for a reference that reads the class token.

  Args:
    model: the reference.
    params: its parameters, for images of any size.
    image_size: (H, W) for which its positions were made.
  """
  library = timm_stub.import_timm()
  flat = trees.flatten(params)
  state = ports.to_state_dict(params, 'timm')
  module = library.models.vision_transformer.VisionTransformer(
    img_size=image_size,
    patch_size=model.patch_size,
    num_classes=model.num_classes,
    embed_dim=model.hidden_size,
    depth=model.num_layers,
    num_heads=model.num_heads,
    mlp_ratio=model.mlp_dim / model.hidden_size,
    init_values=1.0,
    reg_tokens=model.num_registers,
    no_embed_class=not ports.has_token_slots(flat),
    dynamic_img_size=True,
  )
  return _filled(module, state)


def in_transformers(model, params, image_size):
  """Returns transformers' Dinov2 for a `token_and_gap` reference."""
  import transformers

  kind, more = 'Dinov2', {}
  if model.num_registers:
    kind = 'Dinov2WithRegisters'
    more['num_register_tokens'] = model.num_registers
  else:
    more['use_mask_token'] = False
  state = ports.to_state_dict(params, 'transformers')
  config = getattr(transformers, f'{kind}Config')(
    hidden_size=model.hidden_size,
    num_hidden_layers=model.num_layers,
    num_attention_heads=model.num_heads,
    mlp_ratio=model.mlp_dim // model.hidden_size,
    image_size=image_size[0],
    patch_size=model.patch_size[0],
    num_labels=model.num_classes,
    **more,
  )
  return _filled(
    getattr(transformers, f'{kind}ForImageClassification')(config), state
  )


PORTS = {'timm': in_timm, 'transformers': in_transformers}


def compare(spec, library, sources, size, change=None, **fields):
  """Returns the diagnosis of a library's model with random weights.

  Args:
    spec: fields of the reference, or its name.
    library: 'timm' or 'transformers'.
    sources: (H, W) in pixels for which the positions are made.
    size: (H, W) of the images.
    change: called with the module, to plant a fault.
    **fields: further fields of the reference.
  """
  reader = {'timm': 'token', 'transformers': 'token_and_gap'}[library]
  resizing = fields.pop('position_resizing', None)
  model = models.create(spec, num_classes=10, classifier=reader, **fields)
  params = tiny_models.params_of_model(model, sources)
  module = PORTS[library](model, params, sources)
  if change is not None:
    change(module)
  if resizing is not None:
    model = model.clone(position_resizing=resizing)
  grids = [patch_grid(model, side) for side in (sources, size)]
  name = positions.name_in(trees.flatten(params))
  resized = None
  if grids[0] != grids[1]:
    resized = causes.ResizedPositions(
      trees.flatten(params)[name],
      *grids,
      num_tokens=int(name == layouts.POSITIONS),
    )
  fitted = weights.adapt(params, model, image_size=size, head='keep')
  images = activations.random_images(size)
  examiner = diagnosis.Examiner(model, fitted, images)
  shapes = {name: a.shape for name, a in examiner.reference.items()}
  outputs = torch_models.run(
    torch_models.Port(library, module),
    images,
    examiner.reference,
    form=torch_layers.Form.of(model, shapes),
  )
  return examiner.diagnose(outputs, causes.known(model, fitted, resized))


def in_noise(layer):
  """Returns a difference in units of the noise of float32."""
  return layer.excess * activations.NOISE_MARGIN


CASES = (
  # name, library, pixels of the positions, of the images, rule of resizing
  ('DINOv2-S_14', 'timm', 518, 518, 'bicubic_antialias'),
  ('DINOv2-S_14', 'timm', 518, 224, 'bicubic_antialias'),
  ('DINOv2-S_14', 'transformers', 518, 518, 'bicubic'),
  ('DINOv2-S_14', 'transformers', 518, 224, 'bicubic'),
  ('DINOv2-S_14-reg4', 'timm', 518, 224, 'bicubic_antialias'),
  ('DINOv2-S_14-reg4', 'transformers', 518, 224, 'bicubic_antialias'),
  ('DeiT-III-S_16', 'timm', 224, 224, 'bicubic_antialias'),
  ('DeiT-III-S_16', 'timm', 224, 384, 'bicubic_antialias'),
)


def main():
  """Prints a row for each of `CASES`."""
  print('| weights | library | positions | images | layers | block | logits |')
  print('| --- | --- | --- | --- | --- | --- | --- |')
  for name, library, source, size, rule in CASES:
    found = compare(
      name, library, (source,) * 2, (size,) * 2, position_resizing=rule
    )
    assert found.complete, found.not_compared
    blocks = [in_noise(x) for x in found.layers if 'encoderblock' in x.name]
    logits = in_noise(found.layers[-1])
    print(
      f'| {name} | {library} | {source} | {size} | {len(found.layers)} | '
      f'{max(blocks):.2f} | {logits:.2f} |',
      flush=True,
    )


if __name__ == '__main__':
  main()
