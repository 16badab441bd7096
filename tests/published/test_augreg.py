"""Queries on the AugReg bucket's index."""

import pytest
from augreg_index import HEADER, LINES

from vit_jax_repro.published import augreg, catalogue

pytestmark = pytest.mark.quick


@pytest.fixture(name='path')
def index_path(tmp_path):
  path = tmp_path / 'index.csv'
  path.write_text('\n'.join([HEADER, *LINES]) + '\n')
  return path


def ranked(path, **wanted):
  rows = augreg.ranked(augreg.read_index(path), **wanted)
  return [(row.model, row.filename.split('aug_')[1][:6]) for row in rows]


def test_ranked_sorts_by_accuracy_in_pretraining(path):
  assert ranked(path) == [
    ('ViT-B_16', 'light1'),
    ('ViT-B_16', 'strong'),
    ('ViT-B_16', 'none-w'),
    ('R26+ViT-S_32', 'medium'),
    ('ViT-Ti_16', 'none-w'),
    ('R26+ViT-S_32', 'light0'),  # has no accuracy
  ]
  first = augreg.ranked(augreg.read_index(path))[0]
  assert first.resolution == 224 and first.images_per_sec == 660
  name = augreg.file_of(first, adapted=False)
  assert catalogue.find(name).num_classes == 21_843


def test_ranked_accepts_any_name_of_a_model(path):
  for name in ('R26_S_32', 'R26+ViT-S_32', 'r26_s32'):
    assert ranked(path, model=name)[0] == ('R26+ViT-S_32', 'medium')
  with pytest.raises(ValueError, match="unknown model 'B16'"):
    ranked(path, model='B16')


def test_ranked_filters_by_parameters_and_speed(path):
  assert ranked(path, max_params=40e6)[0] == ('R26+ViT-S_32', 'medium')
  assert ranked(path, min_images_per_sec=2000) == [('ViT-Ti_16', 'none-w')]
  assert ranked(path, max_params=5.7e6) == [('ViT-Ti_16', 'none-w')]
  with pytest.raises(ValueError, match=r'smallest has 5.7e\+06 parameters'):
    ranked(path, max_params=1e6)


def test_ranked_filters_by_pretraining_data(path):
  assert ranked(path, pretrained_on='i1k') == [('ViT-B_16', 'strong')]
  assert ranked(path, pretrained_on='i21k_30') == [('R+ViT-Ti_16', 'none-w')]
  with pytest.raises(ValueError, match=r"choose from \['i1k', 'i21k', 'i21k_3"):
    ranked(path, pretrained_on='jft')


def test_ranked_sorts_and_filters_fine_tuned_files(path):
  rows = augreg.ranked(augreg.read_index(path), adapted_to='pets')
  assert [(row.final_val, row.adapt_final_val) for row in rows[:3]] == [
    (0.52, 0.93), (0.52, 0.91), (0.47, 0.90),
  ]  # fmt: skip
  rows = augreg.ranked(
    augreg.read_index(path), adapted_to='pets', resolution=384
  )
  assert [augreg.file_of(row, adapted=True) for row in rows] == [
    'augreg/B_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0--pets-'
    'steps_2k-lr_0.01-res_384'
  ]
  with pytest.raises(ValueError, match='among those with pretrained_on=i21k'):
    ranked(path, adapted_to='cars')


@pytest.mark.parametrize(
  'text', ['', HEADER, 'a,b\n1,2\n', f'{HEADER}\nB/16,i21k\n', '<html>\n<p>']
)
def test_read_index_rejects_another_file(tmp_path, text):
  path = tmp_path / 'index.csv'
  path.write_text(text)
  with pytest.raises(ValueError, match='download it again'):
    augreg.read_index(path)


def test_read_index_rejects_binary_data(tmp_path):
  path = tmp_path / 'index.csv'
  path.write_bytes(b'\xff\xfe\0')
  with pytest.raises(ValueError, match='download it again'):
    augreg.read_index(path)
