import csv
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS
from run_verb import assert_one_line, run_verb

from vit_jax_repro import jobs, models, predict, weights

quick = pytest.mark.quick

CHINA, FLOWER = PHOTOGRAPHS.values()


def test_predict_prints_and_writes_classes_of_a_full_size_vit(tmp_path):
  path = tmp_path / 'ViT-Ti_16.npz'
  model = models.create('ViT-Ti_16', num_classes=1000)
  images = jnp.zeros((1, 224, 224, 3))
  params = jax.jit(
    lambda: model.init(jax.random.key(0), images, train=False)['params']
  )()
  bias = np.zeros(1000)
  bias[[207, 985, 483]] = 12, 11, 10
  kernel = np.random.default_rng(0).normal(size=(192, 1000)) / 100
  weights.save(path, tiny_models.with_head(params, kernel, bias))
  out_path = tmp_path / 'out.json'
  code, out, err = run_verb(
    'predict', f'--weights={path}', '--top=3', f'--json={out_path}',
    CHINA, FLOWER,
  )  # fmt: skip
  assert (code, err) == (0, '')
  for text in ('golden retriever', 'daisy', 'castle'):
    assert out.count(text) == 2
  results = json.loads(out_path.read_text())
  assert [r['image'] for r in results] == [str(CHINA), str(FLOWER)]
  for result in results:
    assert result['image'] in out.replace('\n', '')
    assert [c['label'] for c in result['classes']] == [207, 985, 483]
    for entry in result['classes']:
      assert f'{entry["probability"]:.2%}' in out
  assert results[0]['classes'] != results[1]['classes']


def test_predict_refuses_wrong_values_in_one_line(tmp_path):
  path = tmp_path / 'zeros.npz'
  params = tiny_models.params_of(tiny_models.spec(10))
  weights.save(path, tiny_models.with_head(params, kernel=0))
  answer = run_verb('predict', f'--weights={path}', CHINA)
  assert_one_line(answer, 'zeros.npz is all zeros', 'fine-tune')
  weights.save(path, params)
  (tmp_path / 'x [bold].png').write_bytes(b'no image')
  answer = run_verb('predict', f'--weights={path}', tmp_path / 'x [bold].png')
  assert_one_line(answer, 'x [bold].png is not a readable JPEG')
  answer = run_verb('predict', f'--weights={path}')
  assert_one_line(answer, 'predict: no image to predict')
  assert answer[0] == 2


@quick
def test_predict_replaces_no_input_by_its_result(tmp_path):
  path = tiny_models.save_run(tmp_path / 'model.npz')
  image = tmp_path / 'a.jpg'
  image.write_bytes(FLOWER.read_bytes())
  before = image.read_bytes()
  (tmp_path / 'b.json').symlink_to(image)
  answer = run_verb(
    'predict', f'--weights={path}', f'--json={tmp_path / "b.json"}', image
  )
  assert_one_line(answer, 'it would replace', 'a.jpg')
  assert image.read_bytes() == before
  for name in ('model.npz', 'model.json', 'result.json'):
    answer = run_verb(
      'predict', f'--weights={tmp_path}', f'--csv={tmp_path / name}', image
    )
    assert_one_line(answer, 'it would replace', name)


def test_predict_prints_brackets_in_names_unchanged(tmp_path):
  path = tmp_path / 'm.npz'
  weights.save(path, tiny_models.params_of(tiny_models.spec(20)))
  image = tmp_path / '[red]' / 'a.jpg'
  image.parent.mkdir()
  image.write_bytes(FLOWER.read_bytes())
  code, out, err = run_verb('predict', f'--weights={path}', '--top=20', image)
  assert (code, err) == (0, '')
  assert str(image) in out
  assert all(f'class {i} ' in out for i in range(20))


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """A folder of two good images, a damaged one and a list of more names."""
  folder = tmp_path_factory.mktemp('many') / 'photos'
  folder.mkdir()
  for number in (10, 2):
    (folder / f'img{number}.jpg').write_bytes(FLOWER.read_bytes())
  (folder / 'img3.jpg').write_bytes(b'no image')
  strange = os.fsencode(folder.parent) + b'/two\nlines,\xff.jpg'
  with open(strange, 'wb') as file:
    file.write(CHINA.read_bytes())
  names = strange, os.fsencode(CHINA), b'no such.jpg'
  (folder.parent / 'list').write_bytes(b'\0'.join(names))
  return folder


def test_predict_continues_after_damaged_images(tiny_vit, photos, tmp_path):
  """Of a folder and of a list with a missing file, into all kinds of files."""
  given = photos, f'@{photos.parent}/list'
  outputs = {
    kind: tmp_path / f'out.{kind}' for kind in ('csv', 'json', 'jsonl')
  }
  code, out, err = run_verb(
    'predict', f'--weights={tiny_vit}', '--batch_size=2', '--top=2',
    *(f'--{kind}={path}' for kind, path in outputs.items()), *given,
  )  # fmt: skip
  first, second, last = err.splitlines()
  assert code == 1 and 'out.csv' in out and '4 images in ' in out
  assert 'img3.jpg is not a readable JPEG' in first
  assert second == 'unreadable: no such image: no such.jpg'
  assert last == (
    'predict: 2 images cannot be read; the other 4 images are in the result'
  )
  strange = os.fsdecode(os.fsencode(photos.parent) + b'/two\nlines,\xff.jpg')
  good = [photos / 'img2.jpg', photos / 'img10.jpg', strange, CHINA]
  images = [str(path) for path in (good[0], photos / 'img3.jpg', *good[1:])]
  images.append('no such.jpg')
  found = json.loads(outputs['json'].read_text())
  lines = outputs['jsonl'].read_text().splitlines()
  assert [json.loads(line) for line in lines] == found
  assert [each['image'] for each in found] == images
  with open(
    outputs['csv'], encoding='utf-8', errors='surrogateescape', newline=''
  ) as file:
    rows = [*csv.reader(file)]
  assert rows[0] == [
    'image', 'label_1', 'class_1', 'probability_1', 'label_2', 'class_2',
    'probability_2', 'error',
  ]  # fmt: skip
  wanted = iter(jobs.predict(tiny_vit, good, top=2))
  for row, each in zip(rows[1:], found, strict=True):
    assert row[0] == each['image']
    if each['error']:
      assert not each['classes'] and row[1:] == [*[''] * 6, each['error']]
      continue
    classes = [tuple(c.values()) for c in each['classes']]
    assert row[1:] == [*(str(x) for c in classes for x in c), '']
    for one, other in zip(classes, next(wanted), strict=True):
      assert one[:2] == other[:2] and one[2] == pytest.approx(
        other[2], abs=1e-6
      )


def test_predict_writes_nothing_if_no_image_is_readable(
  tiny_vit, photos, tmp_path
):
  arguments = f'--weights={tiny_vit}', f'--csv={tmp_path / "out.csv"}'
  answer = run_verb('predict', *arguments, photos / 'img3.jpg')
  assert_one_line(answer, 'predict: ', 'img3.jpg is not a readable JPEG')
  code, out, err = run_verb('predict', *arguments, photos / 'img3.jpg', 'no')
  assert code == 1 and not out and err.count('unreadable: ') == 2
  assert err.endswith('predict: none of the 2 images can be read\n')
  assert not [*tmp_path.iterdir()]


def test_predict_prints_as_it_goes_and_escapes_names(tiny_vit, photos):
  code, out, err = run_verb(
    'predict', f'--weights={tiny_vit}', photos, f'@{photos.parent}/list'
  )
  assert code == 1 and err.count('\n') == 3
  assert out.count('probability') == 4 and 'two\\nlines,\\udcff.jpg' in out


def test_predict_writes_features_with_names(tiny_vit, photos, tmp_path):
  out = tmp_path / 'x.npy'
  code, printed, err = run_verb(
    'predict', f'--weights={tiny_vit}', '--features=pre_logits',
    f'--out={out}', photos,
  )  # fmt: skip
  assert code == 1 and 'img3.jpg is not a readable' in err
  assert printed.startswith(f'{out}: 2x16, float32; 2 images in ')
  assert np.load(out).shape == (2, 16)
  names = (tmp_path / 'x.csv').read_text().splitlines()
  assert names == ['image', f'{photos}/img2.jpg', f'{photos}/img10.jpg']


@quick
@pytest.mark.parametrize(
  'arguments, wanted',
  [
    (['--features=pre_logits'], '--out must be given'),
    (['--out=x.npy'], '--out is for --features; give it, too'),
    (['--features=a', '--out=x.csv'], "--out='x.csv' must end in .npy"),
    (['--features=a', '--out=x.npy', '--top=2'], '--top is for classes, in'),
    (['--csv=x', '--json=x'], 'it would replace'),
    (['--batch_size=0'], '--batch_size=0'),
  ],
)
def test_predict_refuses_wrong_flags_in_one_line(
  arguments, wanted, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as caught:
    predict.main(['predict', '--weights=m.npz', *arguments, str(FLOWER)])
  out, err = capsys.readouterr()
  assert caught.value.code in (1, 2) and not out and not [*tmp_path.iterdir()]
  assert err.count('\n') == 1 and wanted in err
