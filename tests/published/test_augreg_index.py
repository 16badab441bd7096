"""The index of AugReg files, downloaded or replaced by the catalogue."""

import math

import augreg_index as small_index
import pytest
from file_server import FORBIDDEN, Served, serving

from vit_jax_repro.published import augreg, augreg_index, catalogue

pytestmark = pytest.mark.quick

PAGE = b'<!DOCTYPE html><title>429</title>'


@pytest.fixture(autouse=True)
def offline(monkeypatch):
  for name in ('HTTP_PROXY', 'http_proxy', 'VIT_JAX_REPRO_STORAGE'):
    monkeypatch.delenv(name, raising=False)
  for name in ('https_proxy', 'HTTPS_PROXY'):
    monkeypatch.setenv(name, 'http://127.0.0.1:9')


def test_fetch_index_downloads_a_valid_index_once(tmp_path):
  path = 'vit_models/augreg/index.csv'
  with serving(**{path: Served(PAGE)}) as (base, files, _):
    with pytest.raises(OSError, match=r'(?s)--index=PATH.*it lists no AugReg'):
      augreg_index.fetch_index(tmp_path, mirror=base, waits=())
    assert not list(tmp_path.iterdir())
    content = '\n'.join([small_index.HEADER, *small_index.LINES]) + '\n'
    files[f'/{path}'] = Served(content.encode())
    found = augreg_index.fetch_index(tmp_path, mirror=base, waits=())
    files.clear()
    assert augreg_index.fetch_index(tmp_path, mirror=base) == found
  assert found == str(tmp_path / 'index.csv')
  assert (tmp_path / 'index.csv').read_text() == content


def test_fetch_index_rejects_a_file_as_its_folder(tmp_path):
  (tmp_path / 'w').write_text('mine')
  with pytest.raises(OSError, match='is a file; give the name of a folder'):
    augreg_index.fetch_index(tmp_path / 'w')
  assert (tmp_path / 'w').read_text() == 'mine'


def test_rows_rank_files_with_a_copy_if_the_bucket_refuses(
  tmp_path, monkeypatch, capsys
):
  """Fault: the best file cannot be found or, once found, cannot be fetched."""
  with serving(**{'vit_models/augreg/index.csv': FORBIDDEN}) as (base, *_):
    monkeypatch.setenv('VIT_JAX_REPRO_STORAGE', base)
    tuned = augreg_index.rows(tmp_path, adapted=True)
    pretrained = augreg_index.rows(tmp_path, adapted=False)
  err = capsys.readouterr().err
  assert f'{base}/vit_models/augreg/index.csv: 403 Forbidden' in err
  assert '25 AugReg files are ranked' in err
  assert '10 AugReg files are ranked' in err
  for rows, adapted in ((tuned, True), (pretrained, False)):
    for row in rows:
      assert catalogue.find(augreg.file_of(row, adapted)).has_copy
      assert row.adapted_to == 'imagenet2012' and math.isnan(row.final_val)
  best = augreg.ranked(tuned, adapted_to='imagenet2012')[0]
  # timm's results-imagenet.csv: 87.096 % for vit_large_patch16_384.augreg.
  assert best.model == 'ViT-L_16'
  assert best.adapt_final_val == pytest.approx(0.87096)
  best = augreg.ranked(pretrained, model='Ti_16')[0]
  assert augreg.file_of(best, False) == (
    'augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'
  )
  assert best.resolution == 224 and best.params == pytest.approx(5.7e6, 0.01)
  with pytest.raises(ValueError, match=r'fastest runs at 2426 images/s'):
    augreg.ranked(pretrained, min_images_per_sec=1e4)
  assert not list(tmp_path.iterdir())
