"""Tables in the layout of the paper."""

import pytest
from paper_results import RESULTS

from vit_jax_repro.paper import grids, table

pytestmark = pytest.mark.quick


def grid(*what, results=(), **which):
  rows = table.select(*what, **which)
  view = grids.grid(rows, dict(results))
  assert len(view.records) == len(rows)
  (section,) = view.sections
  return section, {row[0]: row[1:] for row in section.rows}


def test_grid_has_models_by_data_sets():
  section, cells = grid('ViT Table 5', results=RESULTS)
  assert section.columns == (
    '', '>CIFAR-10', '>CIFAR-100', '>ImageNet', '>ImageNet ReaL',
    '>Oxford Flowers-102', '>Oxford-IIIT Pets',
  )  # fmt: skip
  assert len(cells) == 14
  # Models with a number that can be checked come first.
  assert [label.split('\n')[1] for label in cells] == (
    5 * ['ImageNet-21k'] + 4 * ['ImageNet'] + 5 * ['JFT-300M']
  )
  assert cells['ViT-L/16\nImageNet-21k'] == (
    '99.16', '93.44', '85.15\n85.22 =', '88.40', '99.61', '94.73',
  )  # fmt: skip
  assert cells['ViT-B/16\nImageNet-21k'][2] == '83.97\n84.52 !'
  assert cells['ViT-H/14\nJFT-300M'][2] == '(88.04)'
  assert '= agrees, ! differs' in section.text[0]


def test_grid_labels_have_only_needed_additions():
  _, cells = grid('ViT Table 6')
  assert 'ViT-L/16\n14 epochs' in cells and len(cells) == 18
  _, cells = grid('ViT Table 7')
  assert 'ResNet50x1 (Adam pre-training)' in cells
  _, cells = grid('DeiT Table 8')
  assert cells['DeiT-B ablation: default\n384 px'] == ('83.1 ± 0.1',)


def test_grid_shows_many_data_sets_as_rows():
  section, cells = grid('ViT Table 9')
  assert section.columns[1] == '>ViT-L/16\nImageNet-21k'
  assert len(cells) == 20
  assert cells['VTAB-1k SVHN'] == ('80.9', '(88.9)', '(87.4)')


def test_grid_shows_several_metrics_and_several_numbers():
  section, cells = grid('BiT Table 6', pattern='BiT-M R50x1')
  assert section.columns == ('', '>ObjectNet, top-1', '>ObjectNet, top-5')
  section, cells = grid('ViT Table 2')
  assert section.columns[-1] == '>(pre-training cost), TPUv3 core-days'
  label = 'Noisy Student EfficientNet-L2\nJFT-300M (unlabelled)'
  assert cells[label][0] == '88.4\n(88.5)'
  assert cells[label][2] == ''


@pytest.mark.parametrize('name', [each.name for each in table.tables()])
def test_grid_shows_every_number(name):
  section, _ = grid(name)
  numbers = [
    line
    for row in section.rows
    for cell in row[1:]
    for line in cell.split('\n')
  ]
  assert sorted(filter(None, numbers)) == sorted(
    f'({row.published})' if row.blocker else row.published
    for row in table.select(name)
  )
