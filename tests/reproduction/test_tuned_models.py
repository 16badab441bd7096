"""Tests the folders and the compute of fine-tuned models."""

import pytest

from vit_jax_repro.paper import table
from vit_jax_repro.reproduction import checks, compute_cost, tuned_models
from vit_jax_repro.reproduction.options import Options

pytestmark = pytest.mark.quick

TABLE_2 = {
  row.eval_dataset: row
  for row in table.rows()
  if row.table == 'ViT Table 2'
  and row.model == 'ViT-L/16'
  and row.status == table.FINETUNE
}
AUGREG = next(r for r in table.rows() if r.table.startswith('AugReg Table 5'))


def of(row, **options):
  given = Options(**(dict(results='r', weights_dir='none') | options))
  return tuned_models.finetuned_model(checks.resolve(row), 0, given)


def test_folder_is_shared_by_rows_with_other_test_sets():
  usual, real = (of(TABLE_2[name]) for name in ('ImageNet', 'ImageNet ReaL'))
  assert usual.folder == real.folder and 'imagenet2012-' in usual.folder
  assert usual.remaining() == real.remaining()
  assert of(TABLE_2['CIFAR-10']).folder != usual.folder


def test_folder_differs_for_another_file_of_the_same_name(tmp_path):
  row = TABLE_2['CIFAR-10']
  path = tmp_path / f'{checks.resolve(row).files[0]}.npz'
  path.parent.mkdir()
  folders = set()
  for text in ('weights', 'Weights'):
    path.write_text(text)
    folders.add(of(row, weights_dir=str(tmp_path)).folder)
  assert len(folders) == 2


def test_remaining_counts_operations_of_trainings(tmp_path):
  """AugReg: 4 rates of 500 and 2500 steps, then 2500 steps, of 512 images."""
  image = compute_cost.training('ViT-Ti_16', 384, 1)
  ti = next(
    r
    for r in table.rows()
    if r.table == AUGREG.table and 'Ti_16' in r.checkpoint
    and '/Ti' in r.checkpoint and r.eval_dataset.endswith('SVHN')
  )  # fmt: skip
  settings = checks.resolve(ti).recipes[0][0].settings
  assert (settings['batch'], settings['pp']['crop']) == (512, 384)
  one = of(ti).remaining()
  steps = 4 * (500 + 2500) + 2500
  assert sum(one.values()) == pytest.approx(512 * steps * image)
  assert len(one) == 9
  three = of(ti, seeds=3).remaining()
  more = 512 * 2 * 2500 * image
  assert sum(three.values()) == pytest.approx(sum(one.values()) + more)
  short = {'total_steps': 10, 'warmup_steps': 1, 'batch': 8, 'pp.crop': 32}
  small = of(ti, overrides=short).remaining()
  image = compute_cost.training('ViT-Ti_16', 32, 1)
  assert sum(small.values()) == pytest.approx(9 * 10 * 8 * image)
  # A finished training costs nothing.
  tuned = of(ti, results=str(tmp_path))
  done = tmp_path / tuned.seed_folder(0)
  done.mkdir(parents=True)
  (done / 'result.json').write_text('{}')
  assert tuned.remaining().keys() == {
    folder for folder in tuned.remaining() if 'tune' in folder
  }


@pytest.mark.parametrize(
  'overrides, says',
  [
    ({'pp': 3}, "setting 'pp' is a group; set one of pp.crop"),
    ({'mesh': 3}, "setting 'mesh' is a group; set one of mesh.data"),
    ({'model': 3}, "setting 'model' is a group; set one of model."),
    ({'batch.x': 3}, "unknown setting 'batch.x'; settings are"),
    ({'pp.x.y': 3}, "unknown setting 'pp.x.y'; settings are"),
    ({'total_steps': 'abc'}, "total_steps='abc' must be a whole number"),
    ({'total_steps': 6.5}, 'total_steps=6.5 must be a whole number'),
    ({'warmup_steps': 'x'}, "warmup_steps='x' must be a whole number"),
    ({'pp.test': 5}, 'pp.test=5 must be a text'),
    ({'pretrained_dir': 5}, 'pretrained_dir=5 must be a text'),
    ({'seed': 5}, 'give their number as --seeds'),
  ],
)
def test_finetuned_model_refuses_wrong_overrides_in_one_line(overrides, says):
  with pytest.raises(ValueError) as error:
    of(TABLE_2['CIFAR-10'], overrides=overrides)
  assert says in str(error.value) and '\n' not in str(error.value)


def test_check_settings_refuses_rates_without_held_out_images():
  row = next(
    row
    for row in table.rows()
    if row.train_examples == '1 per class' and row.status == table.FINETUNE
  )
  check = checks.resolve(row, recipe='vit-paper')
  with pytest.raises(ValueError, match='no held-out images to choose one'):
    tuned_models.check_settings(check, Options('results'))


def test_finetuned_model_accepts_settings_of_several_values():
  overrides = {'decay_type': 'steps', 'decay_steps': (1, 2)}
  tuned = of(TABLE_2['CIFAR-10'], overrides=overrides)
  assert tuned.candidates[0]['decay_steps'] == [1, 2]


def test_finetuned_model_trains_on_its_own_data_set():
  whole = next(
    row
    for row in table.rows()
    if row.table == 'ViT Table 9'
    and row.num_tasks == 19
    and row.status == table.FINETUNE
  )
  check = checks.resolve(whole)
  for index, name in enumerate(check.datasets):
    tuned = tuned_models.finetuned_model(check, index, Options(results='r'))
    assert {config['dataset'] for config in tuned.candidates} == {name}
