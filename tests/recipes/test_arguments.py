"""The argument after the colon in the path of a configuration."""

import pytest

from vit_jax_repro.recipes import arguments

pytestmark = pytest.mark.quick

FORM = 'RECIPE,MODEL,DATASET'


def parse(text, needed=2):
  return arguments.parse(text, FORM, arguments.OF_FINETUNING, needed=needed)


def test_parse_returns_parts_and_options():
  assert parse('bit-m,b16') == (['bit-m', 'b16', ''], {})
  assert parse('a,b,/data/x,steps=500,dropout=0.1,variant=long') == (
    ['a', 'b', '/data/x'],
    dict(steps=500, dropout=0.1, variant='long'),
  )


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('a', r"argument 'a' must be RECIPE,MODEL,DATASET \(the first 2 are"),
    ('a,b,c,d', 'must be RECIPE,MODEL,DATASET'),
    ('a,steps=1,b', 'must be RECIPE,MODEL,DATASET'),
    ('a,b,stesp=1', "'stesp=1' in the argument .* must be KEY=VALUE with"),
    ('a,b,steps=x', "'steps=x' in the argument"),
  ],
)
def test_parse_rejects_wrong_arguments(text, message):
  with pytest.raises(ValueError, match=message) as caught:
    parse(text)
  assert '\n' not in str(caught.value)
