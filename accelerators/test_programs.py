"""Checks the programs that XLA compiles for TPUs and NVIDIA cards.

`make accelerators` runs these tests. They need libtpu, JAX's CUDA plugin and
cuDNN, but no accelerator. `make accelerators ALL=1` compiles every model in
full size for every target.
"""

import dataclasses
import importlib.util
import itertools
import os
import pathlib
import sys

import pytest

from vit_jax_repro.parallel import targets
from vit_jax_repro.runs import dry_run

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'
ALL = bool(os.environ.get('ALL'))
TARGETS = ('v4:2x2x2', 'v5e:2x4', 'v6e:2x4', 'h100', 'h100:1x8', 'a100')
# 20 images for each of eight devices. No dimension of a model has this size.
BATCH = 160
# Side of an image in pixels. Programs for smaller images compile faster.
SIDE = 224 if ALL else 128

# Changes of `configs/vit.py:MODEL` or `configs/bit.py:MODEL` that make a model
# shallow. This is enough, because all its blocks compile to the same program.
SHORT = {'transformer.num_layers': 2}
FAMILIES = {
  'ViT-B_16': SHORT,
  'ViT-L_16': SHORT | {'scan': True, 'remat': True},
  'Mixer-B_16': {'num_blocks': 2},
  'DeiT-B_16-distilled': SHORT,
  'ViT-B_16 map': SHORT | {'classifier': 'map'},
  'R50+ViT-B_16': {
    'transformer.num_layers': 2,
    'resnet.num_layers': (1, 1, 1),
  },
  'BiT-M-R50x1': {'block_units': (1, 1, 1, 1)},
}
WITHOUT_ATTENTION = ('Mixer-B_16', 'BiT-M-R50x1')


@dataclasses.dataclass(frozen=True)
class Case:
  """Describes one run to compile."""

  family: str
  target: str
  dtype: str = 'bfloat16'
  fsdp: int = 1
  model: int = 1
  evaluation: bool = False

  def __str__(self):
    parts = [self.family, self.target, self.dtype]
    parts += [f'fsdp={self.fsdp}'] if self.fsdp > 1 else []
    parts += [f'model={self.model}'] if self.model > 1 else []
    return ' '.join(parts)


CROSS_SECTION = (
  # The slowest goes first, so that it does not end alone.
  Case('R50+ViT-B_16', 'v5e:2x4'),
  Case('R50+ViT-B_16', 'h100'),
  Case('ViT-B_16', 'v4:2x2x2'),
  Case('ViT-B_16', 'v5e:2x4', evaluation=True),
  Case('ViT-B_16', 'v6e:2x4'),
  Case('ViT-B_16', 'h100', evaluation=True),
  Case('ViT-B_16', 'h100:1x8', evaluation=True),
  Case('ViT-B_16', 'a100'),
  Case('ViT-B_16', 'v5e:2x4', 'float32'),
  Case('ViT-B_16', 'h100', 'float32'),
  *(
    Case(family, target, evaluation=(family, target) in (
      ('Mixer-B_16', 'h100'),
      ('DeiT-B_16-distilled', 'v5e:2x4'),
      ('BiT-M-R50x1', 'v5e:2x4'),
    ))
    for family, target in itertools.product(
      tuple(FAMILIES)[1:], ('v5e:2x4', 'h100')
    )
    if family != 'R50+ViT-B_16'
  ),
  Case('ViT-L_16', 'v4:2x2x2', fsdp=8),
  Case('ViT-L_16', 'h100:1x8', fsdp=8),
)  # fmt: skip
MATRIX = (
  Case('ViT-B_16', 'v5e:2x4', fsdp=2, model=2, evaluation=True),
  *(
    Case(family, target, dtype, fsdp=fsdp, evaluation=True)
    for family, target, dtype, fsdp in itertools.product(
      FAMILIES, TARGETS, ('bfloat16', 'float32'), (1, 8)
    )
    if fsdp == 1 or targets.parse(target).num_devices == fsdp
  ),
)


def configuration(case):
  """Returns the configuration of a case, as `main --config=...` reads it."""
  name, _, classifier = case.family.partition(' ')
  file = 'bit' if name.startswith('BiT') else 'vit'
  spec = importlib.util.spec_from_file_location(file, CONFIGS / f'{file}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(f'{name},cifar10')
  fields = FAMILIES[case.family]
  if ALL:
    fields = {'classifier': classifier} if classifier else {}
  if case.fsdp > 1:
    fields = fields | {'scan': True, 'remat': True}
  shapes = {'dtype': case.dtype} | {
    key: value for key, value in fields.items() if _has(config.model, key)
  }
  config.update_from_flattened_dict(
    {f'model.{key}': value for key, value in shapes.items()}
    | {
      'batch': BATCH,
      'batch_eval': BATCH,
      'accum_steps': 1,
      'pp.crop': SIDE,
      'pp.resize': SIDE,
      'mesh.fsdp': case.fsdp,
      'mesh.model': case.model,
    }
  )
  return config


def _has(section, key):
  first, _, rest = key.partition('.')
  return first in section and (not rest or rest in section[first])


def say(line):
  print(line, file=sys.stderr, flush=True)


@pytest.mark.parametrize('case', MATRIX if ALL else CROSS_SECTION, ids=str)
def test_dry_run_compiles_for_every_target(case):
  target = targets.parse(case.target)
  config = configuration(case)
  found = dry_run.create(config, target, evaluation=case.evaluation, show=say)
  number = target.num_devices
  assert found.fits, found.remedy
  assert found.needed < target.chip.usable()
  check_attention(case, config, found)
  for program in filter(None, (found.update, found.evaluation)):
    assert program.gathered == program.undivided == ()
  # The new state overwrites the old one in memory.
  memory = found.update.memory
  assert memory.outputs < 0.01 * memory.arguments
  check_sums(found, number)
  if case.dtype == 'bfloat16':
    head = 1e-3  # share of the head in all products, with ten classes
    assert found.update.wide_products < head


def check_attention(case, config, found):
  """Checks that NVIDIA cards use cuDNN's kernel in 16 bits, and others none.

  It is expected in the forward and the backward pass.
  """
  on_card = not targets.parse(case.target).chip.is_tpu
  expected = on_card and case.dtype == 'bfloat16'
  if not expected or case.family in WITHOUT_ATTENTION:
    assert found.attention in (None, 'plain')
    assert found.update.attention_kernels == (0, 0)
    return
  assert found.attention == 'cudnn'
  layers = config.model.transformer.num_layers
  layers += config.model.classifier == 'map'
  again = layers if config.model.remat else 0
  assert found.update.attention_kernels == (layers + again, layers)
  if found.evaluation is not None:
    assert found.evaluation.attention_kernels == (layers, 0)


def check_sums(found, number):
  """Checks that devices sum gradients, and in float32.

  Activations divided over the axis `model` are summed within a layer, in the
  layer's dtype; these sums are not checked.
  """
  sums = [
    each
    for each in found.update.exchanges
    if each.kind in ('all-reduce', 'reduce-scatter') and each.axes != 'model'
  ]
  if number == 1:
    assert not found.update.exchanges
    return
  assert sum(each.bytes for each in sums) > 3.5 * found.parameters * (
    1 if found.mesh['fsdp'] == 1 else 0
  )
  assert {each.dtype for each in sums} == {'f32'}
