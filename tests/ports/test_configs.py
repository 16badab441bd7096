"""config.json and preprocessor_config.json of ports' folders."""

import json

import pytest

from vit_jax_repro.ports import configs

pytestmark = pytest.mark.quick


def read(folder, config, processor=None):
  (folder / 'config.json').write_text(json.dumps(config))
  if processor is not None:
    text = json.dumps(processor)
    (folder / 'preprocessor_config.json').write_text(text)
  return configs.read(folder)


def test_read_without_config_returns_none(tmp_path):
  assert configs.read(tmp_path) is None


def test_read_uses_the_defaults_of_transformers(tmp_path):
  """Defaults of its classes; test_tables.py compares logits with them."""
  config = read(tmp_path, {'model_type': 'vit'})
  assert config == configs.PortConfig(
    fields={
      'gelu': 'erf',
      'layer_norm_eps': 1e-12,
      'position_resizing': 'bicubic',
    },
    num_heads=12,
    image_size=(224, 224),
    preprocessing='vit_jax',
    token_slots=True,
  )
  assert read(tmp_path, {'model_type': 'deit'}).preprocessing == 'deit'
  assert read(tmp_path, {'model_type': 'bit'}) == configs.PortConfig(
    fields={'weight_standardization_eps': 1e-8, 'groups': 32}
  )


def test_read_keeps_the_values_of_transformers(tmp_path):
  config = read(
    tmp_path,
    {
      'model_type': 'vit',
      'hidden_act': 'gelu_pytorch_tanh',
      'layer_norm_eps': 1e-6,
      'num_attention_heads': 3,
      'image_size': [32, 48],
      'id2label': {'1': 'dog', '0': 'cat'},
    },
  )
  assert config.fields['gelu'] == 'tanh'
  assert config.fields['layer_norm_eps'] == 1e-6
  assert config.num_heads == 3 and config.image_size == (32, 48)
  assert config.class_names == ('cat', 'dog')
  numbered = {'model_type': 'vit', 'id2label': {'0': 'LABEL_0'}}
  assert read(tmp_path, numbered).class_names is None


@pytest.mark.parametrize(
  'problem_type, loss',
  [
    (None, None),
    ('single_label_classification', 'softmax'),
    ('multi_label_classification', 'sigmoid'),
    ('regression', 'regression'),
  ],
)
def test_read_keeps_the_problem_type(problem_type, loss, tmp_path):
  config = {'model_type': 'vit', 'problem_type': problem_type}
  assert read(tmp_path, config).loss == loss


TIMM_FIELDS = {'gelu': 'erf', 'position_resizing': 'bicubic_antialias'}
HALF, IMAGENET = [0.5] * 3, ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CROP = {'do_center_crop': True, 'crop_size': {'height': 224, 'width': 224}}


@pytest.mark.parametrize(
  'mean, std, more, name',
  [
    (HALF, HALF, {'size': 224, 'resample': 2}, 'vit_jax'),
    (*IMAGENET, {'size': 256, 'resample': 3, **CROP}, 'deit:crop_pct=0.875'),
    (
      HALF,
      HALF,
      {'size': {'shortest_edge': 248}, 'resample': 3, **CROP},
      'timm:crop_pct=0.903226',
    ),
    (*IMAGENET, {'size': 224, 'resample': 2}, 'deit'),
    (HALF, HALF, {'size': 256, 'resample': 2, **CROP}, 'vit_jax'),
    ([0.48] * 3, HALF, {'size': 224}, None),
    (None, None, {}, None),
  ],
)
def test_read_finds_the_nearest_preprocessing(mean, std, more, name, tmp_path):
  processor = {'image_mean': mean, 'image_std': std, **more}
  config = read(tmp_path, {'model_type': 'vit'}, processor)
  assert config.preprocessing == name


def test_read_keeps_the_values_of_timm(tmp_path):
  cfg = {
    'input_size': [3, 384, 384], 'mean': HALF, 'std': HALF,
    'interpolation': 'bicubic', 'crop_pct': 1.0,
  }  # fmt: skip
  config = read(
    tmp_path,
    {'architecture': 'vit_base_patch16_384', 'pretrained_cfg': cfg},
  )
  assert config == configs.PortConfig(
    fields=TIMM_FIELDS,
    image_size=(384, 384),
    preprocessing='timm:crop_pct=1',
    token_slots=True,
  )
  older = read(tmp_path, {'architecture': 'vit_base_patch16_384', **cfg})
  assert older == config
  arguments = {
    'act_layer': 'gelu_tanh', 'num_heads': 3, 'img_size': [32, 48],
    'no_embed_class': True,
  }  # fmt: skip
  config = read(
    tmp_path,
    {
      'architecture': 'vit_base_patch16_224',
      'model_args': arguments,
      'label_names': ['a', 'b'],
      'pretrained_cfg': {**cfg, 'crop_mode': 'squash'},
    },
  )
  assert config == configs.PortConfig(
    fields=TIMM_FIELDS | {'gelu': 'tanh'},
    num_heads=3,
    class_names=('a', 'b'),
    image_size=(32, 48),
    preprocessing='vit_jax',
    token_slots=False,
  )


@pytest.mark.parametrize(
  'name, slots',
  [
    ('vit_base_patch16_224', True),
    ('deit3_small_patch16_224', False),
    ('vit_small_patch14_dinov2', True),
    ('vit_small_patch14_reg4_dinov2', False),
  ],
)
def test_read_knows_which_models_of_timm_have_no_slots(name, slots, tmp_path):
  assert read(tmp_path, {'architecture': name}).token_slots == slots


@pytest.mark.parametrize(
  'name, fields',
  [
    ('resnetv2_50x1_bit', configs.BIT_FIELDS),
    ('mixer_b16_224', {'gelu': 'erf'}),
    ('vit_small_r26_s32_224', TIMM_FIELDS | configs.HYBRID_FIELDS),
    ('vit_tiny_r_s16_p8_224', TIMM_FIELDS | configs.HYBRID_FIELDS),
    ('vit_so400m_patch16_siglip_256', TIMM_FIELDS | {'gelu': 'tanh'}),
  ],
)
def test_read_gives_the_constants_of_timm(name, fields, tmp_path):
  assert read(tmp_path, {'architecture': name}).fields == fields


@pytest.mark.parametrize(
  'config, message',
  [
    ([], 'it is a list, not an object'),
    ({}, 'neither transformers'),
    ({'model_type': 'swin'}, "unknown model_type 'swin'"),
    ({'model_type': 'vit', 'hidden_act': 'relu'}, "unknown activation 'relu'"),
    ({'model_type': 'vit', 'pooler_act': 'gelu'}, "pooler_act is 'gelu'"),
    ({'model_type': 'vit', 'id2label': {'1': 'a'}}, 'labels 0 to 0'),
    ({'model_type': 'vit', 'layer_norm_eps': []}, 'of the wrong type'),
    ({'model_type': 'vit', 'image_size': {}}, 'of the wrong type'),
    ({'model_type': 'vit', 'problem_type': 'x'}, "problem_type 'x'; choose"),
    ({'model_type': 'bit', 'global_padding': 'SAME'}, "'SAME'"),
    ({'model_type': 'bit', 'layer_type': 'bottleneck'}, "'bottleneck'"),
    ({'architecture': 'swin_tiny'}, "unknown architecture 'swin_tiny'"),
    (
      {'architecture': 'vit_x', 'model_args': {'act_layer': 'quick_gelu'}},
      "unknown activation 'quick_gelu'",
    ),
    (
      {'architecture': 'vit_x', 'model_args': {'global_pool': 'avgmax'}},
      "unknown global_pool 'avgmax'",
    ),
    (
      {'architecture': 'vit_x', 'model_args': {'pool_include_prefix': True}},
      'pool_include_prefix is True',
    ),
    (
      {'model_type': 'dinov2', 'use_swiglu_ffn': True},
      'use_swiglu_ffn is True',
    ),
    (
      {'architecture': 'vit_x', 'model_args': {'norm_layer': 'rmsnorm'}},
      "norm_layer is 'rmsnorm'",
    ),
  ],
)
def test_read_rejects_other_models(config, message, tmp_path):
  with pytest.raises(ValueError, match=message) as caught:
    read(tmp_path, config)
  assert 'config.json' in str(caught.value)


def test_read_rejects_a_damaged_config_in_one_line(tmp_path):
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match=r'config\.json is .* not valid JSON'):
    configs.read(tmp_path)


def test_read_takes_what_timm_takes_if_a_file_names_only_the_model(
  tmp_path, capsys
):
  """timm reads images with the defaults of its PretrainedCfg then."""
  for name in ('vit_tiny_patch16_224', 'resnetv2_50x1_bit'):
    config = read(tmp_path, {'architecture': name})
    assert config.preprocessing == 'deit:crop_pct=0.875'
    assert 'config.json does not say how images are read' in (
      capsys.readouterr().err
    )
  given = {'architecture': 'vit_x', 'mean': HALF, 'std': HALF}
  assert read(tmp_path, given).preprocessing == 'timm:crop_pct=0.875'
  assert not capsys.readouterr().err


def test_read_notes_a_mean_that_no_preprocessing_has(tmp_path, capsys):
  clip = {'mean': [0.481, 0.458, 0.408], 'std': [0.269, 0.261, 0.276]}
  config = read(tmp_path, {'architecture': 'vit_base_patch16_224', **clip})
  assert config.preprocessing is None
  note = capsys.readouterr().err
  assert '[0.481, 0.458, 0.408]' in note and '--preprocessing' in note
