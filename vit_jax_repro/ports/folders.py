"""Configuration files of a folder from which a port loads a model.

transformers loads it with `from_pretrained(FOLDER)`, timm with
`create_model('local-dir:FOLDER', pretrained=True)`. The files set the form of
GELU and the epsilons of the original, which are not the libraries' defaults. If
a library has no setting for a constant, the model is refused, or a remark
describes the difference.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax_repro.data import labels, preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.models.patches import patch_grid
from vit_jax_repro.ports import configs, forms, has_token_slots
from vit_jax_repro.weights import positions, trees

_TRANSFORMERS_GELUS = {'tanh': 'gelu_pytorch_tanh', 'erf': 'gelu'}
_TIMM_GELUS = {'tanh': 'gelu_tanh', 'erf': 'gelu'}
_TIMM_LAYER_NORM_EPS = 1e-6  # timm, layers/norm.py: LayerNorm
_BILINEAR, _BICUBIC = 2, 3  # PIL.Image.Resampling
# timm creates a ViT of any size from one of these names and further arguments.
_TIMM_VIT = 'vit_base_patch16_224'
_TIMM_DISTILLED = 'deit_base_distilled_patch16_224'
_TIMM_POOLS = {
  'token': 'token',
  'token_and_gap': 'token',  # without its head, which timm cannot hold
  'gap': 'avg',
  'map': 'map',
}
_TIMM_SIGMOID = (
  'timm has no setting for models that decide each class on its own: take the '
  'sigmoid of its logits, not the softmax'
)


def files(
  library: str,
  model: Any,
  params: Mapping[str, Any],
  *,
  image_size: tuple[int, int],
  class_names: tuple[str, ...] | None,
  preprocessing: str,
  loss: str | None = None,
) -> tuple[dict[str, dict], str | None]:
  """Returns {file name: JSON contents}, and a remark or None.

  Args:
    library: 'transformers', 'transformers_v4' or 'timm'.
    model: the linen module.
    params: the canonical tree as it is written, without dropped parts.
    image_size: (height, width) of the model's images, in pixels.
    class_names: a name for each label, or None.
    preprocessing: a name of data.preprocess.
    loss: see weights.model_card.

  Raises:
    InputError: a folder cannot describe such a model. The message names what
      to write instead.
  """
  kind = type(model).__name__
  if kind == 'ViT':
    _check_image_size(model, params, image_size)
    if model.classifier.endswith('unpooled'):
      raise InputError('no port returns the logits of every token')
  if library == 'timm' and kind == 'ViT' and model.stem_num_layers is None:
    configuration = _timm_config(
      model, params, image_size, class_names, preprocessing
    )
    # timm ignores the key, which this package reads.
    problem = _problem_type(model, loss)
    remark = _TIMM_SIGMOID if problem and loss == 'sigmoid' else None
    return {configs.CONFIG: configuration | problem}, remark
  if library == 'timm' and kind == 'EfficientNet':
    raise InputError(
      'folders of EfficientNets are not written for timm; write a .safetensors '
      "file for timm's tf_efficientnet_*"
    )
  if library == 'timm':
    raise InputError(
      "timm's create_model creates hybrids, BiT and Mixers with constants that "
      "differ from the authors'; write a .safetensors file for timm's own "
      'modules'
    )
  labels = _labels(class_names, model.num_classes)
  if kind == 'BiT':
    config, remark = _bit_config(model), _bit_remark(model)
  else:
    is_dinov2 = forms.is_dinov2(trees.flatten(params))
    make = _dinov2_config if is_dinov2 else _vit_config
    config, remark = make(model, params, image_size), None
  processor = _processor(preprocessing, image_size)
  return {
    configs.CONFIG: config | labels | _problem_type(model, loss),
    configs.PREPROCESSOR: processor,
  }, remark


def _check_image_size(model, params, image_size):
  """Raises an InputError if the positions do not suit the image size.

  The port is configured for this size.
  """
  grid = patch_grid(model, image_size)
  assert grid is not None, 'every ViT has patches'
  flat = trees.flatten(params)
  name = positions.name_in(flat)
  tokens = 0 if name is None else positions.prefix(flat, name)
  count = positions.count_in(params)
  if count != grid[0] * grid[1] + tokens:
    raise InputError(
      f'{count} position embeddings are not those of {image_size[0]}x'
      f'{image_size[1]} pixels, and the files give no other image size; write '
      'a .safetensors file'
    )


def _dinov2_config(model, params, image_size):
  kind, name = 'dinov2', 'Dinov2'
  if 'registers' in params:
    kind, name = 'dinov2_with_registers', 'Dinov2WithRegisters'
  if model.mlp_dim % model.hidden_size:
    raise InputError(
      f"transformers' DINOv2 has an MLP of a multiple of {model.hidden_size} "
      f'(mlp_ratio), not of mlp_dim={model.mlp_dim}; write a .safetensors file'
    )
  config = {
    'architectures': [
      name + ('ForImageClassification' if 'head' in params else 'Model')
    ],
    'model_type': kind,
    'hidden_size': model.hidden_size,
    'num_hidden_layers': model.num_layers,
    'num_attention_heads': model.num_heads,
    'mlp_ratio': model.mlp_dim // model.hidden_size,
    'hidden_act': _TRANSFORMERS_GELUS[model.gelu],
    'layer_norm_eps': model.layer_norm_eps,
    'image_size': _side_or_sides(image_size),
    'patch_size': _side_or_sides(model.patch_size),
    'num_channels': 3,
    'qkv_bias': True,
    'layerscale_value': model.layer_scale_init,
    'use_swiglu_ffn': False,
  }
  if 'registers' in params:
    config['num_register_tokens'] = model.num_registers
  else:
    config['use_mask_token'] = 'mask' in params
  return config


def _vit_config(model, params, image_size):
  if 'dist' in params:
    name = 'Model'
    if 'head' in params:
      name = 'ForImageClassification'
      name += 'WithTeacher' if 'head_dist' in params else ''
    kind, architecture = 'deit', f'DeiT{name}'
  else:
    name = 'ForImageClassification' if 'head' in params else 'Model'
    kind, architecture = 'vit', f'ViT{name}'
  config = {
    'architectures': [architecture],
    'model_type': kind,
    'hidden_size': model.hidden_size,
    'num_hidden_layers': model.num_layers,
    'num_attention_heads': model.num_heads,
    'intermediate_size': model.mlp_dim,
    'hidden_act': _TRANSFORMERS_GELUS[model.gelu],
    'layer_norm_eps': model.layer_norm_eps,
    'image_size': _side_or_sides(image_size),
    'patch_size': _side_or_sides(model.patch_size),
    'num_channels': 3,
    'qkv_bias': True,
    'hidden_dropout_prob': 0.0,
    'attention_probs_dropout_prob': 0.0,
  }
  if 'pre_logits' in params:
    width = params['pre_logits']['bias'].shape[0]
    config |= {'pooler_act': 'tanh', 'pooler_output_size': width}
  return config


def _bit_config(model):
  if model.pool_padding != 'zeros' or model.group_norm_eps != 1e-5:
    raise InputError(
      "transformers' BiT has pool_padding='zeros' and group_norm_eps=1e-05, "
      f'not {model.pool_padding!r} and {model.group_norm_eps}; write a '
      '.safetensors file'
    )
  widths = [
    4 * model.root_channels * 2**i for i in range(len(model.block_units))
  ]
  name = 'ForImageClassification' if model.num_classes else 'Model'
  return {
    'architectures': [f'Bit{name}'],
    'model_type': 'bit',
    'embedding_size': model.root_channels,
    'hidden_sizes': widths,
    'depths': list(model.block_units),
    'num_groups': model.groups,
    'layer_type': 'preactivation',
    'global_padding': None,
  }


def _bit_remark(model):
  eps = configs.BIT_FIELDS['weight_standardization_eps']
  if model.weight_standardization_eps == eps:
    return None
  return (
    f'transformers standardises weights with epsilon {eps:g}, this model with '
    f'{model.weight_standardization_eps:g}: logits differ where filters are '
    'almost constant'
  )


def _timm_config(model, params, image_size, class_names, preprocessing):
  if model.layer_norm_eps != _TIMM_LAYER_NORM_EPS:
    raise InputError(
      "timm's create_model creates LayerNorms with epsilon "
      f'{_TIMM_LAYER_NORM_EPS}, not {model.layer_norm_eps}; write a '
      '.safetensors file'
    )
  arguments = {
    'img_size': list(image_size),
    'patch_size': list(model.patch_size),
    'embed_dim': model.hidden_size,
    'depth': model.num_layers,
    'num_heads': model.num_heads,
    'mlp_ratio': model.mlp_dim / model.hidden_size,
    'act_layer': _TIMM_GELUS[model.gelu],
  }
  if int(model.hidden_size * arguments['mlp_ratio']) != model.mlp_dim:
    raise InputError(
      f"timm rounds the MLP's mlp_dim={model.mlp_dim} down; write a "
      '.safetensors file'
    )
  if 'pos_embedding' in params or (
    'registers' in params and not has_token_slots(trees.flatten(params))
  ):
    arguments['no_embed_class'] = True
  if 'cls' not in params:
    arguments['class_token'] = False
  pool = _TIMM_POOLS[model.classifier]
  if pool != 'token' or model.fc_norm:
    arguments |= {'global_pool': pool, 'fc_norm': model.fc_norm}
  if model.layer_scale_init is not None:
    arguments['init_values'] = model.layer_scale_init
  if model.num_registers:
    arguments['reg_tokens'] = model.num_registers
  cfg = {
    'input_size': [3, *image_size],
    'fixed_input_size': True,
    'num_classes': model.num_classes or 0,
    'first_conv': 'patch_embed.proj',
    'classifier': ['head', 'head_dist'] if 'dist' in params else 'head',
    **_timm_images(preprocessing, image_size),
  }
  config = {
    'architecture': _TIMM_DISTILLED if 'dist' in params else _TIMM_VIT,
    'num_classes': model.num_classes or 0,
    'num_features': model.hidden_size,
    'global_pool': arguments.get('global_pool', 'token'),
    'model_args': arguments,
    'pretrained_cfg': cfg,
  }
  names = _names(class_names, model.num_classes)
  if names is not None:
    config['label_names'] = list(names)
  return config


def _side_or_sides(size):
  return size[0] if size[0] == size[1] else list(size)


def _names(class_names, num_classes):
  """Returns the class names; by default ImageNet's if the number fits."""
  if class_names is None and num_classes in labels.FILES:
    return labels.class_names(num_classes)
  return class_names


def _labels(class_names, num_classes):
  if not num_classes:
    return {}
  names = _names(class_names, num_classes)
  if names is None:
    names = [f'LABEL_{label}' for label in range(num_classes)]
  by_label = {str(label): name for label, name in enumerate(names)}
  by_name = {name: label for label, name in enumerate(names)}
  return {'id2label': by_label, 'label2id': by_name}


def _problem_type(model, loss):
  if loss is None or not model.num_classes:
    return {}
  return {'problem_type': configs.PROBLEM_TYPES[loss]}


def _statistics(preprocessing):
  entry = preprocess.pick_preprocessing(preprocessing)
  mean, std = (
    [round(v / 255, 6) for v in values] for values in (entry.mean, entry.std)
  )
  return entry, mean, std


def _processor(preprocessing, image_size):
  """Returns the nearest configuration of transformers' image processor.

  transformers' resize antialiases, the authors' does not. big_vision's resizing
  by area becomes bicubic.
  """
  entry, mean, std = _statistics(preprocessing)
  height, width = image_size
  config = {
    'do_resize': True,
    'do_rescale': True,
    'do_normalize': True,
    'image_mean': mean,
    'image_std': std,
  }
  crop_pct = _crop_pct(entry, image_size)
  if crop_pct is None:
    return config | {
      'image_processor_type': 'ViTImageProcessor',
      'size': {'height': height, 'width': width},
      'resample': _BILINEAR,
    }
  return config | {
    'image_processor_type': 'BitImageProcessor',
    'size': {'shortest_edge': int(min(image_size) / crop_pct)},
    'do_center_crop': True,
    'crop_size': {'height': height, 'width': width},
    'resample': _BICUBIC,
  }


def _timm_images(preprocessing, image_size):
  entry, mean, std = _statistics(preprocessing)
  crop_pct = _crop_pct(entry, image_size)
  return {
    'mean': mean,
    'std': std,
    'interpolation': 'bilinear' if crop_pct is None else 'bicubic',
    'crop_pct': crop_pct or 1.0,
    'crop_mode': 'squash' if crop_pct is None else 'center',
  }


def _crop_pct(entry, image_size):
  if entry.crop_pct is not None:
    return entry.crop_pct(image_size)
  return 0.875 if entry.base == 'big_vision' else None  # 224 of 256
