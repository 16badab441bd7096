"""Views of numbers, measurements and verdicts."""

import dataclasses

import pytest
from paper_results import B16, L16, RESULTS, SCRATCH

from vit_jax_repro.output.sections import UNBROKEN
from vit_jax_repro.paper import grids, table, verdict, views

pytestmark = pytest.mark.quick


def test_numbers_shows_paper_measured_and_verdict():
  rows = table.select(ids=[L16, B16, SCRATCH, 'vit-section-4-6'])
  section, other = views.numbers(rows, RESULTS).sections
  assert (
    section.title == 'ViT Table 5: ViT by pre-training set on six data sets'
  )
  assert section.text[0] == (
    'ViT paper arXiv:2010.11929v2. 3 numbers: 2 by evaluating a released file, '
    '1 not checkable. In per cent; ids begin with vit-table-5-'
  )
  assert section.text[1].startswith('weights never released: The weights were')
  assert section.rows == (
    (
      'vit-l-16-imagenet-21k-30-or-90ep-imagenet',
      '85.15',
      '85.22 (84.91 to 85.53)',
      'agrees',
    ),
    (
      'vit-b-16-imagenet-21k-90ep-imagenet',
      '83.97',
      '84.52 (84.20 to 84.84)',
      'differs by +0.55 points (3.3 sigma)',
    ),
    (
      'vit-b-16-imagenet-300ep-imagenet',
      '77.91',
      '',
      'not checkable: weights never released',
    ),
  )
  assert other.title == 'ViT section 4.6: Masked patch prediction'


def test_numbers_lists_rows_to_check_first():
  rows = table.select(ids=[SCRATCH, L16])
  (section,) = views.numbers(rows, {}).sections
  assert [row[1] for row in section.rows] == ['85.15', '77.91']


def test_numbers_shows_the_remark_of_a_table():
  (section,) = views.numbers(table.select('ViT Table 8'), {}).sections
  assert section.text[1].startswith('The default of the paper is 1-D learned')


def test_records_hold_all_fields():
  record, empty = views.numbers(
    table.select(ids=[B16, SCRATCH]), RESULTS
  ).records
  assert record['value'] == '83.97' and record['measured'] == 84.52
  assert record['points'] == 0.55 and record['verdict'] == 'differs'
  low, high = RESULTS[B16].measurement.interval()
  assert record['measured_low'] == pytest.approx(100 * low, abs=1e-5)
  assert record['measured_high'] == pytest.approx(100 * high, abs=1e-5)
  assert record['num_examples'] == 50_000 and record['reason'] == ''
  assert list(empty) == list(record)
  assert empty['measured'] is None and empty['verdict'] == 'not checkable'
  assert empty['reason'].endswith('training from scratch by the published '
                                  'recipe.')  # fmt: skip


def test_views_show_departures_with_each_verdict():
  overrides = {'overrides': {'batch': 128, 'pp.crop': 32}}
  substituted = {'substituted': {'data': '/images'}}
  found = {
    row: dataclasses.replace(RESULTS[row], details=details)
    for row, details in ((L16, overrides), (B16, substituted))
  }
  rows = table.select(ids=[L16, B16])
  settings = 'with other settings: batch=128, pp.crop=32'
  listed = views.numbers(rows, found)
  (section,) = listed.sections
  assert [row[-1] for row in section.rows] == [
    f'agrees\n{settings}',
    'differs by +0.55 points (3.3 sigma)\ndata: /images',
  ]
  assert [record['measured_otherwise'] for record in listed.records] == [
    settings, 'data: /images',
  ]  # fmt: skip
  known = dict(views.one_row(rows[0], found).sections[0].rows)
  assert known['measured otherwise'] == settings
  head, again = views.report(rows, found, whole=False).sections
  assert head.text[1].startswith('2 of the measurements used other settings')
  assert again.rows == section.rows
  (grid,) = grids.grid(rows, found).sections
  cells = ' '.join(cell for row in grid.rows for cell in row[1:])
  assert '85.22 =*' in cells and '84.52 !*' in cells
  # Without departures there are no marks.
  known = dict(views.one_row(rows[0], RESULTS).sections[0].rows)
  assert 'measured otherwise' not in known
  (grid,) = grids.grid(rows, RESULTS).sections
  assert not any('*' in cell for row in grid.rows for cell in row)


def test_one_row_shows_facts_and_differences():
  view = views.one_row(table.find(B16), RESULTS)
  row, differing = view.sections
  known = dict(row.rows)
  assert row.title == B16
  assert known['published'] == '83.97'
  assert known['measured'] == '84.52 (84.20 to 84.84)'
  assert known['in'] == f'results/{B16}.json'
  assert known['verdict'] == 'differs by +0.55 points (3.3 sigma)'
  assert known['checkpoint'] == 'imagenet21k+imagenet2012/ViT-B_16.npz'
  assert known['metric'] == 'top-1' and 'std' not in known
  assert 'exaflops' not in known
  assert any(text.startswith('pvc-06: ') for text in differing.text)
  origin, how = row.text
  assert origin.startswith(
    'ViT paper arXiv:2010.11929v2 has the number 83.97 % (ViT Table 5). It was '
    'compared with other copies: '
  )
  assert how.startswith(
    'To check it, the released file imagenet21k+imagenet2012/ViT-B_16.npz is '
    'evaluated on ImageNet.'
  )
  assert f'reproduce run --row={B16} --results' in how.replace(UNBROKEN, ' ')


def test_one_row_without_differences():
  row = table.find('bit-appendix-a')
  (section,) = views.one_row(row, {}).sections
  origin, why = section.text
  assert 'It was read once' in origin or 'compared with' in origin
  assert why.startswith('It cannot be checked (JFT-300M weights). The weights')
  assert 'measured' not in dict(section.rows)


def test_report_lists_measured_rows_or_all():
  rows = table.select('ViT Table 5') + table.select('BiT Table 2')
  view = views.report(rows, RESULTS, whole=False)
  head, listed = view.sections
  assert head.text == (
    'Of 96 numbers: agrees 1, differs 1, cannot tell 0, not checkable 54, not '
    'run 40.',
    'Tested numbers: 2. Judged one by one, 1 would differ; up to 0.1 would do '
    'so by chance alone if all were right. By the correction of Benjamini and '
    'Hochberg 1 differ, of which at most 5 % are expected to be right.',
    verdict.RULE,
  )
  assert head.rows == (
    ('ViT Table 5', '1', '1', '', '54', '28'),
    ('BiT Table 2', '', '', '', '', '12'),
  )
  assert len(listed.rows) == 2 and len(view.records) == 96
  whole = views.report(rows, RESULTS, whole=True)
  assert [len(section.rows) for section in whole.sections] == [2, 84, 12]
