"""Model cards, the JSON files next to weights."""

import json
import os

import jax
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import weights
from vit_jax_repro.weights import model_card

pytestmark = pytest.mark.quick

SPEC = tiny_models.spec(3)
CARD = {
  'class_names': ('cat', 'dog', 'eel'),
  'preprocessing': 'vit_jax',
  'image_size': (8, 8),
  'orientation': 'exif',
}


@pytest.fixture(scope='module')
def params():
  return tiny_models.params_of(SPEC)


def test_save_model_and_read_card_round_trip(tmp_path, params):
  path = tmp_path / 'model.npz'
  model_card.save_model(path, params, architecture=SPEC, **CARD)
  assert sorted(os.listdir(tmp_path)) == ['model.json', 'model.npz']
  card = model_card.read_card(path)
  assert card == model_card.ModelCard(architecture=SPEC, **CARD)
  jax.tree.map(np.testing.assert_array_equal, weights.load(path), params)


def test_save_model_keeps_a_preprocessing_with_a_parameter(tmp_path, params):
  path = tmp_path / 'model.npz'
  card = {**CARD, 'preprocessing': 'timm:crop_pct=0.95'}
  model_card.save_model(path, params, architecture=SPEC, **card)
  assert model_card.read_card(path).preprocessing == 'timm:crop_pct=0.95'


def test_read_card_accepts_missing_fields(tmp_path, params):
  path = tmp_path / 'lr_0.1.npz'
  assert model_card.read_card(path) is None
  model_card.save_model(path, params, architecture=SPEC)
  assert model_card.read_card(path) == model_card.ModelCard(architecture=SPEC)
  assert model_card.card_path(path) == str(tmp_path / 'lr_0.1.json')


def test_save_model_writes_the_weights_last(tmp_path, params, monkeypatch):
  def fail(*_, **__):
    raise OSError('disk full')

  monkeypatch.setattr(weights, 'save', fail)
  with pytest.raises(OSError, match='disk full'):
    model_card.save_model(tmp_path / 'm.npz', params, architecture=SPEC)
  assert os.listdir(tmp_path) == ['m.json']


@pytest.mark.parametrize(
  'change, message',
  [
    ({'class_names': ('cat',)}, '1 class names for 3 classes'),
    ({'class_names': (1, 2, 3)}, 'list of names'),
    ({'image_size': (8,)}, r"'image_size' must be \[height, width\]"),
    ({'preprocessing': 3}, "'preprocessing' must be a name"),
  ],
)
def test_save_model_rejects_an_inconsistent_card(
  tmp_path, params, change, message
):
  with pytest.raises(ValueError, match=message):
    model_card.save_model(
      tmp_path / 'm.npz', params, architecture=SPEC, **{**CARD, **change}
    )
  assert not os.listdir(tmp_path)


def test_save_model_rejects_other_paths(tmp_path, params):
  with pytest.raises(ValueError, match=r'must end in \.npz'):
    model_card.save_model(tmp_path / 'm.json', params, architecture=SPEC)
  with pytest.raises(OSError, match='there is no folder'):
    model_card.save_model(tmp_path / 'x' / 'm.npz', params, architecture=SPEC)


@pytest.mark.parametrize(
  'text, message',
  [
    ('{', 'is not valid JSON'),
    ('[1]', 'it is a list'),
    ('{"architecture": "ViT"}', "no 'architecture'"),
    (json.dumps({'architecture': SPEC, 'class_names': 'abc'}), 'list of names'),
  ],
)
def test_read_card_rejects_damaged_cards(tmp_path, text, message):
  (tmp_path / 'm.json').write_text(text)
  with pytest.raises(ValueError, match=message) as caught:
    model_card.read_card(tmp_path / 'm.npz')
  assert 'm.json' in str(caught.value) and '\n' not in str(caught.value)
