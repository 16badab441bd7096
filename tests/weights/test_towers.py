"""Files of image-text models: both towers, layouts, the image tower alone."""

import jax
import numpy as np
import pytest
import reference

from vit_jax_repro import models, weights
from vit_jax_repro.inference import restoring, zero_shot
from vit_jax_repro.weights import layouts, model_card, npz, trees

CASES = ('lit_bert', 'lit_text_transformer')


def arrays_of(case):
  return reference.lit_arrays(case, 'params')


def shapes_of(path):
  return dict(npz.read(path))


@pytest.mark.quick
@pytest.mark.parametrize('layout', ['official', 'big_vision'])
@pytest.mark.parametrize('case', CASES)
def test_load_gives_both_towers_of_every_layout(case, layout, tmp_path):
  tree = trees.nest(arrays_of(case))
  path = tmp_path / 'lit.npz'
  weights.save(path, tree, layout=layout)
  loaded = weights.load(path)
  assert set(loaded) == {'img', 'txt', 't'}
  io = reference.lit_arrays(case, 'io')
  model = models.create(reference.lit()['cases'][case])
  if layout == 'big_vision':
    assert loaded['img']['pos_embedding'].shape[1] == 16
    image = models.create(
      dict(weights.describe(loaded)['image'], num_classes=None)
    )
    model = model.clone(img=image)
  got = model.apply({'params': loaded}, io['images'], io['tokens'])
  for value, key in zip(got, ('zimg', 'ztxt', 't'), strict=True):
    np.testing.assert_allclose(value, io[key], atol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize('case', CASES)
def test_save_writes_the_file_that_was_loaded(case, tmp_path):
  npz.write(tmp_path / 'in.npz', arrays_of(case).items())
  weights.save(tmp_path / 'out.npz', weights.load(tmp_path / 'in.npz'))
  found = shapes_of(tmp_path / 'out.npz')
  assert found.keys() == arrays_of(case).keys()
  for name, array in arrays_of(case).items():
    np.testing.assert_array_equal(found[name], array)


@pytest.mark.quick
@pytest.mark.parametrize('case', CASES)
def test_load_unstacks_the_blocks_of_both_towers(case, tmp_path):
  tree = trees.nest(arrays_of(case))
  weights.save(tmp_path / 'a.npz', tree, layout='big_vision')
  weights.save(tmp_path / 'b.npz', tree, layout='big_vision_scan')
  plain, stacked = (
    trees.flatten(weights.load(tmp_path / f'{x}.npz')) for x in 'ab'
  )
  names = npz.read_names(tmp_path / 'b.npz')
  assert 'params/img/Transformer/encoderblock/LayerNorm_0/bias' in names
  assert plain.keys() == stacked.keys()
  for name, array in plain.items():
    np.testing.assert_array_equal(array, stacked[name])


@pytest.mark.quick
@pytest.mark.parametrize('name', sorted(models.variants.LITS))
def test_layouts_of_released_files_round_trip(name):
  layout = reference.lit()['layouts'][name]
  mapping = layouts.from_file(layout)
  assert mapping.keys() == layout.keys()
  tree = {
    mapping[key]: jax.ShapeDtypeStruct(shape, dtype)
    for key, (shape, dtype) in layout.items()
  }
  assert layouts.to_file(tree, 'official').keys() == layout.keys()
  spec = weights.describe(trees.nest(tree))
  named = models.create(name)
  found = models.create(spec)
  assert found == named
  assert spec['image_size'] == (224, 224)
  assert spec['max_len'] == 16


@pytest.mark.quick
def test_load_keeps_the_bias_of_siglip(tmp_path):
  tree = trees.nest(arrays_of('lit_text_transformer') | {'b': np.ones(1, 'f4')})
  weights.save(tmp_path / 'a.npz', tree)
  assert 'params/b' in npz.read_names(tmp_path / 'a.npz')
  loaded = weights.load(tmp_path / 'a.npz')
  assert loaded['b'] == 1
  assert models.create(weights.describe(loaded)).has_bias


@pytest.mark.quick
@pytest.mark.parametrize('case', CASES)
def test_restore_gives_the_image_tower_with_a_note(case, tmp_path, capsys):
  npz.write(tmp_path / 'lit.npz', arrays_of(case).items())
  restored = restoring.restore(tmp_path / 'lit.npz')
  assert 'only the image tower is used' in capsys.readouterr().err
  io = reference.lit_arrays(case, 'io')
  x = restored.model.apply({'params': restored.params}, io['images'])
  x = x / np.linalg.norm(x, axis=-1, keepdims=True)
  np.testing.assert_allclose(x, io['zimg'], atol=1e-6)


@pytest.mark.quick
def test_load_of_a_card_gives_both_towers_if_asked_for(tmp_path, capsys):
  fields = reference.lit()['cases']['lit_bert']
  model_card.save_model(
    tmp_path / 'a.npz',
    trees.nest(arrays_of('lit_bert')),
    architecture=fields,
    image_size=(32, 32),
  )
  read = model_card.load(tmp_path / 'a.npz', both_towers=True)
  assert not capsys.readouterr().err
  assert read.card.architecture == fields
  assert set(read.params) == {'img', 'txt', 't'}
  alone = model_card.load(tmp_path / 'a.npz')
  assert alone.card.architecture['num_classes'] is None
  assert set(alone.params) == set(read.params['img'])


@pytest.mark.quick
@pytest.mark.parametrize('case', CASES)
def test_adapt_takes_one_tower_or_both(case):
  tree = trees.nest(arrays_of(case))
  model = models.create(reference.lit()['cases'][case])
  image = weights.adapt(tree, model.img, image_size=(32, 32), head='keep')
  assert set(image) == set(tree['img'])
  both = weights.adapt(tree, model, image_size=(64, 64))
  io = reference.lit_arrays(case, 'io')
  zimg, ztxt, _ = model.apply(
    {'params': both}, np.zeros((1, 64, 64, 3)), io['tokens']
  )
  assert zimg.shape == (1, 32)
  np.testing.assert_allclose(ztxt, io['ztxt'], atol=1e-6)
  small = weights.describe(tree)
  small['text'] = dict(small['text'], num_layers=1)
  with pytest.raises(ValueError, match=r"extra=.'txt/"):
    weights.adapt(tree, models.create(small))


@pytest.mark.quick
def test_head_of_an_image_tower_gives_no_classes(tmp_path):
  tree = trees.nest(arrays_of('lit_bert'))
  tree['img']['head'] = {
    'kernel': np.ones((32, 5), 'f4'), 'bias': np.zeros(5, 'f4'),
  }  # fmt: skip
  tree['txt']['head'] = {
    'kernel': np.ones((24, 5), 'f4'), 'bias': np.zeros(5, 'f4'),
  }  # fmt: skip
  weights.save(tmp_path / 'lit.npz', tree)
  restored = restoring.restore(tmp_path / 'lit.npz')
  with pytest.raises(ValueError, match='of an image-text model'):
    restored.require_classes(tmp_path / 'lit.npz')


@pytest.mark.quick
def test_zero_shot_notes_a_guess_of_the_number_of_heads(tmp_path, capsys):
  npz.write(tmp_path / 'lit.npz', arrays_of('lit_bert').items())
  (tmp_path / 'lit.txt').write_text('[PAD]\n[UNK]\n[CLS]\n')
  found = zero_shot.restore(tmp_path / 'lit.npz')
  assert 'heads of its BERT of width 24; using 1;' in capsys.readouterr().err
  assert found.restored.image_size == (32, 32)
