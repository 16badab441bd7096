"""The update and the forward pass in PyTorch, with timm or transformers.

The libraries' models are used as shipped. Their constants differ from the
authors' in places, which does not affect the speed. Images are random and lie
on the device.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from vit_jax_repro.analysis import cost
from vit_jax_repro.benchmarks import programs
from vit_jax_repro.errors import InputError
from vit_jax_repro.ports import configs, folders

LIBRARIES = ('timm', 'transformers')
INSTALL = "pip install -e '.[torch]'"
# This package's names and timm's. timm's ViTs are created for the image size of
# the case.
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
  """Returns the PyTorch library to compare with.

  Args:
    against: a library, or 'torch' for the first of timm and transformers that
      is installed and has the model.
    model: name of the model.

  Raises:
    InputError: the library is unknown, is not installed, or does not have the
      model.
  """
  if against != 'torch' and against not in LIBRARIES:
    raise InputError(
      f'unknown --against={against}; choose torch, timm or transformers'
    )
  for name in ('torch',) if against == 'torch' else ('torch', against):
    if importlib.util.find_spec(name) is None:
      raise InputError(f'--against={against} needs {name}: {INSTALL}')
  # timm does not import without torchvision.
  installed = [
    name
    for name, needs in (('timm', ('timm', 'torchvision')),
                        ('transformers', ('transformers',)))
    if all(importlib.util.find_spec(each) for each in needs)
  ]  # fmt: skip
  if against == 'torch':
    for name in installed:
      if _has(name, model):
        return name
    raise InputError(
      '--against=torch: of the installed libraries '
      f'({", ".join(installed) or "none"}) none has {model}; timm has '
      f'{", ".join(TIMM)}'
    )
  if against not in installed:
    raise InputError(f'--against={against} needs torchvision too: {INSTALL}')
  if not _has(against, model):
    raise InputError(
      f'{against} has no {model}; timm has {", ".join(TIMM)}; transformers '
      'has the ViT, DeiT and BiT models'
    )
  return against


def run(
  case: programs.Case, library: str, compiled: bool
) -> Callable[[int], None]:
  """Returns a function that runs PyTorch steps and waits for them.

  It is the counterpart of `programs.run` and uses the GPU if PyTorch finds one.
  In training, bfloat16 means autocast with float32 parameters, as in this
  package. In inference, it means a bfloat16 model. Products of float32 numbers
  use TensorFloat-32 if the card supports it, as in JAX.

  Args:
    case: the program.
    library: 'timm' or 'transformers'.
    compiled: whether to use torch.compile.
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

  for _ in range(3):  # compiles, and lets cuDNN choose its algorithms
    make_steps(1)
  return make_steps


def device_kind() -> str:
  """Returns the name of the GPU, which is also JAX's name for it, or 'cpu'."""
  torch = importlib.import_module('torch')
  return torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'


def peak_memory() -> int | None:
  """Returns the peak of bytes allocated on the GPU; None without a GPU."""
  torch = importlib.import_module('torch')
  if not torch.cuda.is_available():
    return None
  return torch.cuda.max_memory_allocated()


def create(library: str, case: programs.Case) -> Any:
  """Returns the torch.nn.Module of a case, with random weights."""
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
  if type(model).__name__ == 'BiT':
    # transformers' BiT supports no other padding and epsilon.
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


def step(
  torch: Any, module: Any, case: programs.Case, *, compiled: bool, device: str
) -> Callable[[], None]:
  """Returns an update of a module, or a forward pass, on random images.

  Args:
    torch: the module of that name.
    module: a torch.nn.Module on the device.
    case: the program.
    compiled: whether to use torch.compile.
    device: 'cuda' or 'cpu'.
  """
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
  """Returns the logits of a module's output.

  timm's modules return a tensor or, with two heads, a pair. transformers'
  modules return an object.
  """
  answer = getattr(answer, 'logits', answer)
  return sum(answer) / 2 if isinstance(answer, tuple) else answer
