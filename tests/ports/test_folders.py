"""transformers and timm load the authors' model from a written folder."""

import functools
import json

import jax
import numpy as np
import port_cases
import pytest
import reference
import timm_stub
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.inference import prediction
from vit_jax_repro.ports import converting, folders
from vit_jax_repro.weights import model_card
from vit_jax_repro.weights.adapt import parameter_shapes

quick = pytest.mark.quick


@pytest.fixture
def written(tmp_path):
  """Writes a folder of a case for a library; returns (folder, our logits)."""

  def write(case, library, *, drop=(), which=''):
    params = port_cases.tree(case, tmp_path)
    path = tmp_path / f'{case}.npz'
    weights.save(path, params)
    converting.convert(path, tmp_path / 'out', to=library, drop=drop)
    fields = weights.describe(params)
    if 'head' in drop:
      fields['num_classes'] = None
    model = models.create(fields)
    images = reference.images(case, which)
    with jax.default_matmul_precision('highest'):
      apply = jax.jit(functools.partial(model.apply, train=False))
      logits = apply({'params': params}, images)
    return str(tmp_path / 'out'), np.asarray(logits)

  return write


def theirs(module, case, name=None, which=''):
  import torch

  images = reference.images(case, which).transpose(0, 3, 1, 2).copy()
  with torch.no_grad():
    output = module.eval()(torch.from_numpy(images))
  return (output if name is None else getattr(output, name)).numpy()


# Ten times the difference between float32 and float64 in the original.
def noise(case, which=''):
  return 10 * reference.forward_cases()[case]['noise'][which]


@pytest.mark.parametrize('library', ['transformers', 'transformers_v4'])
@pytest.mark.parametrize(
  'case', ['vit_token_small_variance', 'bv_tok_learn', 'deit_distilled_tiny']
)
def test_transformers_gives_our_logits(case, library, written):
  import transformers

  folder, ours = written(case, library)
  cls = transformers.AutoModelForImageClassification
  if case.startswith('deit'):
    cls = transformers.DeiTForImageClassificationWithTeacher
  module, loading = cls.from_pretrained(folder, output_loading_info=True)
  assert not any(loading.values())
  np.testing.assert_allclose(
    theirs(module, case, 'logits'), ours, rtol=0, atol=noise(case)
  )


@pytest.mark.parametrize('loss', ['sigmoid', 'softmax'])
def test_transformers_pipeline_gives_our_probabilities(loss, tmp_path):
  """Its pipeline chooses sigmoid or softmax by problem_type."""
  import transformers
  from PIL import Image

  path, image = tmp_path / 'm.npz', tmp_path / 'x.png'
  architecture = tiny_models.spec(3)
  model_card.save_model(
    path, tiny_models.params_of(architecture), architecture=architecture,
    class_names='abc', image_size=(8, 8), preprocessing='vit_jax', loss=loss,
  )  # fmt: skip
  pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3))
  Image.fromarray(pixels.astype(np.uint8)).save(image)
  ((*ours,),) = prediction.predict(path, [image])
  converting.convert(path, tmp_path / 'out', to='transformers')
  pipeline = transformers.pipeline(
    'image-classification', model=str(tmp_path / 'out'), device='cpu'
  )
  found = {each['label']: each['score'] for each in pipeline(str(image))}
  assert found == pytest.approx({name: p for _, name, p in ours}, rel=1e-4)


def test_transformers_pooler_gives_our_pre_logits(written):
  import transformers

  case = 'vit_token_prelogits'
  folder, ours = written(case, 'transformers', drop=('head',))
  module = transformers.AutoModel.from_pretrained(folder)
  assert type(module).__name__ == 'ViTModel'
  np.testing.assert_allclose(
    theirs(module, case, 'pooler_output'), ours, rtol=0, atol=noise(case)
  )


def test_transformers_bit_differs_only_by_its_epsilon(written, capsys):
  import transformers

  case = 'bit_tiny_1_1_1_1'
  folder, ours = written(case, 'transformers', which='a')
  assert 'epsilon 1e-08, this model with 1e-10' in capsys.readouterr().err
  cls = transformers.AutoModelForImageClassification
  module = cls.from_pretrained(folder)
  assert np.abs(theirs(module, case, 'logits', 'a') - ours).max() > 0.1
  for part in module.modules():
    if type(part).__name__ == 'WeightStandardizedConv2d':
      part.eps = 1e-10
  np.testing.assert_allclose(
    theirs(module, case, 'logits', 'a'), ours, rtol=0, atol=noise(case, 'a')
  )


@pytest.mark.parametrize(
  'case',
  ['vit_token', 'vit_gap', 'bv_tok_learn', 'bv_map_learn',
   'deit_distilled_tiny'],
)  # fmt: skip
def test_timm_gives_our_logits(case, written):
  timm = timm_stub.import_timm()
  folder, ours = written(case, 'timm')
  module = timm.create_model(f'local-dir:{folder}', pretrained=True)
  np.testing.assert_allclose(
    theirs(module, case), ours, rtol=0, atol=noise(case)
  )


def made(base=tiny_models.VIT, *, image_size=(32, 32), **fields):
  """Returns a model and its shapes, as arguments of `files`."""
  model = models.create({**tiny_models.spec(3, base), **fields})
  shapes = parameter_shapes(model, image_size)
  return model, weights.trees.nest(shapes)


@quick
def test_files_describes_the_nearest_processor():
  model, params = made()

  def processor(preprocessing):
    files, _ = folders.files(
      'transformers', model, params, image_size=(32, 32), class_names=None,
      preprocessing=preprocessing,
    )  # fmt: skip
    return files['preprocessor_config.json']

  squashed = processor('vit_jax')
  assert squashed['image_processor_type'] == 'ViTImageProcessor'
  assert squashed['size'] == {'height': 32, 'width': 32}
  assert squashed['resample'] == 2 and squashed['image_mean'] == [0.5] * 3
  cropped = processor('deit')
  assert cropped['image_processor_type'] == 'BitImageProcessor'
  assert cropped['size'] == {'shortest_edge': 36}
  assert cropped['crop_size'] == {'height': 32, 'width': 32}
  assert cropped['image_mean'] == [0.485, 0.456, 0.406]
  assert processor('timm:crop_pct=0.5')['size'] == {'shortest_edge': 64}
  assert processor('big_vision')['size'] == {'shortest_edge': 36}


@quick
def test_files_writes_class_names_as_labels():
  def labels(library, num_classes, class_names):
    model, params = made(num_classes=num_classes)
    files, _ = folders.files(
      library, model, params, image_size=(32, 32), class_names=class_names,
      preprocessing='vit_jax',
    )  # fmt: skip
    json.dumps(files)
    return files['config.json']

  found = labels('transformers', 2, ('cat', 'dog'))
  assert found['id2label'] == {'0': 'cat', '1': 'dog'}
  assert found['label2id'] == {'cat': 0, 'dog': 1}
  assert labels('transformers', 2, None)['id2label']['1'] == 'LABEL_1'
  assert 'tench' in labels('transformers', 1000, None)['id2label']['0']
  assert labels('timm', 2, ('cat', 'dog'))['label_names'] == ['cat', 'dog']
  assert 'label_names' not in labels('timm', 2, None)
  assert 'id2label' not in labels('transformers', None, None)


STEM = {'resnet': {'num_layers': (), 'width_factor': 1}, 'patch_size': (2, 2)}


@quick
@pytest.mark.parametrize(
  'base, fields, library, message',
  [
    (tiny_models.VIT, {'layer_norm_eps': 1e-12}, 'timm', 'epsilon 1e-06'),
    (tiny_models.VIT, {'classifier': 'token_unpooled'}, 'timm', 'every token'),
    (tiny_models.VIT, STEM, 'timm', 'hybrids, BiT and Mixers'),
    (tiny_models.MIXER, {}, 'timm', 'hybrids, BiT and Mixers'),
    (tiny_models.BIT, {}, 'timm', 'hybrids, BiT and Mixers'),
    (
      tiny_models.BIT,
      {'pool_padding': 'same'},
      'transformers',
      "pool_padding='zeros'",
    ),
    (tiny_models.BIT, {'group_norm_eps': 1e-6}, 'transformers', '1e-06'),
  ],
)
def test_files_rejects_models_without_a_folder_format(
  base, fields, library, message
):
  model, params = made(base, **fields)
  with pytest.raises(ValueError, match=message):
    folders.files(
      library, model, params, image_size=(32, 32), class_names=None,
      preprocessing='vit_jax',
    )  # fmt: skip


@quick
def test_files_rejects_positions_of_another_size():
  model, params = made(image_size=(32, 32))
  with pytest.raises(ValueError, match='not those of 48x48 pixels'):
    folders.files(
      'transformers', model, params, image_size=(48, 48), class_names=None,
      preprocessing='vit_jax',
    )  # fmt: skip
