"""The message to processes whose facts differ."""

import pytest

from vit_jax_repro.training import agreement

pytestmark = pytest.mark.quick


def facts(**values):
  return {name: (f'digest of {text}', text) for name, text in values.items()}


@pytest.mark.parametrize(
  'each, text',
  [
    (
      [facts(seed='0', rate='1'), facts(seed='2', rate='3')],
      'seed is 0 in process 0 and 2 in process 1',
    ),
    (
      [facts(seed='0'), facts(seed='0', more='1'), facts(seed='0')],
      'more is missing in processes 0, 2 and 1 in process 1',
    ),
    (
      [facts(seed='0'), *[facts(seed='1')] * 11],
      'seed is 0 in process 0 and 1 in processes 1, 2, 3, 4, 5, 6, 7, 8 and 3 '
      'more',
    ),
  ],
)
def test_difference_names_the_first_fact_and_its_processes(each, text):
  assert agreement.difference(*each) == text


def test_difference_compares_identities_and_shows_texts():
  first, second = {'data': ('12', '/a')}, {'data': ('34', '/b')}
  moved = {'data': ('12', '/c')}
  text = 'data is /a in processes 0, 1 and /b in process 2'
  assert agreement.difference(first, moved, second) == text


def test_require_is_content_with_one_process():
  agreement.require(facts(seed='0'))
