"""Results of studies as Markdown and in the terminal."""

import pytest

from vit_jax_repro.studies import outcome, report

pytestmark = pytest.mark.quick

SIDES = (
  outcome.side('with', 0.003, (0.9, 0.8), localities=(0.5, 0.7)),
  outcome.side('without', 1e-4, (0.3, 0.3), localities=(0.0, 0.2)),
)
CLAIM = outcome.Claim('It helps', 'Paper, 1', {'with': 1.0, 'without': -1.0})
RESULT = report.StudyResult(
  name='transfer',
  title='With or without',
  size='short',
  num_seeds=2,
  sides=SIDES,
  judgements=(outcome.judge(CLAIM, SIDES),),
  published={'with': '84.15'},
)


def test_markdown_has_sides_and_claims():
  assert report.markdown(RESULT).splitlines() == [
    '# With or without',
    '',
    '`configs/studies.py:transfer,short`, 2 seeds: mean ± standard deviation.',
    '',
    '| side | learning rate | test accuracy | each seed | locality | paper |',
    '| --- | --- | --- | --- | --- | --- |',
    '| with | 0.003 | 85.0% ± 7.1% | 90.0%  80.0% | 0.60 ± 0.14 | 84.15 |',
    '| without | 0.0001 | 30.0% ± 0.0% | 30.0%  30.0% | 0.10 ± 0.14 |  |',
    '',
    '- It helps (Paper, 1): holds; the difference is +0.550 ± 0.071',
  ]


def test_show_prints_sides_and_claims(capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '100')
  report.show(RESULT)
  shown = capsys.readouterr().out
  for text in ('With or without', '85.0% ± 7.1%', '84.15', 'It helps', 'holds'):
    assert text in shown


def test_header_and_rows_leave_out_empty_columns():
  bare = report.StudyResult(
    name='',
    title='',
    size='',
    num_seeds=1,
    sides=(outcome.side('a', 1, (0.5,)),),
    judgements=(),
    published={},
  )
  assert report.header(bare) == [
    'side',
    'learning rate',
    'test accuracy',
    'each seed',
  ]
  assert [len(row) for row in report.rows(bare)] == [4]
