"""EXIF orientation: the flag, then the card, then the kind of data decides."""

import dataclasses

import numpy as np
import pytest
import tiny_models
from PIL import Image

from vit_jax_repro import weights
from vit_jax_repro.data import datasets
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference.evaluation import evaluate
from vit_jax_repro.inference.prediction import predict
from vit_jax_repro.inference.restoring import Restored, restore
from vit_jax_repro.runs import settings, starting
from vit_jax_repro.weights import model_card

pytestmark = pytest.mark.quick

NOTE = '2 images carry an EXIF orientation that is not applied'


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
  """Writes test/CLASS/*.jpg; two of the three images lie on their side."""
  root = tmp_path_factory.mktemp('photographs')
  pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype='u1')
  for number, orientation in enumerate([6, 1, 8]):
    path = root / 'test' / str(number % 2) / f'{number}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95, subsampling=0)
  return root


def paths(root):
  return sorted(root.rglob('*.jpg'), key=lambda path: path.name)


def with_card(path, orientation):
  spec = tiny_models.spec(10)
  model_card.save_model(
    path,
    tiny_models.params_of(spec),
    architecture=spec,
    image_size=(8, 8),
    preprocessing='vit_jax',
    orientation=orientation,
  )
  return path


def test_flag_wins_over_card_and_card_over_kind_of_data(photographs, tmp_path):
  """Kind: a file's property applied in one place and not in another."""
  folder = datasets.open_split(str(photographs), 'test')
  digits = dataclasses.replace(folder, is_folder=False)
  path = with_card(tmp_path / 'model.npz', 'none')
  for source, default in ((folder, 'exif'), (digits, 'none')):
    for card in (None, 'exif', 'none'):
      with_card(path, card)
      for flag in (None, 'exif', 'none'):
        restored = restore(path, orientation=flag).for_data(source)
        assert restored.orientation == (flag or card or default)


def test_evaluate_counts_orientations_that_it_does_not_apply(
  photographs, tmp_path, capsys
):
  """Kind: a property of a file that is dropped in silence."""
  path = with_card(tmp_path / 'model.npz', 'none')
  for flag, noted in ((None, True), ('none', True), ('exif', False)):
    found = evaluate(path, str(photographs), orientation=flag)
    assert found.orientation == (flag or 'none')
    assert (NOTE in capsys.readouterr().err) == noted


def test_predict_turns_photographs_upright_unless_the_card_forbids_it(
  photographs, tmp_path, capsys
):
  images = paths(photographs)
  path = with_card(tmp_path / 'model.npz', None)
  first, second, third = predict(path, images)
  assert first != second != third  # one picture, turned in three ways
  assert NOTE not in capsys.readouterr().err
  with_card(path, 'none')
  first, second, third = predict(path, images)
  assert first == second == third
  assert NOTE in capsys.readouterr().err
  assert predict(path, images, orientation='exif')[0] != first


def test_restore_refuses_a_wrong_orientation(tmp_path):
  path = with_card(tmp_path / 'model.npz', None)
  with pytest.raises(InputError, match="'left' must be one of"):
    restore(path, orientation='left')
  with pytest.raises(InputError, match="'orientation' must be 'exif', 'none'"):
    with_card(path, 'left')


def test_a_weights_file_without_a_card_records_no_orientation(tmp_path):
  path = tmp_path / 'tiny.npz'
  weights.save(path, tiny_models.params_of(tiny_models.spec(10)))
  restored = restore(path, image_size=8)
  assert isinstance(restored, Restored) and restored.orientation is None


def test_resumed_run_keeps_the_orientation_that_it_began_with():
  """Kind: a default that changes the second half of a run."""

  @dataclasses.dataclass(frozen=True)
  class Settings:
    pp: settings.Preprocessing

  def orientation(given, begun):
    pp = settings.Preprocessing(
      train='train', test='test', crop=8, orientation=given
    )
    return starting.read_as_begun(Settings(pp), begun).pp.orientation

  assert orientation(None, {}) is None
  assert orientation(None, {'train': 'train'}) == 'none'  # an older run
  assert orientation(None, {'orientation': 'exif'}) == 'exif'
  assert orientation('none', {'orientation': 'exif'}) == 'none'
