"""Restoring models, with image size and preprocessing, from weights files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.data import preprocess
from vit_jax_repro.inference import restoring
from vit_jax_repro.weights import model_card, npz, trees
from vit_jax_repro.weights.adapt import parameter_shapes

pytestmark = pytest.mark.quick

POSITIONS = 'Transformer/posembed_input/pos_embedding'
READ_AS = 'note: no preprocessing is recorded for the file; using {!r}'


def test_restore_reads_names_size_and_preprocessing_of_a_run(tmp_path):
  restored = restoring.restore(tiny_models.save_run(tmp_path / 'model.npz'))
  assert restored.image_size == (8, 12)
  assert restored.class_names == ('x', 'flower', 'china')
  assert (restored.preprocessing, restored.num_classes) == ('bit', 3)


@pytest.mark.slow
def test_restore_resizes_positions_to_another_image_size(tiny_vit, tmp_path):
  restored = restoring.restore(tiny_vit, image_size=(16, 8))
  positions = restored.params['Transformer']['posembed_input']['pos_embedding']
  assert restored.image_size == (16, 8) and positions.shape == (1, 9, 16)
  logits = restored.model.apply(
    {'params': restored.params}, jnp.zeros((2, 16, 8, 3)), train=False
  )
  assert logits.shape == (2, 10)
  path = tiny_models.save_run(tmp_path / 'model.npz')
  positions = restoring.restore(path, image_size=16).params['Transformer']
  assert positions['posembed_input']['pos_embedding'].shape == (1, 17, 16)


def test_restore_resizes_positions_by_the_rule_in_the_card(tmp_path):
  spec = tiny_models.spec(3, position_resizing='bicubic_offset')
  params = tiny_models.params_of(spec)
  path = tmp_path / 'model.npz'
  model_card.save_model(path, params, architecture=spec, image_size=(8, 8))
  table = params['Transformer']['posembed_input']['pos_embedding']
  wanted = weights.resize_position_embedding(
    table, (4, 5), rule='bicubic_offset'
  )
  found = restoring.restore(path, image_size=(16, 20))
  assert found.model.position_resizing == 'bicubic_offset'
  np.testing.assert_array_equal(
    found.params['Transformer']['posembed_input']['pos_embedding'], wanted
  )


@pytest.mark.parametrize(
  'spec, size, preprocessing',
  [
    (tiny_models.spec(3, tiny_models.BIT), (480, 480), 'bit'),
    (
      tiny_models.spec(
        3, classifier='gap', position_embedding='sincos2d', patch_size=[32, 32]
      ),
      (224, 224),
      'big_vision',
    ),
    (tiny_models.spec(3, tiny_models.MIXER), (8, 8), 'vit_jax'),
  ],
)
def test_restore_chooses_the_image_size_of_a_bare_file(
  tmp_path, capfd, spec, size, preprocessing
):
  path = tmp_path / 'm.npz'
  layout = 'big_vision' if 'position_embedding' in spec else 'official'
  sizes = (64, 64) if size[0] > 64 else size
  weights.save(path, tiny_models.params_of(spec, sizes), layout=layout)
  restored = restoring.restore(path)
  assert restored.image_size == size
  assert restored.preprocessing == preprocessing
  said = []
  if preprocessing == 'big_vision':
    said.append(READ_AS.format('big_vision'))
  if size != (8, 8):
    said.append(
      f'note: the file gives no image size; using {size[0]}x{size[1]}'
    )
  assert capfd.readouterr().err.splitlines() == said


@pytest.mark.slow
@pytest.mark.parametrize(
  'fields, layout, preprocessing',
  [
    ({}, 'official', 'vit_jax'),
    ({'classifier': 'gap'}, 'official', 'vit_jax'),
    ({'stem_num_layers': [1]}, 'official', 'vit_jax'),
    # The parameters that are read do not record the layout of the file.
    ({'classifier': 'gap'}, 'big_vision', 'vit_jax'),
    ({'class_token_after_positions': True}, 'big_vision_scan', 'big_vision'),
    ({'classifier': 'map'}, 'big_vision', 'big_vision'),
    ({'distilled': True, 'gelu': 'erf'}, 'official', 'deit'),
  ],
)
def test_restore_chooses_the_preprocessing_of_a_bare_file(
  tmp_path, capfd, fields, layout, preprocessing
):
  path = tmp_path / 'm.npz'
  size = (32, 32) if 'stem_num_layers' in fields else (8, 8)
  params = tiny_models.params_of(tiny_models.spec(3, **fields), size)
  weights.save(path, params, layout=layout)
  assert restoring.restore(path).preprocessing == preprocessing
  said = '' if preprocessing == 'vit_jax' else READ_AS.format(preprocessing)
  assert capfd.readouterr().err.rstrip('\n') == said
  name = 'timm:crop_pct=0.95'
  assert restoring.restore(path, preprocessing=name).preprocessing == name
  assert not capfd.readouterr().err


def test_restore_takes_the_preprocessing_of_a_named_deit(tmp_path):
  """Its file alone cannot be distinguished from one of a ViT."""
  model = models.create('DeiT-Ti_16', num_classes=3)
  images = jnp.zeros((1, 224, 224, 3))
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), images, train=False)['params']
  )
  path = tmp_path / 'm.npz'
  weights.save(path, jax.tree.map(lambda x: np.ones(x.shape), shapes))
  assert restoring.restore(path).preprocessing == 'vit_jax'
  assert restoring.restore(path, 'DeiT-Ti_16').preprocessing == 'deit'


@pytest.mark.slow
def test_restore_takes_the_preprocessing_of_a_card(tmp_path):
  path = tmp_path / 'm.npz'
  for name in [*preprocess.PREPROCESSINGS, 'deit:crop_pct=1.0']:
    tiny_models.save_run(path, preprocessing=name)
    assert restoring.restore(path).preprocessing == name
  tiny_models.save_run(path, preprocessing=None)
  assert restoring.restore(path).preprocessing == 'vit_jax'
  for name, says in [
    ('caffe', "unknown preprocessing 'caffe'; choose from"),
    ('timm:crop_pct=2', "'timm:crop_pct=2': crop_pct must be"),
  ]:
    tiny_models.save_run(path, preprocessing=name)
    with pytest.raises(ValueError, match=says) as caught:
      restoring.restore(path)
    assert str(caught.value).startswith(f'{tmp_path}/m.json: ')
    assert '\n' not in str(caught.value)
    assert restoring.restore(path, preprocessing='bit').preprocessing == 'bit'


def test_restore_refuses_another_image_size_for_a_mixer(tmp_path):
  path = tmp_path / 'mixer.npz'
  weights.save(
    path, tiny_models.params_of(tiny_models.spec(3, tiny_models.MIXER))
  )
  with pytest.raises(
    ValueError, match=r'mixer\.npz.*fix the image size at 8x8, not 16x16'
  ) as caught:
    restoring.restore(path, image_size=16)
  assert '\n' not in str(caught.value)


def test_restore_refuses_the_card_of_another_file(tiny_vit, tmp_path):
  path = tiny_models.save_run(tmp_path / 'model.npz', image_size=(8, 8))
  path.write_bytes(tiny_vit.read_bytes())
  with pytest.raises(ValueError, match=r'model\.npz.*head') as caught:
    restoring.restore(path)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'text, says',
  [
    ('{', 'it is not valid JSON'),
    ('[1, 2]', 'it is a list'),
    ('{"learning_rate": 0.1}', "it has no 'architecture'"),
    ('[' * 10_000, 'it is not valid JSON'),
  ],
)
def test_restore_ignores_other_json_next_to_the_weights(
  tiny_vit, tmp_path, capfd, text, says
):
  path = tmp_path / 'm.npz'
  path.write_bytes(tiny_vit.read_bytes())
  path.with_suffix('.json').write_text(text)
  assert restoring.restore(path).image_size == (8, 8)
  said = capfd.readouterr().err
  start = f'note: {tmp_path}/m.json is no description of a model: {says}'
  assert said.startswith(start)
  assert said.endswith('is ignored\n') and said.count('\n') == 1


def test_restore_refuses_a_contradictory_card(tmp_path):
  path = tiny_models.save_run(tmp_path / 'm.npz')
  card_path = path.with_suffix('.json')
  card = json.loads(card_path.read_text())
  for change, says in [
    ({'class_names': ['a', 'b']}, '2 class names for 3 classes'),
    ({'image_size': [0, 8]}, r'image size \(0, 8\) must be'),
    ({'architecture': {'model': 'gpt'}}, "m.json: unknown kind of model 'gpt'"),
  ]:
    card_path.write_text(json.dumps(card | change))
    with pytest.raises(ValueError, match=says) as caught:
      restoring.restore(path)
    assert str(tmp_path) in str(caught.value)


def test_restore_names_a_file_without_a_known_architecture(tiny_vit, tmp_path):
  arrays = dict(npz.read(tiny_vit))
  path = tmp_path / 'half.npz'
  kept = {k: v for k, v in arrays.items() if 'encoderblock_0' not in k}
  npz.write(path, kept.items())
  with pytest.raises(
    ValueError, match='cannot tell the architecture'
  ) as caught:
    restoring.restore(path)
  assert str(caught.value).startswith(f'{path}: ')


def test_restore_notes_positions_read_as_those_of_patches_alone(
  tiny_vit, tmp_path, capfd
):
  flat = trees.flatten(weights.load(tiny_vit))
  flat[POSITIONS] = flat[POSITIONS][:, 1:]
  path = tmp_path / 'm.npz'
  weights.save(path, trees.nest(flat))
  restored = restoring.restore(path)
  assert restored.image_size == (8, 8)
  said = capfd.readouterr().err
  assert said.count('\n') == 1
  assert said.startswith('note: 4 position embeddings form a square')
  fitted = trees.flatten(restored.params)[POSITIONS]
  np.testing.assert_array_equal(fitted[:, 1:], flat[POSITIONS])
  assert not np.any(fitted[:, 0])


def test_restore_notes_pixels_that_are_not_seen(tiny_vit, capfd):
  """Pixels dropped in silence, where the size is no multiple of the patch."""
  restoring.restore(tiny_vit, image_size=(9, 12))
  assert capfd.readouterr().err == (
    'note: 1 of 9 pixels at the lower edge are not seen: 9 is no multiple of '
    'the patch of 4\n'
  )
  restoring.restore(tiny_vit, image_size=(8, 12))
  assert not capfd.readouterr().err


def test_restore_refuses_an_absurd_image_size(tiny_vit):
  largest = preprocess.MAX_IMAGE_SIZE
  with pytest.raises(ValueError, match=f'above {largest} pixels'):
    restoring.restore(tiny_vit, image_size=(8, largest + 1))


def with_heads(**kernels):
  """Returns a restored model with heads filled with these values."""
  params = {
    name: {'kernel': np.full((4, 3), kernel), 'bias': np.ones(3)}
    for name, kernel in kernels.items()
  }
  return restoring.Restored(None, params, 'vit', (8, 8), None, 'vit_jax')


def test_require_trained_head_refuses_zero_kernels_with_any_bias():
  with_heads(head=1.0, head_dist=1.0).require_trained_head('a.npz')
  for heads, says in [
    ({'head': 0.0}, 'kernel of the head of a.npz is all zeros'),
    ({'head': 1.0, 'head_dist': 0.0}, 'kernel of the head_dist of a.npz is'),
    ({}, 'a.npz has no head'),
  ]:
    with pytest.raises(ValueError, match=says) as caught:
      with_heads(**heads).require_trained_head('a.npz')
    assert '\n' not in str(caught.value)


def test_restore_gives_a_named_model_the_head_of_its_file(tmp_path):
  """A classifier on DINOv2 may take the mean of the patches, too."""
  name = 'DINOv2-S_14'
  model = models.create(name, num_classes=3, classifier='token_and_gap')
  shapes = parameter_shapes(model, (28, 28))
  flat = {n: np.ones(leaf.shape, 'f4') for n, leaf in shapes.items()}
  weights.save(tmp_path / 'm.npz', trees.nest(flat))
  restored = restoring.restore(tmp_path / 'm.npz', name)
  assert restored.model == model and restored.preprocessing == 'deit'
