"""The numbers of the LiT model card: what checks them, and what cannot."""

import types

import pytest

from vit_jax_repro import jobs
from vit_jax_repro.paper import table, verdict
from vit_jax_repro.reproduction import checks, compute_cost, evaluations

pytestmark = pytest.mark.quick

ROWS = table.select('README LiT model card')
VALUES = {  # ImageNet, V2, CIFAR-100, Pets, Resisc45 of the model card
  'LiT-B16B_2': (73.9, 65.1, 79.0, 83.3, 25.3),
  'LiT-L16L': (75.7, 66.6, 80.5, 83.3, 25.6),
}
SETS = (
  'imagenet2012', 'imagenet_v2/matched-frequency', 'cifar100',
  'oxford_iiit_pet', 'resisc45',
)  # fmt: skip


@pytest.mark.parametrize('model', VALUES)
def test_resolve_checks_each_accuracy_zero_shot(model):
  rows = [row for row in ROWS if row.model == model and row.status != table.NOT]
  assert tuple(row.value for row in rows) == VALUES[model]
  for row, dataset in zip(rows, SETS, strict=True):
    check = checks.resolve(row)
    assert check.is_zero_shot
    assert check.datasets == (dataset,)
    assert check.files == (f'lit/{model}',)
    assert check.preprocessing == 'lit'
    assert check.image_sizes == (224,)
    assert not check.pick


def test_resolve_names_why_retrieval_cannot_be_checked():
  rows = [row for row in ROWS if row.status == table.NOT]
  assert [row.value for row in rows] == [51.6, 48.5]
  for row in rows:
    assert 'retrieval' in verdict.BLOCKERS[row.blocker][1]
    with pytest.raises(ValueError, match='cannot be checked'):
      checks.resolve(row)


def test_evaluation_counts_the_image_tower_alone():
  lit, vit = (
    compute_cost.evaluation(name, 224, 1) for name in ('LiT-B16B_2', 'ViT-B_16')
  )
  assert 0.95 * vit < lit < vit


def test_run_needs_the_published_lists(tmp_path, monkeypatch):
  check = checks.resolve(ROWS[2])
  found = evaluations.CheckEvaluation(check, 'cifar100', 224, 'lit')
  options = types.SimpleNamespace()
  with pytest.raises(FileNotFoundError, match='are not beside'):
    found.run(str(tmp_path / 'LiT-B16B_2.npz'), options, None)

  def stop(weights, dataset, **arguments):
    raise InterruptedError(dataset, arguments['zero_shot'], arguments['model'])

  split = types.SimpleNamespace(
    fingerprint=lambda: '', sample_hash=lambda: '', num_examples=1
  )
  monkeypatch.setattr(evaluations, '_require_prompts', lambda *_: None)
  monkeypatch.setattr(
    evaluations.datasets, 'open_split', lambda *_, **__: split
  )
  monkeypatch.setattr(jobs, 'evaluate', stop)
  options = types.SimpleNamespace(
    data_dir=None, batch_size=2, work=lambda *parts: str(tmp_path / parts[-1])
  )
  with pytest.raises(InterruptedError) as error:
    found.run(str(tmp_path / 'LiT-B16B_2.npz'), options, None)
  assert error.value.args == ('cifar100', True, None)
