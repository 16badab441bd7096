"""LayerScale, registers, pooling and heads of ports, with their own modules.

Each library's module has random values. Its state dict, or the folder that the
library writes, is read, and the logits of both are compared in float64. What is
written for a library is loaded by it.
"""

import jax
import numpy as np
import port_cases
import pytest
import timm_stub

from vit_jax_repro import models, ports, weights
from vit_jax_repro.comparison import activations
from vit_jax_repro.errors import InputError
from vit_jax_repro.models.layers import INTERMEDIATES
from vit_jax_repro.ports import converting, state_dicts, weight_sources
from vit_jax_repro.weights import trees
from vit_jax_repro.weights.adapt import parameter_shapes

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

SIZE, WIDTH, LAYERS, HEADS, CLASSES = 12, 16, 2, 2, 3
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 3))
TIMM = {
  'DeiT III': dict(init_values=1e-5, no_embed_class=True),
  'DINOv2': dict(init_values=1e-5, num_classes=0),
  'DINOv2, registers': dict(
    init_values=1e-5, reg_tokens=4, no_embed_class=True
  ),
  'mean': dict(global_pool='avg'),
  'mean of normed patches': dict(global_pool='avg', fc_norm=False),
  'token after the norm': dict(fc_norm=True),
  'mean, no token': dict(global_pool='avg', class_token=False),
  'mean, registers, no token': dict(
    global_pool='avg', class_token=False, reg_tokens=4, no_embed_class=True
  ),
  'SigLIP': dict(global_pool='map', class_token=False, act_layer='gelu_tanh'),
}
NO_HEAD = {'num_classes': 0}
TRANSFORMERS = (
  'DeiTModel', 'DeiTForImageClassification', 'Dinov2Model',
  'Dinov2ForImageClassification', 'Dinov2WithRegistersModel',
  'Dinov2WithRegistersForImageClassification',
)  # fmt: skip


def randomised(module):
  """Returns a module whose values are far from 0, LayerScales from 1 too."""
  draw = torch.Generator().manual_seed(1)
  with torch.no_grad():
    for name, value in module.named_parameters():
      start, scale = (0.1, 2) if value.ndim == 1 else (-0.5, 1)
      if value.ndim == 1 and name.endswith('bias'):
        start, scale = -0.5, 1
      random = torch.rand(value.shape, generator=draw)
      value.copy_(start + scale * random)
  return module.eval()


def timm_module(**arguments):
  arguments = dict(num_classes=CLASSES) | arguments
  return timm_stub.import_timm().create_model(
    'vit_base_patch16_224', img_size=SIZE, patch_size=4, embed_dim=WIDTH,
    depth=LAYERS, num_heads=HEADS, mlp_ratio=2, **arguments,
  )  # fmt: skip


def transformers_module(name):
  cls = getattr(transformers, name)
  fields = dict(
    hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    image_size=SIZE, patch_size=4, num_labels=CLASSES,
  )  # fmt: skip
  if name.startswith('DeiT'):
    fields |= dict(intermediate_size=2 * WIDTH, layer_norm_eps=1e-6)
  else:
    fields['mlp_ratio'] = 2
  if name == 'DeiTModel':
    return cls(cls.config_class(**fields), add_pooling_layer=False)
  return cls(cls.config_class(**fields))


def save(module, folder, cfg=None):
  """Writes a folder as the module's library does."""
  if isinstance(module, transformers.PreTrainedModel):
    module.save_pretrained(folder)
    return folder
  timm_stub.import_timm()
  from timm.models import _hub

  _hub.save_for_hf(module, folder, model_args=cfg)
  return folder


def ours(source, dtype=np.float64):
  """Returns our output and the outputs of blocks, and the module."""
  fields = source.card.architecture
  model = models.create(fields, dtype=dtype, param_dtype=dtype)
  params = jax.tree.map(dtype, source.params)
  apply = jax.jit(
    lambda p, x: model.apply({'params': p}, x, mutable=[INTERMEDIATES])
  )
  out, state = apply(params, dtype(IMAGES))
  named = state[INTERMEDIATES]
  if model.num_classes is None:
    out = named['Transformer/encoder_norm'][0]
  blocks = [
    np.asarray(named[f'Transformer/encoderblock_{i}'][0]) for i in range(LAYERS)
  ]
  return np.asarray(out), blocks


def theirs(module, dtype=torch.float64):
  """Returns the library's output and those of its blocks."""
  named = dict(module.named_modules())
  lists = ('blocks', 'layers', 'encoder.layer')
  (blocks,) = (
    part
    for name, part in named.items()
    if name.endswith(lists) and isinstance(part, torch.nn.Module)
    and len(list(part.children())) == LAYERS
  )  # fmt: skip
  kept = []
  hooks = [
    block.register_forward_hook(
      lambda m, a, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    for block in blocks.children()
  ]
  images = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)).to(dtype)
  with torch.no_grad():
    out = module.to(dtype)(images)
  for hook in hooks:
    hook.remove()
  if hasattr(out, 'logits'):
    out = out.logits
  elif hasattr(out, 'last_hidden_state'):
    out = out.last_hidden_state
  elif not getattr(module, 'num_classes', 1):
    with torch.no_grad():
      out = module.forward_features(images)
  return out.double().numpy(), [value.double().numpy() for value in kept]


def assert_agree(source, module):
  with activations.using_float64():
    mine = ours(source)
    out, blocks = theirs(module)
    assert np.abs(out).max() > 0.1
    np.testing.assert_allclose(mine[0], out, rtol=0, atol=1e-9)
    for one, other in zip(mine[1], blocks, strict=True):
      np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize('name', TIMM)
def test_timm_folders_are_read_and_written(name, tmp_path):
  module = randomised(timm_module(**TIMM[name]))
  folder = save(module, tmp_path / 'timm', cfg=timm_arguments(name))
  source = weight_sources.read(str(folder))
  assert_agree(source, module)
  converting.convert(folder, tmp_path / 'ours.npz')
  converting.convert(tmp_path / 'ours.npz', tmp_path / 'back', to='timm')
  port_cases.assert_same(
    state_dicts.read(tmp_path / 'back'), state_dicts.read(folder)
  )
  again = timm_stub.import_timm().create_model(
    f'local-dir:{tmp_path / "back"}', pretrained=True
  )
  assert_agree(source, again.eval())


def timm_arguments(name):
  return dict(
    img_size=SIZE, patch_size=4, embed_dim=WIDTH, depth=LAYERS,
    num_heads=HEADS, mlp_ratio=2, **{
      k: v for k, v in TIMM[name].items() if k != 'num_classes'
    },
  )  # fmt: skip


@pytest.mark.parametrize('name', TRANSFORMERS)
@pytest.mark.parametrize('library', ['transformers', 'transformers_v4'])
def test_transformers_folders_are_read_and_written(name, library, tmp_path):
  module = randomised(transformers_module(name))
  folder = save(module, tmp_path / 'theirs')
  source = weight_sources.read(str(folder))
  assert_agree(source, module)
  converting.convert(folder, tmp_path / 'ours.npz')
  converting.convert(tmp_path / 'ours.npz', tmp_path / 'back', to=library)
  options = {'add_pooling_layer': False} if name == 'DeiTModel' else {}
  again, loading = getattr(transformers, name).from_pretrained(
    tmp_path / 'back', output_loading_info=True, **options
  )
  assert not any(loading.values())
  for key, value in module.float().state_dict().items():
    assert torch.equal(value, again.state_dict()[key]), key
  assert_agree(source, again)


@pytest.mark.parametrize('library', ['dinov2', 'transformers'])
def test_dinov2_round_trips_between_libraries(library, tmp_path):
  name = 'Dinov2WithRegistersForImageClassification'
  state = randomised(transformers_module(name)).state_dict()
  state = {key: value.numpy() for key, value in state.items()}
  tree = ports.from_state_dict(state, num_heads=HEADS)
  assert {'mask', 'registers', 'cls', 'head'} < tree.keys()
  written = ports.to_state_dict(tree, library)
  assert ports.library_of(written) == library
  port_cases.assert_same(ports.from_state_dict(written, num_heads=HEADS), tree)
  features = ports.to_state_dict(tree, library, drop=['head'])
  assert ports.library_of(features) == library
  with pytest.raises(InputError, match='use --drop=head'):
    ports.to_state_dict(tree, 'timm')
  with pytest.raises(InputError, match=r'no logits.; use --drop=mask, or'):
    ports.to_state_dict(tree, 'timm', drop=['head'])
  assert ports.to_state_dict(tree, 'timm', drop=['head', 'mask'])


def dinov2_state(registers=0):
  """Returns a state dict with the names of facebookresearch/dinov2."""
  kind = 'Dinov2WithRegistersModel' if registers else 'Dinov2Model'
  state = randomised(transformers_module(kind)).state_dict()
  tree = ports.from_state_dict(
    {key: value.numpy() for key, value in state.items()}, num_heads=HEADS
  )
  return ports.to_state_dict(tree, 'dinov2'), tree


@pytest.mark.parametrize('registers', [0, 4])
def test_dinov2_names_are_those_of_its_authors(registers):
  state, tree = dinov2_state(registers)
  assert state['mask_token'].shape == (1, WIDTH)
  assert state['pos_embed'].shape == (1, 10, WIDTH)
  assert ('register_tokens' in state) == bool(registers)
  assert state['blocks.1.ls2.gamma'].shape == (WIDTH,)
  chunked = {
    key.replace('blocks.0.', 'blocks.0.0.').replace('blocks.1.', 'blocks.1.1.'):
    value for key, value in state.items()
  }  # fmt: skip
  for names in (state, chunked):
    back = ports.from_state_dict(names, num_heads=HEADS)
    port_cases.assert_same(back, tree)


def test_positions_of_registers_are_added_to_them(tmp_path, capsys):
  """No released model of timm has them."""
  arguments = dict(init_values=1e-5, reg_tokens=4)
  module = randomised(timm_module(**arguments))
  folder = save(
    module, tmp_path / 'timm', cfg=timm_arguments('DeiT III') | arguments
    | {'no_embed_class': False},
  )  # fmt: skip
  source = weight_sources.read(str(folder))
  assert 'positions of the registers were added' in capsys.readouterr().err
  assert_agree(source, module)
  state = {n: a.float().numpy() for n, a in module.state_dict().items()}
  tree = ports.from_state_dict(state, num_heads=HEADS)
  port_cases.assert_same(tree, source.params)
  state = ports.to_state_dict(tree, 'timm')
  assert not state['pos_embed'][:, 1:5].any()
  assert_agree(source, load(timm_module(**arguments), state))


def load(module, state):
  tensors = {n: torch.from_numpy(np.array(a)) for n, a in state.items()}
  module.load_state_dict(tensors, strict=True)
  return module.eval()


@pytest.mark.parametrize(
  'arguments, reason',
  [
    (dict(pre_norm=True), r'a norm before the first block \(CLIP\)'),
    (dict(qk_norm=True), r'norms of queries and keys \(qk_norm\)'),
    (dict(qkv_bias=False), r'no biases of queries, .* \(qkv_bias=False\)'),
    (dict(final_norm=False), r'one norm after its blocks, .* this model has 0'),
  ],
)
def test_other_layers_are_named(arguments, reason):
  state = timm_module(**arguments).state_dict()
  with pytest.raises(InputError, match=reason):
    ports.from_state_dict(
      {n: a.numpy() for n, a in state.items()}, num_heads=HEADS
    )


@pytest.mark.parametrize('name', ['Dinov2', 'Dinov2WithRegisters'])
def test_a_gated_mlp_is_named(name, tmp_path):
  cls = getattr(transformers, f'{name}Model')
  config = cls.config_class(
    hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS,
    image_size=SIZE, patch_size=4, use_swiglu_ffn=True,
  )  # fmt: skip
  module = cls(config)
  with pytest.raises(InputError, match='has a SwiGLU MLP'):
    ports.from_state_dict(
      {n: a.numpy() for n, a in module.state_dict().items()}
    )
  module.save_pretrained(tmp_path)
  with pytest.raises(InputError, match='use_swiglu_ffn is True'):
    weight_sources.read(str(tmp_path))


def test_a_mean_that_arrays_do_not_show_is_refused(tmp_path):
  module = randomised(timm_module(**TIMM['mean of normed patches']))
  folder = save(
    module, tmp_path / 'a', cfg=timm_arguments('mean of normed patches')
  )
  with pytest.raises(InputError, match=r'by the mean of .*; use --drop=head'):
    converting.convert(folder, tmp_path / 'b', to='transformers')
  assert not (tmp_path / 'b').exists()


def test_a_gated_mlp_of_timm_is_named():
  timm_stub.import_timm()
  from timm.layers import SwiGLUPacked

  state = timm_module(mlp_layer=SwiGLUPacked).state_dict()
  with pytest.raises(
    InputError, match=r'32 outputs .* 16 inputs: a SwiGLU MLP'
  ):
    ports.from_state_dict(
      {n: a.numpy() for n, a in state.items()}, num_heads=HEADS
    )


def test_the_names_of_deit_iii_are_read_and_written():
  module = randomised(timm_module(**TIMM['DeiT III']))
  state = {n: a.numpy() for n, a in module.state_dict().items()}
  params = ports.from_state_dict(state, num_heads=HEADS)
  for number in (1, 2):
    state = {
      n.replace(f'ls{number}.gamma', f'gamma_{number}'): a
      for n, a in state.items()
    }
  assert ports.library_of(state) == 'deit'
  port_cases.assert_same(ports.to_state_dict(params, 'deit'), state)
  back = ports.from_state_dict(state, num_heads=HEADS)
  port_cases.assert_same(back, params)
  dinov2 = randomised(timm_module(init_values=1e-5)).state_dict()
  tree = ports.from_state_dict(
    {n: a.numpy() for n, a in dinov2.items()}, num_heads=HEADS
  )
  with pytest.raises(InputError, match='no position for the class token'):
    ports.to_state_dict(tree, 'deit')


def test_registers_without_a_mask_are_written_for_transformers(tmp_path):
  module = randomised(timm_module(**TIMM['DINOv2, registers'] | NO_HEAD))
  folder = save(module, tmp_path / 'a', cfg=timm_arguments('DINOv2, registers'))
  converting.convert(folder, tmp_path / 'b', to='transformers')
  again, loading = transformers.Dinov2WithRegistersModel.from_pretrained(
    tmp_path / 'b', output_loading_info=True
  )
  assert not any(loading.values())
  assert_agree(weight_sources.read(str(folder)), again)


def test_a_dropped_mask_leaves_the_description(tmp_path):
  module = randomised(transformers_module('Dinov2Model'))
  folder = save(module, tmp_path / 'a')
  converting.convert(folder, tmp_path / 'b', to='timm', drop=('mask',))
  source = weight_sources.read(str(tmp_path / 'b'))
  assert not source.card.architecture.get('corruptible')
  assert_agree(source, module)


def test_files_with_layer_scales_have_the_form_of_gelu(tmp_path, capsys):
  state = timm_module(**TIMM['DINOv2']).state_dict()
  torch.save(state, tmp_path / 'a.pth')
  source = weight_sources.read(str(tmp_path / 'a.pth'), num_heads=HEADS)
  assert source.card.architecture['gelu'] == 'erf'
  assert 'GELU' not in capsys.readouterr().err


def test_missing_layer_scales_are_named():
  state, _ = dinov2_state()
  del state['blocks.1.ls1.gamma']
  with pytest.raises(InputError, match=r'missing are blocks\.1\.ls1\.gamma'):
    ports.from_state_dict(state, num_heads=HEADS)
  module = timm_module(reg_tokens=4, no_embed_class=True)
  tree = ports.from_state_dict(
    {n: a.numpy() for n, a in module.state_dict().items()}, num_heads=HEADS
  )
  with pytest.raises(InputError, match='only with LayerScale'):
    ports.to_state_dict(tree, 'transformers', drop=['head'])


def test_the_card_of_a_folder_keeps_its_constants(tmp_path):
  module = randomised(
    transformers_module('Dinov2WithRegistersForImageClassification')
  )
  source = weight_sources.read(str(save(module, tmp_path / 'a')))
  fields = source.card.architecture
  assert fields['position_resizing'] == 'bicubic_antialias'
  assert fields['gelu'] == 'erf' and fields['layer_norm_eps'] == 1e-6
  assert fields['classifier'] == 'token_and_gap'
  assert fields['num_registers'] == 4 and fields['corruptible']
  assert source.card.preprocessing == 'deit:crop_pct=0.875'
  assert weights.describe(source.params)['image_size'] == (SIZE, SIZE)
  assert trees.flatten(source.params)['head/kernel'].shape == (2 * WIDTH, 3)


def with_head(state, inputs):
  """Returns a state dict of dinov2's classifier whose head has these inputs."""
  head = {
    'linear_head.weight': np.ones((CLASSES, inputs), np.float32),
    'linear_head.bias': np.ones(CLASSES, np.float32),
  }
  return {f'backbone.{name}': a for name, a in state.items()} | head


def test_heads_of_other_inputs_are_named():
  """torch.hub's dinov2_vits14_lc has by default a head on four layers."""
  state, _ = dinov2_state()
  read = ports.from_state_dict(with_head(state, 2 * WIDTH), num_heads=HEADS)
  assert weights.describe(read)['classifier'] == 'token_and_gap'
  with pytest.raises(InputError, match=r'last four blocks .*layers=1'):
    ports.from_state_dict(with_head(state, 5 * WIDTH), num_heads=HEADS)
  with pytest.raises(InputError, match='48 inputs, and tokens have 16'):
    ports.from_state_dict(with_head(state, 3 * WIDTH), num_heads=HEADS)
  head = {'weight': np.ones((3, 32)), 'bias': np.ones(3)}
  with pytest.raises(InputError, match=r'one linear layer .*dinov2_vits14_lc'):
    ports.from_state_dict(head)


@pytest.mark.parametrize(
  ('library', 'registers', 'rule'),
  [
    ('dinov2', 0, 'bicubic_offset'),
    ('dinov2', 4, 'bicubic_antialias'),
    ('timm', 0, 'bicubic_antialias'),
    ('transformers', 0, 'bicubic'),
    ('transformers', 4, 'bicubic_antialias'),
    ('transformers_v4', 0, 'bicubic'),
  ],
)
def test_files_without_a_config_are_resized_as_their_code_does(
  library, registers, rule, tmp_path, capsys
):
  """DINOv2's files are made for 518 pixels and used at 224."""
  _, tree = dinov2_state(registers)
  drop = ('mask',) if library == 'timm' else ()
  state = ports.to_state_dict(tree, library, drop=drop)
  torch.save(
    {n: torch.from_numpy(np.array(a)) for n, a in state.items()},
    tmp_path / 'a.pth',
  )
  source = weight_sources.read(str(tmp_path / 'a.pth'), num_heads=HEADS)
  assert source.card.architecture['position_resizing'] == rule
  assert source.card.image_size == (SIZE, SIZE)
  assert f'position_resizing={rule}' in capsys.readouterr().err
  converting.convert(tmp_path / 'a.pth', tmp_path / 'b.npz', num_heads=HEADS)
  card = weight_sources.read(str(tmp_path / 'b.npz')).card
  assert card.architecture['position_resizing'] == rule


@pytest.mark.parametrize('classifier', ['token', 'token_and_gap'])
def test_a_name_fits_files_with_a_mask_and_with_a_head(classifier, tmp_path):
  """No name shows whether there is a mask, and what the head reads."""
  classes = None if classifier == 'token' else CLASSES
  model = models.create(
    'DINOv2-S_14', num_classes=classes, classifier=classifier, corruptible=True
  )
  shapes = parameter_shapes(model, (28, 28))
  flat = {n: np.zeros(a.shape, np.float16) for n, a in shapes.items()}
  state = ports.to_state_dict(trees.nest(flat), 'dinov2')
  torch.save(
    {n: torch.from_numpy(a) for n, a in state.items()}, tmp_path / 'a.pth'
  )
  source = weight_sources.read(str(tmp_path / 'a.pth'), model='DINOv2-S_14')
  fields = source.card.architecture
  assert fields['corruptible'] and fields['classifier'] == classifier
  assert fields['position_resizing'] == 'bicubic_offset'
