"""Results of studies as Markdown and in the terminal."""

import dataclasses

import numpy as np
import pytest

from vit_jax_repro.studies import claims, outcome, report

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
  dataset='digits',
  test='test',
  published_on='ImageNet',
)


def test_markdown_has_sides_and_claims():
  assert report.markdown(RESULT).splitlines() == [
    '# With or without',
    '',
    '`configs/studies.py:transfer,short`, 2 seeds: mean ± standard deviation.',
    '',
    '| side | learning rate | test accuracy here, on digits | each seed | '
    'locality | paper, on ImageNet |',
    '| --- | --- | --- | --- | --- | --- |',
    '| with | 0.003 | 85.0% ± 7.1% | 90.0%  80.0% | 0.60 ± 0.14 | 84.15 |',
    '| without | 0.0001 | 30.0% ± 0.0% | 30.0%  30.0% | 0.10 ± 0.14 |  |',
    '',
    '- Claim: It helps (Paper, 1). Verdict: too few seeds, difference +55.0 '
    'points (2 seeds; a verdict needs 3)',
  ]


@pytest.mark.parametrize('name', claims.STUDIES)
def test_published_numbers_are_never_without_their_data_set(name):
  study = claims.STUDIES[name]
  where = study.published_on()
  assert bool(where) == bool(study.published)
  result = dataclasses.replace(
    RESULT, published=study.published_values(), published_on=where
  )
  *_, last = report.header(result)
  assert last == (f'paper, on {where}' if where else 'locality')


def test_show_prints_sides_and_claims(capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '100')
  report.show(RESULT)
  shown = capsys.readouterr().out
  for text in (
    'With or without',
    '85.0% ± 7.1%',
    '84.15',
    'It helps',
    'too few',
  ):
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
    dataset='digits',
    test='test',
    published_on='',
  )
  assert report.header(bare) == [
    'side',
    'learning rate',
    'test accuracy here, on digits',
    'each seed',
  ]
  assert [len(row) for row in report.rows(bare)] == [4]


@pytest.mark.parametrize(
  ('claim', 'sentence'),
  [
    (
      outcome.Claim('It helps', 'Paper', {'a': 1.0, 'b': -1.0}),
      'Claim: It helps (Paper). Verdict: undecided, difference +1.0 ± 2.0 '
      'points (95 %, 5 seeds); 23 seeds would probably decide it; power 19% if '
      'the true difference is 1.0 points',
    ),
    (
      outcome.Claim('It is nothing', 'Paper', {'b': 1.0, 'c': -1.0}),
      'Claim: It is nothing (Paper). Verdict: undecided, difference +0.0 ± 0.0 '
      'points (95 %, 5 seeds); all seeds have the same difference',
    ),
    (
      outcome.Claim('It is little', 'Paper', {'a': 1.0, 'd': -1.0}),
      'Claim: It is little (Paper). Verdict: undecided, difference +0.0 ± 2.0 '
      'points (95 %, 5 seeds); even 1,000 seeds would probably not decide it; '
      'power 19% if the true difference is 1.0 points',
    ),
    (
      outcome.Claim(
        'It is alike', 'Paper', {'a': 1.0, 'b': -1.0}, 'alike', margin=0.05
      ),
      'Claim: It is alike (Paper). Verdict: holds, difference +1.0 ± 2.0 '
      'points (95 %, 5 seeds); alike means within ± 5.0 points; '
      'power over 99% if the true difference is 0',
    ),
    (
      outcome.Claim(
        'It looks so',
        'Paper',
        {'a': 1.0, 'b': -1.0},
        'differs',
        margin=0.05,
        measure=outcome.LOCALITY,
      ),
      'Claim: It looks so (Paper). Verdict: holds, difference +0.30 ± 0.02 '
      '(95 %, 5 seeds); power over 99% if the true difference is 0.05',
    ),
  ],
)
def test_sentences_have_verdict_interval_and_power(claim, sentence):
  """Kind of fault: a difference in another unit than its interval."""
  steps = 0.01 * np.array([-2.0, -1, 0, 1, 2])
  steps = steps * 0.02 * 5**0.5 / (2.776445 * steps.std(ddof=1))
  sides = (
    outcome.side('a', 1, 0.51 + steps, localities=tuple(0.8 + steps)),
    outcome.side('b', 1, [0.5] * 5, localities=(0.5,) * 5),
    outcome.side('c', 1, [0.5] * 5),
    outcome.side('d', 1, [0.51] * 5),
  )
  result = dataclasses.replace(
    RESULT, sides=sides, judgements=(outcome.judge(claim, sides),)
  )
  assert report.sentences(result) == [sentence]
