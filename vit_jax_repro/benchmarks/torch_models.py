"""The same update or forward pass in PyTorch, by timm or transformers.

Both libraries' models as they are shipped; where their constants differ from
the authors', that costs nothing. Images are random and lie on the device.
"""

import importlib
import importlib.util
from collections.abc import Callable

from vit_jax_repro.analysis import cost
from vit_jax_repro.benchmarks import programs
from vit_jax_repro.errors import InputError
from vit_jax_repro.ports import configs, folders

LIBRARIES = ('timm', 'transformers')
INSTALL = "pip install -e '.[torch]'"
# Our names: timm's, whose ViTs are made for the wanted image size.
TIMM = {
  'ViT-Ti_16': 'vit_tiny_patch16_224',
  'ViT-S_32': 'vit_small_patch32_224',
  'ViT-S_16': 'vit_small_patch16_224',
  'ViT-B_32': 'vit_base_patch32_224',
  'ViT-B_16': 'vit_base_patch16_224',
  'ViT-L_32': 'vit_large_patch32_224',
  'ViT-L_16': 'vit_large_patch16_224',
  'ViT-H_14': 'vit_huge_patch14_224',
  'R50+ViT-B_16': 'vit_base_r50_s16_224',
  'DeiT-Ti_16': 'deit_tiny_patch16_224',
  'DeiT-S_16': 'deit_small_patch16_224',
  'DeiT-B_16': 'deit_base_patch16_224',
  'Mixer-S_16': 'mixer_s16_224',
  'Mixer-S_32': 'mixer_s32_224',
  'Mixer-B_16': 'mixer_b16_224',
  'Mixer-B_32': 'mixer_b32_224',
  'Mixer-L_16': 'mixer_l16_224',
  'Mixer-L_32': 'mixer_l32_224',
  'BiT-M-R50x1': 'resnetv2_50x1_bit',
  'BiT-M-R50x3': 'resnetv2_50x3_bit',
  'BiT-M-R101x1': 'resnetv2_101x1_bit',
  'BiT-M-R101x3': 'resnetv2_101x3_bit',
  'BiT-M-R152x2': 'resnetv2_152x2_bit',
  'BiT-M-R152x4': 'resnetv2_152x4_bit',
}


def pick_library(against: str, model: str) -> str:
  """'torch' stands for timm where it is there and has the model.

  Raises:
    InputError: no such library, or it is not installed, or has no such model.
  """
  if against != 'torch' and against not in LIBRARIES:
    raise InputError(
      f'unknown --against={against}; choose torch, timm or transformers'
    )
  for name in ('torch',) if against == 'torch' else ('torch', against):
    if importlib.util.find_spec(name) is None:
      raise InputError(f'--against={against} needs {name}: {INSTALL}')
  # timm does not import without torchvision.
  there = [
    name
    for name, needs in (('timm', ('timm', 'torchvision')),
                        ('transformers', ('transformers',)))
    if all(importlib.util.find_spec(each) for each in needs)
  ]  # fmt: skip
  if against == 'torch':
    for name in there:
      if _has(name, model):
        return name
    raise InputError(
      f'--against=torch: of the libraries here ({", ".join(there) or "none"}) '
      f'none has {model}; timm has {", ".join(TIMM)}'
    )
  if against not in there:
    raise InputError(f'--against={against} needs torchvision too: {INSTALL}')
  if not _has(against, model):
    raise InputError(
      f'{against} has no {model}; timm has {", ".join(TIMM)}, transformers '
      'those of ViT, DeiT and BiT'
    )
  return against


def run(
  case: programs.Case, library: str, compiled: bool
) -> Callable[[int], None]:
  """As `programs.run`, in PyTorch, on the GPU if it sees one.

  bfloat16 is autocast in training, as ours keeps float32 parameters, and a
  model of bfloat16 in inference; float32 products are TensorFloat-32 where the
  card has it, as JAX's are.
  """
  torch = importlib.import_module('torch')
  torch.set_float32_matmul_precision('high')
  torch.backends.cudnn.benchmark = True
  torch.backends.cudnn.allow_tf32 = True
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  module = create(library, case).to(device)
  once = step(torch, module, case, compiled=compiled, device=device)

  def make_steps(number):
    for _ in range(number):
      once()
    if device == 'cuda':
      torch.cuda.synchronize()

  for _ in range(3):  # compiles, and tries out cuDNN's algorithms
    make_steps(1)
  return make_steps


def device_kind() -> str:
  """The name of the GPU, as JAX has it too, or 'cpu'."""
  torch = importlib.import_module('torch')
  return torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'


def peak_memory() -> int | None:
  """The most bytes that were allocated on the GPU; None without one."""
  torch = importlib.import_module('torch')
  if not torch.cuda.is_available():
    return None
  return torch.cuda.max_memory_allocated()


def create(library: str, case: programs.Case):
  """The nn.Module of a case, with random weights."""
  if library == 'timm':
    timm = importlib.import_module('timm')
    options = {}
    if case.model.startswith(('ViT', 'DeiT', 'R', 'Mixer')):
      options['img_size'] = case.image_size
    return timm.create_model(
      TIMM[case.model], num_classes=programs.NUM_CLASSES, **options
    )
  transformers = importlib.import_module('transformers')
  config = _transformers_config(case)
  architecture = getattr(transformers, config.pop('architectures')[0])
  kind = config.pop('model_type')
  return architecture(transformers.AutoConfig.for_model(kind, **config))


def _transformers_config(case):
  model = programs.create_model(case)
  shapes = cost.shapes(model, case.image_size)
  if type(model).__name__ == 'BiT':  # that is all transformers' BiT can be
    model = model.clone(pool_padding='zeros', group_norm_eps=1e-5)
  files, _ = folders.files(
    'transformers',
    model,
    shapes['params'],
    image_size=case.image_size,
    class_names=None,
    preprocessing='vit_jax',
  )
  return files[configs.CONFIG]


def _has(library, model):
  if library == 'timm':
    return model in TIMM
  return model.startswith(('ViT-', 'DeiT-', 'BiT-'))


def step(torch, module, case: programs.Case, *, compiled: bool, device: str):
  """() -> None: an update of a module, or a forward pass, on random images."""
  images = torch.randn(case.batch_size, 3, *case.image_size, device=device)
  if case.model.startswith(('BiT', 'R')):
    module = module.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
  if case.kind == 'infer':
    return _infer(torch, module, images, case, compiled)
  return _train(torch, module, images, case, compiled, device)


def _train(torch, module, images, case, compiled, device):
  functional = torch.nn.functional
  labels = torch.randint(programs.NUM_CLASSES, (case.batch_size,))
  labels = labels.to(device)
  optimizer = torch.optim.AdamW(
    module.parameters(),
    lr=programs.LEARNING_RATE,
    weight_decay=programs.WEIGHT_DECAY,
    fused=device == 'cuda',
  )
  module.train()
  forward = torch.compile(module) if compiled else module
  reduced = case.dtype == 'bfloat16'

  def update():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16, enabled=reduced):
      logits = _logits(forward(images))
      loss = functional.cross_entropy(logits, labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), programs.CLIP)
    optimizer.step()

  return update


def _infer(torch, module, images, case, compiled):
  module.eval()
  if case.dtype == 'bfloat16':
    module, images = module.to(torch.bfloat16), images.to(torch.bfloat16)
  forward = torch.compile(module) if compiled else module

  def pass_forward():
    with torch.inference_mode():
      forward(images)

  return pass_forward


def _logits(answer):
  """Of timm a tensor or, from two heads, a pair; of transformers an output."""
  answer = getattr(answer, 'logits', answer)
  return sum(answer) / 2 if isinstance(answer, tuple) else answer
