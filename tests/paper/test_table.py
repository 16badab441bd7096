"""The published numbers: completeness, consistency, and search by name."""

import collections
import hashlib
import statistics

import pytest

from vit_jax_repro.data import catalogue as data_sets
from vit_jax_repro.paper import table, verdict
from vit_jax_repro.published import catalogue

pytestmark = pytest.mark.quick

DIGEST = 'f3aafcb3cfabbdb39170e7295b3e86ccb46bb4ba03ff2443625dc44686ae4613'
GROUPS = ('natural', 'specialized', 'structured')
FAMILIES = {
  'ViT': 'ViT-',
  'hybrid': 'R',
  'BiT': 'BiT-',
  'DeiT': 'DeiT-',
  'LiT': 'LiT-',
  'EfficientNet': 'EfficientNet-',
}


def test_rows_have_the_known_numbers_of_statuses():
  counts = collections.Counter(row.status for row in table.rows())
  assert counts == {table.INFERENCE: 647, table.FINETUNE: 470, table.NOT: 428}
  assert sum(each.num_rows for each in table.tables()) == 1545
  assert len(table.tables()) == 57


def test_ids_are_unique_and_begin_with_the_prefix_of_their_table():
  prefixes = {each.name: each.prefix for each in table.tables()}
  ids = [row.id for row in table.rows()]
  assert len(set(ids)) == len(ids)
  assert len(set(prefixes.values())) == len(prefixes)
  for row in table.rows():
    assert row.id.startswith(prefixes[row.table])
  first = table.named('ViT Table 9 (derived)')
  assert first.short(table.select(first.name)[0]).startswith('vit-h-14-jft')


def test_numbers_have_the_known_digest():
  # The numbers equal the transcriptions, which their second sources confirm.
  text = '\n'.join(
    f'{row.id} {row.published} {row.status} {row.checkpoint}'
    for row in table.rows()
  )
  assert hashlib.sha256(text.encode()).hexdigest() == DIGEST


def test_uncheckable_rows_have_a_reason():
  for row in table.rows():
    assert row.status in table.STATUSES
    assert (row.status == table.NOT) == (row.blocker in verdict.BLOCKERS)
    assert (row.status == table.NOT) == (not row.checkpoint)
    assert (row.blocker == 'cost-figure') == (row.metric == table.COST)
    assert (row.confidence == 'two-sources') == bool(row.second_source)
  assert {row.blocker for row in table.rows()} == {'', *verdict.BLOCKERS}


def test_numbers_are_possible():
  for row in table.rows():
    assert row.metric in table.METRICS
    assert row.metric == table.COST or 0 < row.value <= 100
    assert row.std is None or (row.std >= 0 and row.value_min is None)
    assert (row.value_min is None) == (row.value_max is None)
    if row.value_min is not None:
      assert row.value_min <= row.value <= row.value_max
    assert row.source and row.family and row.eval_dataset


def by_task(rows, before):
  """Returns {model: {data set of the evaluation, without `before`: value}}."""
  values = collections.defaultdict(dict)
  for row in rows:
    key = row.model, row.pretrain_dataset
    values[key][row.eval_dataset.removeprefix(before)] = row.value
  return values


def columns_of(group):
  return [r.column for r in data_sets.DATA_SETS.values() if r.group == group]


def test_means_of_vtab_equal_the_means_of_its_tasks():
  before = 'VTAB-1k '
  tasks = by_task(table.select('ViT Table 9'), before)
  derived = by_task(table.select('ViT Table 9 (derived)'), before)
  overall = by_task(table.select('ViT Table 2', dataset='VTAB*'), before)
  assert len(tasks) == 3
  for key, values in tasks.items():
    mean = values.pop('Mean')
    assert len(values) == 19
    assert abs(statistics.fmean(values.values()) - mean) <= 0.05
    in_table_2 = overall[key]['(19 tasks)']
    assert abs(statistics.fmean(values.values()) - in_table_2) <= 0.02
    for group in GROUPS:
      expected = statistics.fmean(values[c] for c in columns_of(group))
      assert abs(derived[key][f'{group} mean'] - expected) <= 0.00501


def test_group_means_of_augreg_equal_the_means_of_their_tasks():
  tasks = by_task(table.select('AugReg Table 5'), 'VTAB (full data) ')
  assert len(tasks) == 9
  for values in tasks.values():
    for group in GROUPS:
      expected = statistics.fmean(values[c] for c in columns_of(group))
      assert abs(values[f'{group} mean'] - expected) <= 0.06


def test_means_of_bit_reruns_equal_the_means_of_their_groups():
  for values in by_task(table.select('README VTAB-1k'), 'VTAB-1k ').values():
    expected = sum(
      len(columns_of(group)) / 19 * values[f'{group} mean'] for group in GROUPS
    )
    assert abs(values['(19 tasks)'] - expected) <= 0.01


def test_differences_of_adam_and_sgd_match_the_remark():
  values = collections.defaultdict(dict)
  for row in table.select('ViT Table 7'):
    model, _, optimizer = row.model.partition(' (')
    values[model, row.eval_dataset][optimizer.split()[0]] = row.value
  differences = {
    key: round(value['Adam'] - value['SGD'], 2) for key, value in values.items()
  }
  means = {
    model: differences.pop((model, 'Average (5 datasets)'))
    for model in ('ResNet50x1', 'ResNet152x2')
  }
  assert means == {'ResNet50x1': 0.54, 'ResNet152x2': 0.29}
  remark = table.named('ViT Table 7').remark
  better = {key for key, gain in differences.items() if gain < 0}
  assert better == {
    ('ResNet50x1', 'ImageNet'),
    ('ResNet152x2', 'CIFAR-10'),
    ('ResNet152x2', 'Oxford Flowers-102'),
  }
  assert all(text in remark for key in better for text in key)
  for model in means:
    mean = values[model, 'Average (5 datasets)']
    for optimizer in ('Adam', 'SGD'):
      five = [values[key][optimizer] for key in differences if key[0] == model]
      assert len(five) == 5
      assert abs(statistics.fmean(five) - mean[optimizer]) <= 0.0051


def test_table_2_has_all_compared_systems():
  kept = {row.model for row in table.select('ViT Table 2')}
  assert kept == {
    'ViT-H/14', 'ViT-L/16', 'BiT-L R152x4', 'Noisy Student EfficientNet-L2',
  }  # fmt: skip


def test_named_checkpoints_are_published_files():
  urls = {
    entry.url.rpartition('/')[2]: entry
    for entry in catalogue.table()
    if entry.url
  }
  patterns = set()
  for row in table.rows():
    if not row.checkpoint or set('{*<') & set(row.checkpoint):
      patterns.add(row.checkpoint)
      continue
    entry = urls.get(row.checkpoint) or catalogue.find(row.checkpoint)
    assert entry.model.startswith(FAMILIES[row.family]), row.id
  prefixes = {pattern.partition('/')[0] for pattern in patterns - {''}}
  assert prefixes == {'augreg', 'vtab'}


@pytest.mark.parametrize(
  'row, published',
  [
    ('vit-table-2-vit-l-16-jft-300m-14ep-oxford-flowers-102', '99.74 ± 0.00'),
    ('bit-m-r101x3-tf2-1-per-class-imagenet-21k-cifar-10',
     '55.8 (52.5 to 60.2)'),
    ('vit-large-patch16-384-augreg-in21k-ft-in1k-imagenet-21k-imagenet-'
     'v2-matched-frequency', '77.790'),
    ('vit-table-2-vit-h-14-jft-300m-pre-training-cost-tpuv3-core-days', '2500'),
  ],
)  # fmt: skip
def test_published_is_formatted_as_in_the_source(row, published):
  assert table.find(row).published == published


def test_rows_have_the_shared_cells_of_their_table():
  (row,) = table.select('AugReg Table 5', model='B/16', dataset='*SVHN')
  assert row.source == 'AugReg paper arXiv:2106.10270'
  assert row.note.startswith('best of 8 hyper-parameter settings')
  assert (row.epochs, row.resolution, row.exaflops) == ('300', None, None)
  assert table.find('vit-table-6-vit-b-32-jft-300m-7ep-imagenet').exaflops == 55


def test_select_filters_rows_by_each_argument():
  assert table.select() == list(table.rows())
  assert len(table.select('vit table 5')) == 84
  assert len(table.select('ViT Table 5', status=table.INFERENCE)) == 8
  found = table.select(model='DeiT-Ti', dataset='imagenet real')
  assert {row.eval_dataset for row in found} == {'ImageNet ReaL'}
  assert all('DeiT-Ti' in row.model for row in found)
  assert len(table.select(pattern='imagenet21k/ViT-H_14.npz')) == 6
  (row,) = table.select(ids=['vit-section-4-6'])
  assert row.value == 79.9


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: table.select('ViT Tabel 5'), "did you mean 'ViT Table 5'"),
    (lambda: table.select(status='done'), 'must be one of checkable-inference'),
    (
      lambda: table.select('ViT Table 5', dataset='SVHN'),
      "no row fits table='ViT Table 5', dataset='SVHN'; `show TABLE`",
    ),
    (lambda: table.find('vit-table-5'), 'and 78 more; `show TABLE` has the'),
    (lambda: table.find('vit-table-5-vit-b16'), "no row 'vit-table-5-vit-b16'"),
    (lambda: table.named('Table 5'), "'ViT Table 5', 'DeiT Table 5'"),
  ],
)
def test_select_find_and_named_reject_wrong_names(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert message in str(error.value) and '\n' not in str(error.value)
