"""Zero-shot classification by a model trained here on digits and words."""

import csv
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import run_verb
import toy_towers

from vit_jax_repro import jobs, models, weights
from vit_jax_repro.data import datasets, preprocess, tokens
from vit_jax_repro.inference import zero_shot

NUMBER = 6  # test images of a digit


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Returns a folder with toy.npz, its vocabulary, and digits/test/WORD."""
  folder = tmp_path_factory.mktemp('toy')
  toy_towers.write_model(folder / 'toy.npz')
  toy_towers.write_pictures(folder / 'digits', NUMBER, seed=1)
  return folder


def test_evaluate_zero_shot_is_well_above_chance(place):
  found = jobs.evaluate(
    place / 'toy.npz', str(place / 'digits'), zero_shot=True
  )
  assert found.num_examples == 10 * NUMBER
  assert found.num_classes == 10
  assert found.accuracy > 0.8
  assert '4 own templates' in found.notes[0]
  assert found.preprocessing == 'lit'


def test_evaluate_zero_shot_agrees_with_the_rule_written_out(place):
  params = weights.load(place / 'toy.npz')
  model = models.create(
    json.loads((place / 'toy.json').read_text())['architecture']
  )
  tokenize = tokens.tokenizer(place / 'toy.model', toy_towers.LENGTH)
  names = sorted(toy_towers.WORDS)
  texts = [x.replace('{}', name) for name in names for x in zero_shot.TEMPLATES]
  apply = jax.jit(model.apply)
  ztxt = apply({'params': params}, tokens=tokenize(texts))[1]
  mean = np.reshape(ztxt, (10, len(zero_shot.TEMPLATES), -1)).mean(axis=1)
  classes = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
  images = np.stack(
    [
      preprocess.read_image(
        path, preprocessing='lit', image_size=(toy_towers.SIZE,) * 2
      )
      for name in names
      for path in sorted((place / 'digits' / 'test' / name).iterdir())
    ]
  )
  values = (images + 1) * 127.5
  np.testing.assert_allclose(values, values.round(), atol=1e-3)
  zimg = apply({'params': params}, images=images)[0]
  right = (zimg @ classes.T).argmax(-1) == np.repeat(np.arange(10), NUMBER)
  found = jobs.evaluate(
    place / 'toy.npz', str(place / 'digits'), zero_shot=True, batch_size=7
  )
  assert found.correct == right.sum()


def test_evaluate_command_takes_templates(place, tmp_path):
  (tmp_path / 'p.txt').write_text('\ufeffa photo of a {}\n\n{}\n')
  code, out, err = run_verb.run_verb(
    'evaluate', f'--weights={place}/toy.npz', f'--dataset={place}/digits',
    '--zero_shot', f'--prompts={tmp_path}/p.txt', f'--json={tmp_path}/r.json',
  )  # fmt: skip
  assert code == 0, out + err
  found = json.loads((tmp_path / 'r.json').read_text())
  assert found['accuracy'] > 0.6
  assert '10 classes, 2 templates' in out + err


def test_predict_compares_images_with_texts(place):
  paths = [
    place / 'digits' / 'test' / word / '0.png' for word in toy_towers.WORDS
  ]
  texts = [f'a photo of a {word}' for word in toy_towers.WORDS]
  found = jobs.predict(place / 'toy.npz', paths, top=10, texts=texts)
  right = sum(
    rows[0][1] == text for rows, text in zip(found, texts, strict=True)
  )
  assert right >= 8
  assert all(abs(sum(p for *_, p in rows) - 1) < 1e-5 for rows in found)


def test_predict_command_takes_texts_and_writes_vectors(place, tmp_path):
  image = f'{place}/digits/test/seven/1.png'
  code, out, err = run_verb.run_verb(
    'predict', f'--weights={place}/toy.npz', image,
    '--texts=a photo of a seven,a photo of a two', f'--csv={tmp_path}/a.csv',
  )  # fmt: skip
  assert code == 0, out + err
  rows = list(csv.reader((tmp_path / 'a.csv').read_text().splitlines()))
  assert 'a photo of a seven' in rows[1]
  found = jobs.extract(
    place / 'toy.npz', [image], tmp_path / 'z.npy', features='zimg'
  )
  assert found.shape == (1, 48)
  np.testing.assert_allclose(
    np.linalg.norm(np.load(tmp_path / 'z.npy'), axis=-1), 1, rtol=1e-5
  )


def test_predict_command_takes_a_thousand_texts(place, tmp_path):
  """Fault: texts of other batches, or with a comma, are lost or moved."""
  texts = [
    f'{number}, {word}' for number in range(100) for word in toy_towers.WORDS
  ]
  (tmp_path / 'texts.txt').write_text('\n'.join(texts))
  code, out, err = run_verb.run_verb(
    'predict', f'--weights={place}/toy.npz', f'--texts=@{tmp_path}/texts.txt',
    f'{place}/digits/test/seven/1.png', '--top=1000',
    f'--json={tmp_path}/a.json',
  )  # fmt: skip
  assert code == 0, out + err
  (found,) = json.loads((tmp_path / 'a.json').read_text())
  rows = found['classes']
  assert sorted(row['name'] for row in rows) == sorted(texts)
  towers = zero_shot.restore(place / 'toy.npz')
  vectors = towers.vectors(texts)
  for i in (0, 500, 999):
    np.testing.assert_allclose(
      vectors[i], towers.vectors([texts[i]])[0], atol=1e-5
    )


def test_class_names_may_have_commas(place, tmp_path):
  for word in ('two', 'seven'):
    shutil.copytree(
      place / 'digits' / 'test' / word, tmp_path / 'test' / f'{word}, a digit'
    )
  found = jobs.evaluate(place / 'toy.npz', str(tmp_path), zero_shot=True)
  assert found.num_classes == 2 and found.num_examples == 2 * NUMBER
  towers = zero_shot.restore(place / 'toy.npz')
  source = datasets.open_split(str(tmp_path), 'test')
  classifier, _ = zero_shot.of_data(towers, source)
  assert classifier.class_names == ('seven, a digit', 'two, a digit')


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    (dict(prompts='a photo'), 'must have {} once'),
    (dict(prompts=''), ': none'),
    (dict(vocabulary=None), 'toy.model is missing: the vocabulary'),
    (dict(vocabulary=b'x'), 'is no SentencePiece model'),
    (dict(text=False), 'has no text tower'),
    (dict(model='ViT-B_16'), 'ViT-B_16 names a model without a text tower'),
    (dict(vocab_size=30), '[0-9]+ tokens, more than the 30 that the weights'),
  ],
)
def test_evaluate_zero_shot_names_what_is_wrong(place, change, match, tmp_path):
  for ending in ('npz', 'json', 'model'):
    (tmp_path / f'toy.{ending}').symlink_to(place / f'toy.{ending}')
  prompts = None
  if 'prompts' in change:
    prompts = tmp_path / 'p.txt'
    prompts.write_text(change['prompts'])
  if 'vocabulary' in change:
    (tmp_path / 'toy.model').unlink()
    if change['vocabulary']:
      (tmp_path / 'toy.model').write_bytes(change['vocabulary'])
  if 'vocab_size' in change:
    params = weights.load(place / 'toy.npz')
    table = params['txt']['Embed_0']
    table['embedding'] = table['embedding'][: change['vocab_size']]
    for ending in ('npz', 'json'):
      (tmp_path / f'toy.{ending}').unlink()
    weights.save(tmp_path / 'toy.npz', params)
  if 'text' in change:
    params = weights.load(place / 'toy.npz')['img']
    (tmp_path / 'toy.npz').unlink()
    (tmp_path / 'toy.json').unlink()
    weights.save(tmp_path / 'toy.npz', params)
  with pytest.raises((ValueError, OSError), match=match) as error:
    jobs.evaluate(
      tmp_path / 'toy.npz',
      str(place / 'digits'),
      zero_shot=True,
      prompts=prompts and str(prompts),
      model=change.get('model'),
    )
  assert '\n' not in str(error.value)


def test_predict_command_reads_texts_from_a_file(place, tmp_path):
  (tmp_path / 't.txt').write_text('seven, of ten\n\ntwo\n two\n')
  code, out, err = run_verb.run_verb(
    'predict', f'--weights={place}/toy.npz',
    f'{place}/digits/test/seven/1.png', f'--texts=@{tmp_path}/t.txt',
  )  # fmt: skip
  assert code == 0, out + err
  assert 'seven, of ten' in out
  assert 'several classes are the same text' in err


def test_predict_refuses_texts_that_are_not_unicode(place):
  image = place / 'digits' / 'test' / 'seven' / '1.png'
  with pytest.raises(ValueError, match='not valid Unicode'):
    jobs.predict(place / 'toy.npz', [image], texts=['a \udcff'])


def test_in_order_refuses_names_in_another_order():
  source = SimpleNamespace(
    name='pets', num_classes=3, class_names=('cat', 'dog', 'old_fox')
  )
  with pytest.raises(ValueError, match="'dog' for its class 'cat'"):
    zero_shot._in_order(('dog', 'cat', 'fox'), source)
  names = ('Dog', 'old fox', 'cat')
  assert zero_shot._in_order(names, source) == ['cat', 'Dog', 'old fox']
  names = ('cat', 'dog', 'fox')
  assert zero_shot._in_order(names, source) == list(names)
