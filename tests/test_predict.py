import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS
from run_verb import assert_one_line, run_verb

from vit_jax_repro import models, weights

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
