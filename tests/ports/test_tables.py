"""Names and layouts, compared with the installed libraries' modules.

The modules load the state dicts strictly. With the same constants, their logits
equal those of this package.
"""

import functools

import jax
import numpy as np
import port_cases
import pytest
import reference
import timm_stub
from port_cases import assert_same, heads

from vit_jax_repro import models, ports, weights
from vit_jax_repro.comparison import activations
from vit_jax_repro.ports import configs
from vit_jax_repro.weights.adapt import parameter_shapes


@pytest.fixture
def tree(tmp_path):
  """Returns a function from a reference case to its canonical tree."""
  return functools.partial(port_cases.tree, folder=tmp_path)


def assert_agree(params, fields, module, images, name=None):
  """Compares our logits with a PyTorch module's, in float64.

  Args:
    images: [B, H, W, 3].
    name: name of the logits if the module has several outputs.
  """
  import torch

  with activations.using_float64():
    model = models.create(fields, dtype=np.float64, param_dtype=np.float64)
    params = jax.tree.map(np.float64, params)
    apply = jax.jit(functools.partial(model.apply, train=False))
    ours = np.asarray(apply({'params': params}, np.float64(images)))
  with torch.no_grad():
    theirs = module.double().eval()(
      torch.from_numpy(np.float64(images.transpose(0, 3, 1, 2)))
    )
  theirs = (theirs if name is None else getattr(theirs, name)).numpy()
  assert np.abs(theirs).max() > 0.1
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def load(module, params, library, **options):
  """Loads the parameters into a module, strictly; returns the module."""
  import torch

  state = ports.to_state_dict(params, library, **options)
  tensors = {n: torch.from_numpy(np.array(a)) for n, a in state.items()}
  module.load_state_dict(tensors, strict=True)
  return module


def randomised(module):
  """Sets every parameter of a module at random; returns its state dict."""
  import torch

  generator = torch.Generator().manual_seed(0)
  state = {
    name: torch.randn(value.shape, generator=generator)
    / max(1, value[0].numel()) ** 0.5
    for name, value in module.state_dict().items()
  }
  module.load_state_dict(state)
  return {name: value.numpy() for name, value in state.items()}


def vit_config(case, **fields):
  """Returns transformers' configuration of a case, with our constants."""
  spec = {**reference.config(case)}
  spec |= spec.get('transformer', {})
  fields = {
    'hidden_act': 'gelu_pytorch_tanh', 'layer_norm_eps': 1e-6, **fields
  }  # fmt: skip
  return dict(
    hidden_size=spec['hidden_size'],
    num_hidden_layers=spec['num_layers'],
    num_attention_heads=spec['num_heads'],
    intermediate_size=spec['mlp_dim'],
    image_size=spec['image_size'],
    patch_size=spec['patch_size'],
    num_labels=spec['num_classes'],
    **fields,
  )


@pytest.mark.parametrize(
  'case', ['vit_token', 'vit_token_small_variance', 'vit_token_rect']
)
def test_transformers_vit_gives_our_logits(case, tree):
  import transformers

  config = transformers.ViTConfig(**vit_config(case))
  module = transformers.ViTForImageClassification(config)
  params = tree(case)
  load(module, params, 'transformers')
  images = reference.images(case)
  assert_agree(params, reference.config(case), module, images, name='logits')


def test_transformers_defaults_give_our_logits(tree):
  """Leaves the GELU and the epsilon out of the configuration."""
  import transformers

  case = 'vit_token_small_variance'
  config = vit_config(case)
  del config['hidden_act'], config['layer_norm_eps']
  module = transformers.ViTForImageClassification(
    transformers.ViTConfig(**config)
  )
  params = ports.from_state_dict(randomised(module), num_heads=3)
  fields = {'gelu': 'erf', 'layer_norm_eps': 1e-12}
  fields = {**reference.config(case), **fields}
  assert_agree(params, fields, module, reference.images(case), name='logits')


def test_transformers_pooler_gives_our_pre_logits(tree):
  import transformers

  case = 'vit_token_prelogits'
  config = transformers.ViTConfig(**vit_config(case), pooler_output_size=40)
  module = transformers.ViTModel(config)
  load(module, tree(case), 'transformers', drop={'head'})
  fields = {**reference.config(case), 'num_classes': None}
  params = ports.from_state_dict(randomised(module), num_heads=4)
  images = reference.images(case)
  assert_agree(params, fields, module, images, name='pooler_output')


def test_transformers_deit_gives_our_logits(tree):
  import transformers

  case = 'deit_distilled_tiny'
  config = transformers.DeiTConfig(**vit_config(case, hidden_act='gelu'))
  module = transformers.DeiTForImageClassificationWithTeacher(config)
  params, fields = tree(case), reference.config(case)
  load(module, params, 'transformers')
  images = reference.images(case)
  assert_agree(params, fields, module, images, name='logits')
  params = ports.from_state_dict(randomised(module), num_heads=3)
  assert_agree(params, fields, module, images, name='logits')
  # Tests each head alone, because the mean does not distinguish them.
  params['head_dist'] = jax.tree.map(np.zeros_like, params['head_dist'])
  load(module.float(), params, 'transformers')
  params['head'] = jax.tree.map(lambda a: 2 * a, params['head'])
  assert_agree(params, fields, module, images, name='cls_logits')


def test_transformers_vit_accepts_a_token_without_position(tree):
  import transformers

  case = 'bv_tok_learn'
  params = tree(case)
  fields = weights.describe(params)
  config = transformers.ViTConfig(
    hidden_size=48, num_hidden_layers=3, num_attention_heads=3,
    intermediate_size=96, image_size=32, patch_size=8, num_labels=10,
    hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-6,
  )  # fmt: skip
  module = transformers.ViTForImageClassification(config)
  load(module, params, 'transformers')
  assert_agree(params, fields, module, reference.images(case), name='logits')


def assert_small_bit_agrees(module, library, name=None):
  """Compares a BiT of two stages; the case of four takes long."""
  state = randomised(module)
  params = ports.from_state_dict(state)
  assert_same(ports.to_state_dict(params, library), state)
  fields = {**weights.describe(params), **configs.BIT_FIELDS}
  images = reference.images('bit_tiny_1_1_1_1', 'a')[:, :32, :32]
  assert_agree(params, fields, module, images, name)


def test_transformers_bit_gives_our_logits():
  import transformers

  config = transformers.BitConfig(
    embedding_size=32,
    hidden_sizes=[128, 256],
    depths=[2, 1],
    layer_type='preactivation',
    num_labels=10,
  )
  module = transformers.BitForImageClassification(config)
  assert_small_bit_agrees(module, 'transformers', 'logits')
  state = randomised(module.bit.float())
  params = ports.from_state_dict(state)
  assert 'head' not in params
  assert_same(ports.to_state_dict(params, 'transformers'), state)


TIMM_VITS = {
  'vit_token': {},
  'vit_token_rect': {},
  'vit_gap': {'class_token': False, 'global_pool': 'avg', 'fc_norm': False},
  'bv_map_learn': {'class_token': False, 'global_pool': 'map'},
  'bv_tok_learn': {'no_embed_class': True},
}


def timm_vit(case, **arguments):
  """Returns timm's module for a reference case."""
  timm_stub.import_timm()
  from timm.models import deit, vision_transformer

  spec = {**models.create(reference.config(case)).__dict__}
  cls = vision_transformer.VisionTransformer
  if spec['distilled']:
    cls = deit.VisionTransformerDistilled
  return cls(
    img_size=reference.config(case)['image_size'],
    patch_size=spec['patch_size'],
    embed_dim=spec['hidden_size'],
    depth=spec['num_layers'],
    num_heads=spec['num_heads'],
    mlp_ratio=spec['mlp_dim'] / spec['hidden_size'],
    num_classes=10,
    act_layer={'tanh': 'gelu_tanh', 'erf': 'gelu'}[spec['gelu']],
    **arguments,
  )


@pytest.mark.parametrize('case', TIMM_VITS)
def test_timm_vit_gives_our_logits(case, tree):
  module = timm_vit(case, **TIMM_VITS[case])
  params, images = tree(case), reference.images(case)
  load(module, params, 'timm')
  assert_agree(params, weights.describe(params), module, images)


@pytest.mark.parametrize('case', ['deit_tiny', 'deit_distilled_tiny'])
def test_timm_deit_gives_our_logits(case, tree):
  module = timm_vit(case)
  params, fields = tree(case), reference.config(case)
  load(module, params, 'deit')
  images = reference.images(case)
  assert_agree(params, fields, module, images)
  params = ports.from_state_dict(randomised(module), num_heads=heads(case))
  assert_agree(params, fields, module, images)


@pytest.mark.parametrize(
  'name, theirs, size',
  [
    ('DeiT-Ti_16', 'deit_tiny_patch16_224', 384),
    ('DeiT-Ti_16-distilled', 'deit_tiny_distilled_patch16_224', 224),
  ],
)
def test_deit_models_fit_the_timm_models_of_their_names(name, theirs, size):
  timm = timm_stub.import_timm()
  module = timm.create_model(theirs, img_size=size)
  shapes = parameter_shapes(models.create(name), (size, size))
  flat = {n: np.zeros(leaf.shape, np.float32) for n, leaf in shapes.items()}
  load(module, flat, 'deit')


def timm_hybrid(case):
  """Returns timm's backbone and patches, combined as in its own hybrids."""
  timm_stub.import_timm()
  from timm.layers import HybridEmbed
  from timm.models import vision_transformer_hybrid

  layers = reference.config(case)['resnet']['num_layers']
  backbone = vision_transformer_hybrid._resnetv2(layers)
  embed = functools.partial(HybridEmbed, backbone=backbone)
  return timm_vit(case, embed_layer=embed)


@pytest.mark.parametrize('case', ['hybrid_stem_only', 'hybrid_2_2'])
def test_timm_hybrid_gives_our_logits(case, tree):
  module = timm_hybrid(case)
  params = tree(case)
  load(module, params, 'timm')
  fields = {**reference.config(case), **configs.HYBRID_FIELDS}
  assert_agree(params, fields, module, reference.images(case))


def test_timm_mixer_gives_our_logits(tree):
  timm_stub.import_timm()
  from timm.models import mlp_mixer

  module = mlp_mixer.MlpMixer(
    img_size=32, patch_size=8, num_blocks=2, embed_dim=48,
    mlp_ratio=(0.5, 2.0), num_classes=10,
  )  # fmt: skip
  params = tree('mixer')
  load(module, params, 'timm')
  fields = {**reference.config('mixer'), 'gelu': 'erf'}
  assert_agree(params, fields, module, reference.images('mixer'))


def timm_bit(layers=(1, 1, 1, 1)):
  """Returns timm's BiT, with half the width of its registered ones."""
  timm_stub.import_timm()
  from timm.layers import StdConv2d
  from timm.models import resnetv2

  return resnetv2.ResNetV2(
    layers,
    channels=(128, 256, 512, 1024)[: len(layers)],
    stem_chs=32,
    stem_type='fixed',
    conv_layer=functools.partial(StdConv2d, eps=1e-8),
    num_classes=10,
  )


def test_timm_bit_gives_our_logits():
  assert_small_bit_agrees(timm_bit((2, 1)), 'timm')


@pytest.mark.parametrize(
  'case', ['vit_token', 'vit_gap', 'bv_map_learn', 'hybrid_1_1_1',
           'hybrid_stem_only', 'bit_tiny_1_1_1_1']
)  # fmt: skip
def test_timm_reads_our_npz_to_the_same_weights(case, tree, tmp_path):
  """timm's own .npz reader gives the same parameters as `ports`."""
  module = {
    'bit_tiny_1_1_1_1': timm_bit,
    'hybrid_1_1_1': lambda: timm_hybrid(case),
    'hybrid_stem_only': lambda: timm_hybrid(case),
  }.get(case, lambda: timm_vit(case, **TIMM_VITS[case]))()
  params = tree(case)
  weights.save(tmp_path / 'out.npz', params)
  module.load_pretrained(str(tmp_path / 'out.npz'))
  read = {name: value.numpy() for name, value in module.state_dict().items()}
  assert_same(read, ports.to_state_dict(params, 'timm'))
