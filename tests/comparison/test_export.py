"""Archives of activations, as a port would use them."""

import json

import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.comparison import activations, crosschecking

pytestmark = pytest.mark.quick


@pytest.fixture
def archive(tmp_path):
  spec = tiny_models.spec(3)
  params = tiny_models.params_of(spec)
  weights.save(tmp_path / 'model.npz', params)
  path = tmp_path / 'reference.npz'
  crosschecking.export_reference(
    tmp_path / 'model.npz', path, image_size=(8, 8)
  )
  return path, models.create(spec), params


def differing(path, answer):
  """Compares with the archive as in docs/crosscheck.md, using only NumPy."""
  with np.load(path) as archive:
    about = json.loads(archive['about'].tobytes())
    outputs = answer(archive['images'])
    return [
      name
      for name in about['order']
      if np.abs(
        outputs[name] - archive[name if name == 'logits' else f'inter:{name}']
      ).max()
      > archive[f'tolerance:{name}']
    ]


@pytest.mark.slow
def test_archive_shows_the_first_different_layer(archive):
  path, model, params = archive
  assert not differing(
    path, lambda images: activations.run(model, params, images)
  )
  other = model.clone(gelu='erf')
  assert (
    differing(path, lambda images: activations.run(other, params, images))[0]
    == 'Transformer/encoderblock_0/MlpBlock_0'
  )


def test_archive_has_arrays_and_metadata(archive):
  path, model, _ = archive
  with np.load(path, allow_pickle=False) as found:
    about = json.loads(found['about'].tobytes())
    assert found['images'].shape == (3, 8, 8, 3)
    assert found['logits'].dtype == np.float32
    names = {name.removeprefix('inter:') for name in found if 'inter:' in name}
  assert about['format'] == 1
  assert about['weights'] == 'model.npz'
  assert {*about['order']} == names | {'logits'}
  assert models.create(about['model']) == model
  assert about['files'] == [] and about['preprocessing'] is None
  assert 'jax' in about['versions']


def test_export_reference_checks_the_name_first(tmp_path):
  with pytest.raises(ValueError, match=r"ref.bin' must end in .npz"):
    crosschecking.export_reference(tmp_path / 'a.npz', tmp_path / 'ref.bin')
  assert not any(tmp_path.iterdir())
