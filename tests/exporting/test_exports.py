"""Tests that exports of every family give JAX's logits, else do not appear."""

import json
import os

import jax
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import jobs, models
from vit_jax_repro.data import labels
from vit_jax_repro.errors import InputError
from vit_jax_repro.exporting import exports, onnx_files, programs
from vit_jax_repro.weights import model_card, npz

FAMILIES = {  # fields, image size
  'vit': (tiny_models.spec(3, num_layers=1), (8, 8)),
  'hybrid': (
    tiny_models.spec(
      3, num_layers=1, patch_size=[1, 1], resnet={'num_layers': [1]}
    ),
    (16, 16),
  ),
  'bit': (tiny_models.spec(3, tiny_models.BIT), (16, 16)),
  'mixer': (tiny_models.spec(3, tiny_models.MIXER), (8, 8)),
  'deit': (
    tiny_models.spec(3, num_layers=1, distilled=True, gelu='erf'),
    (8, 8),
  ),
  'registers': (
    tiny_models.spec(
      3,
      num_layers=1,
      gelu='erf',
      layer_scale_init=0.5,
      num_registers=3,
      classifier='token_and_gap',
    ),
    (8, 12),
  ),
  'big_vision': (
    tiny_models.spec(
      3, num_layers=1, classifier='map', position_embedding='sincos2d'
    ),
    (8, 12),
  ),
}
NAMES = ('x', 'flower', 'china')
# Fields of training that an export does not depend on.
TRAINING = {
  'vit': {'dtype': 'bfloat16', 'scan': True, 'remat': True},
  'bit': {'dtype': 'bfloat16', 'remat': True},
}


def save(path, name, params=None, **card):
  """Writes the model of a run of a family; returns its parameters."""
  spec, size = FAMILIES[name]
  params = params or tiny_models.params_of(spec, size)
  model_card.save_model(
    path,
    params,
    architecture=spec | TRAINING.get(name, {}),
    **{'class_names': NAMES, 'image_size': size, **card},
  )
  return params


def jax_logits(name, params, images):
  """Returns the logits in float32, computed without the package's programs."""
  model = models.create(FAMILIES[name][0])
  apply = jax.jit(lambda x: model.apply({'params': params}, x, train=False))
  return np.asarray(apply(images))


def images_of(size, batch):
  images = np.random.default_rng(batch).uniform(-2, 2, (batch, *size, 3))
  return images.astype(np.float32)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('exports')


@pytest.fixture(scope='module')
def exported(folder):
  """The exported ViT, its parameters, and the result of `export`."""
  path = folder / 'model.npz'
  params = save(path, 'vit', preprocessing='timm:crop_pct=0.95')
  out = folder / 'model.onnx'
  return params, out, jobs.export(path, out, license_name='mit')


@pytest.mark.parametrize('suffix', npz.EXPORTS)
@pytest.mark.parametrize('name', FAMILIES)
def test_export_gives_the_logits_of_jax(name, suffix, tmp_path):
  path, out = tmp_path / 'model.npz', tmp_path / f'out{suffix}'
  params = save(path, name)
  done = exports.export(path, out)
  assert sorted(os.listdir(tmp_path)) == sorted(
    ['model.npz', 'model.json', out.name, f'{out.name}.json']
  )
  assert [check.batch_size for check in done.checks] == [1, 5]
  assert all(check.difference <= check.allowed for check in done.checks)
  module = onnx_files if suffix == '.onnx' else exports.stablehlo_files
  run = module.runner(out)
  batches = [images_of(FAMILIES[name][1], batch) for batch in (1, 2, 5)]
  logits = jax_logits(name, params, np.concatenate(batches))  # compiles once
  assert logits.shape == (8, 3)
  for images, wanted in zip(batches, np.split(logits, [1, 3]), strict=True):
    np.testing.assert_allclose(
      run(images), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max()
    )


def test_export_describes_its_images_and_classes(exported):
  import onnx

  _, out, done = exported
  about = json.loads((out.parent / 'model.onnx.json').read_text())
  assert done.description == f'{out}.json'
  assert about['class_names'] == list(NAMES)
  assert about['input']['shape'] == ['batch', 8, 8, 3]
  assert about['output'] == {
    'name': 'logits', 'shape': ['batch', 3], 'dtype': 'float32',
  }  # fmt: skip
  assert about['preprocessing']['resize']['height'] == int(8 / 0.95)
  model = onnx.load(out)
  stored = {each.key: each.value for each in model.metadata_props}
  assert stored['license'] == 'mit' and stored['model'] == 'vit'
  for key in ('preprocessing', 'class_names'):
    assert json.loads(stored[key]) == about[key]
  ((image,), (logits,)) = model.graph.input, model.graph.output
  assert (image.name, logits.name) == ('images', 'logits')
  assert image.type.tensor_type.shape.dim[0].dim_param == 'batch'


@pytest.mark.parametrize(
  'loss, drop, probabilities',
  [
    (None, (), 'softmax'),
    ('sigmoid', (), 'sigmoid'),
    ('sigmoid', ('head',), None),
    ('regression', (), None),
  ],
)
def test_export_says_how_probabilities_follow(
  loss, drop, probabilities, tmp_path
):
  import onnx

  path, out = tmp_path / 'model.npz', tmp_path / 'model.onnx'
  save(path, 'vit', loss=loss)
  exports.export(path, out, drop=drop)
  about = json.loads((tmp_path / 'model.onnx.json').read_text())
  assert about['probabilities'] == probabilities
  stored = {each.key: each.value for each in onnx.load(out).metadata_props}
  assert stored.get('probabilities') == probabilities


def test_export_gives_no_probabilities_of_single_tokens(tmp_path):
  """Such as a run that predicts masked patches."""
  path, out = tmp_path / 'model.npz', tmp_path / 'model.stablehlo'
  spec = tiny_models.spec(3, num_layers=1, classifier='token_unpooled')
  params = tiny_models.params_of(spec)
  model_card.save_model(path, params, architecture=spec, image_size=(8, 8))
  exports.export(path, out)
  about = json.loads((tmp_path / 'model.stablehlo.json').read_text())
  assert about['output']['shape'] == ['batch', 5, 3]
  assert about['probabilities'] is None


def test_export_widens_weights_and_computes_in_float32(tmp_path):
  import ml_dtypes
  import onnx

  path, out = tmp_path / 'model.npz', tmp_path / 'model.onnx'
  spec, size = FAMILIES['vit']
  narrow = jax.tree.map(
    lambda leaf: leaf.astype(ml_dtypes.bfloat16),
    tiny_models.params_of(spec, size),
  )
  save(path, 'vit', narrow)
  exports.export(path, out)
  model = onnx.load(out)
  floats = {
    each.data_type
    for each in model.graph.initializer
    if each.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
  }
  assert floats == {onnx.TensorProto.FLOAT}
  assert not any(node.op_type == 'Loop' for node in model.graph.node)
  wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), narrow)
  images = images_of(size, 2)
  wanted = jax_logits('vit', wide, images)
  np.testing.assert_allclose(
    onnx_files.runner(out)(images), wanted, atol=1e-5 * np.abs(wanted).max()
  )


def test_export_resizes_positions_with_a_note(exported, tmp_path, capsys):
  _, out, _ = exported
  path = tmp_path / 'wide.stablehlo'
  done = exports.export(
    out.with_name('model.npz'), path, image_size=(8, 16), drop=('head',)
  )
  err = capsys.readouterr().err
  assert 'made for 8x8 pixels, are resized to 8x16' in err
  assert done.input_shape == (8, 16, 3)
  assert (done.output, done.output_shape) == ('features', (16,))
  features = exports.stablehlo_files.runner(path)(images_of((8, 16), 2))
  assert features.shape == (2, 16)
  about = json.loads((tmp_path / 'wide.stablehlo.json').read_text())
  assert about['class_names'] is None


def test_export_replaces_nothing_unasked(exported, tmp_path):
  _, out, _ = exported
  path = out.with_name('model.npz')
  before = out.read_bytes()
  with pytest.raises(FileExistsError, match=r'exists already.*--overwrite'):
    exports.export(path, out)
  other = tmp_path / 'other.stablehlo'
  other.with_name('other.stablehlo.json').write_text('mine')
  with pytest.raises(FileExistsError, match=r'other\.stablehlo\.json'):
    exports.export(path, other)
  assert out.read_bytes() == before and not other.exists()
  exports.export(path, other, overwrite=True)
  assert 'mine' not in other.with_name('other.stablehlo.json').read_text()


@pytest.mark.parametrize('suffix', npz.EXPORTS)
def test_export_leaves_nothing_if_the_logits_differ(
  suffix, exported, tmp_path, monkeypatch
):
  """Plants a GELU of another form, which moves the logits a little."""
  _, out, _ = exported
  function = programs.Program.function.fget

  def wrong(program):
    other = programs.dataclasses.replace(
      program.restored, model=program.restored.model.clone(gelu='erf')
    )
    return programs._function(other)

  written = exports._written

  def plant(*arguments):
    monkeypatch.setattr(programs.Program, 'function', property(wrong))
    try:
      return written(*arguments)
    finally:
      monkeypatch.setattr(programs.Program, 'function', property(function))

  monkeypatch.setattr(exports, '_written', plant)
  path = tmp_path / f'wrong{suffix}'
  with pytest.raises(InputError, match='batch size 1 it differs from JAX by'):
    exports.export(out.with_name('model.npz'), path)
  assert not os.listdir(tmp_path)


def test_export_refuses_what_cannot_be_checked(tmp_path, monkeypatch):
  spec, size = FAMILIES['vit']
  params = tiny_models.params_of(spec, size)
  path, out = tmp_path / 'model.npz', tmp_path / 'model.stablehlo'
  params['cls'][:] = np.nan
  save(path, 'vit', params)
  with pytest.raises(InputError, match='not finite'):
    exports.export(path, out)
  params = tiny_models.with_head(tiny_models.params_of(spec, size), kernel=0)
  save(path, 'vit', params)
  with pytest.raises(InputError, match=r'head .* is all zeros'):
    exports.export(path, out)
  monkeypatch.setattr(exports, 'MOST_BYTES', 1000)
  with pytest.raises(InputError, match='GB of weights in float32'):
    exports.export(path, out)
  with pytest.raises(InputError, match=r'must end in \.onnx or \.stablehlo'):
    exports.export(path, tmp_path / 'model.pb')
  with pytest.raises(InputError, match=r'name of an export; see jobs\.export'):
    jobs.convert(path, out)
  assert sorted(os.listdir(tmp_path)) == ['model.json', 'model.npz']


def test_export_of_a_published_head_names_its_classes(tmp_path):
  path, out = tmp_path / 'model.npz', tmp_path / 'model.stablehlo'
  spec = tiny_models.spec(1000, num_layers=1)
  model_card.save_model(
    path, tiny_models.params_of(spec), architecture=spec, image_size=(8, 8)
  )
  exports.export(path, out)
  about = json.loads((tmp_path / 'model.stablehlo.json').read_text())
  assert about['class_names'] == list(labels.class_names_of(1000))
  assert about['preprocessing']['name'] == 'vit_jax'
