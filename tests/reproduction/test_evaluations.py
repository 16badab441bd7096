"""Tests the file name of an evaluation, which contains all its inputs."""

import dataclasses

import pytest

from vit_jax_repro.data import datasets
from vit_jax_repro.paper import table
from vit_jax_repro.parallel import installed
from vit_jax_repro.reproduction import checks, evaluations
from vit_jax_repro.reproduction.evaluations import CheckEvaluation
from vit_jax_repro.reproduction.options import Options

pytestmark = pytest.mark.quick

OPTIONS = Options(results='r')


def test_path_differs_between_heads_of_a_distilled_model(tmp_path):
  rows = [
    row
    for row in table.rows()
    if row.table == 'DeiT Table 3'
    and row.status == table.INFERENCE
    and row.eval_dataset == 'ImageNet'
    and 'token only' in row.model
  ]
  weights = tmp_path / 'w.npz'
  weights.write_text('weights')
  by_file = {}
  for row in rows:
    check = checks.resolve(row)
    evaluation = CheckEvaluation(
      check, *check.datasets, 224, check.preprocessing
    )
    name = evaluation.path(str(weights), OPTIONS)
    by_file.setdefault(check.files, {})[check.head] = name
  assert by_file
  for heads in by_file.values():
    assert set(heads) == {'class', 'distillation'}
    assert len(set(heads.values())) == 2


def test_path_depends_on_every_input_of_an_evaluation(tmp_path):
  check = checks.resolve(
    table.find('vit-table-5-vit-b-16-imagenet-21k-90ep-imagenet')
  )
  weights = tmp_path / 'w.npz'
  weights.write_text('weights')
  one = CheckEvaluation(check, 'imagenet2012', 384, 'vit_jax')

  def path(evaluation, options=OPTIONS):
    return evaluation.path(str(weights), options)

  first = path(one)
  assert first == path(one) and first.startswith('r/work/evaluations/w-imagen')
  others = [
    path(dataclasses.replace(one, dataset='imagenet2012_real')),
    path(dataclasses.replace(one, image_size=224)),
    path(dataclasses.replace(one, preprocessing='bit')),
    path(
      dataclasses.replace(one, check=dataclasses.replace(check, split='test'))
    ),
    path(one, Options(results='r', data_dir='d')),
  ]
  weights.write_text('Weights')  # of the same size
  others.append(path(one))
  assert len({first, *others}) == 1 + len(others)
  elsewhere = tmp_path / 'other' / 'w.npz'
  elsewhere.parent.mkdir()
  elsewhere.write_text('weights')
  assert one.path(str(elsewhere), OPTIONS) == first  # the same contents


def test_identity_changes_with_what_decides_an_evaluation(
  tmp_path, monkeypatch
):
  weights = tmp_path / 'w.npz'
  images = tmp_path / 'photos' / 'test' / 'a'
  images.mkdir(parents=True)
  (images / '1.png').write_bytes(b'x')

  def identity(model='ViT-B_16'):
    source = datasets.open_split(str(tmp_path / 'photos'), 'test')
    return evaluations.identity_of(source, str(weights), model)

  found = [identity(), identity('ViT-B_32')]
  for name in ('w.json', 'w.txt', 'w.model', 'photos/test/a/1.png'):
    (tmp_path / name).write_bytes(b'y')  # an image of the same size
    found.append(identity())
  code = installed.code()
  for room, is_new in (('models', True), ('paper', False)):
    path = next(path for path in code if f'/{room}/' in path)
    monkeypatch.setattr(installed, 'code', lambda path=path: {**code, path: ''})
    assert (identity() not in found) == is_new, room
  monkeypatch.undo()
  assert identity() == found[-1]
  assert len({str(each) for each in found}) == len(found)


def test_read_json_treats_damaged_files_as_missing(tmp_path):
  path = tmp_path / 'a.json'
  for text in ('', '{', '[1]', '\xff'):
    path.write_bytes(text.encode('latin-1'))
    assert evaluations.read_json(str(path)) == {}
  assert evaluations.read_json(str(tmp_path / 'none')) == {}
  path.write_text('{"a": 1}')
  assert evaluations.read_json(str(path)) == {'a': 1}
