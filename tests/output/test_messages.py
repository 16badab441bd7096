"""Search by a part of a name, and suggestions for misspelt names."""

import pytest

from vit_jax_repro.output import messages

pytestmark = pytest.mark.quick

NAMES = ['ViT Table 5', 'ViT Table 9', 'ViT Table 9 (derived)', 'DeiT Table 5']


@pytest.mark.parametrize(
  'pattern, text, expected',
  [
    ('table', 'ViT Table 5', True),
    ('', 'ViT', True),
    ('vit*5', 'ViT Table 5', True),
    ('vit*5', 'ViT Table 55 x', False),
    ('vi?', 'ViT', True),
    ('[i1k', 'B/16 [i1k_300ep@224]', True),
    ('*[i1k*', 'B/16 [i1k_300ep@224]', True),
    ('*[1i]*', 'B/16 [i1k_300ep@224]', False),
  ],
)
def test_fits_matches_a_pattern(pattern, text, expected):
  assert messages.fits(pattern, text) == expected
  assert messages.fits(pattern, 'nothing', text) == expected or not pattern


@pytest.mark.parametrize(
  'wanted, name',
  [
    ('ViT Table 9', 'ViT Table 9'),  # also a part of another name
    ('vit table 5', 'ViT Table 5'),
    ('9 (derived)', 'ViT Table 9 (derived)'),
    ('derived', 'ViT Table 9 (derived)'),
    ('Table 9', 'ViT Table 9'),  # the end of one name
  ],
)
def test_pick_returns_the_matching_name(wanted, name):
  assert messages.pick(wanted, NAMES, 'table', 'see') == name


@pytest.mark.parametrize(
  'wanted, message',
  [
    (
      'table 5',
      "table 'table 5' may be any of 'ViT Table 5', 'DeiT Table 5'; see",
    ),
    (
      'VitTable5',
      "no table 'VitTable5'; did you mean 'ViT Table 5' or 'ViT Table 9' or "
      "'DeiT Table 5'? see",
    ),
    ('zzzz', "no table 'zzzz'; see"),
    ('', "no table ''; see"),
  ],
)
def test_pick_rejects_ambiguous_and_unknown_names(wanted, message):
  with pytest.raises(ValueError) as error:
    messages.pick(wanted, NAMES, 'table', 'see')
  assert str(error.value) == message


def test_pick_shortens_long_lists():
  with pytest.raises(ValueError, match="'a5' and 2 more; see"):
    messages.pick('a', [f'a{i}' for i in range(8)], 'row', 'see')


@pytest.mark.parametrize(
  'name, choices, expected',
  [
    ('cifer10', ['mnist', 'cifar10', 'cifar100'], ['cifar10', 'cifar100']),
    ('CIFAR10', ['cifar10'], ['cifar10']),
    ('imag', ['imagenet_v2', 'imagenet2012'], ['imagenet2012', 'imagenet_v2']),
    ('im', ['imagenet_v2', 'imagenet2012'], []),
    ('b17', {'b16': 'ViT-B_16', 'B_16': 'ViT-B_16'}, ['ViT-B_16']),
    ('abcd', ['abcd1', 'abcd2', 'abcd3', 'abcd4'], ['abcd1', 'abcd2', 'abcd3']),
    ('', ['a'], []),
  ],
)
def test_nearest_lists_prefixed_then_similar_choices(name, choices, expected):
  assert messages.nearest(name, choices) == expected


def test_did_you_mean_is_empty_without_similar_choices():
  hint = messages.did_you_mean('b_16', ['b16', 's_16', 'zzzzzz'])
  assert hint == "did you mean 'b16' or 's_16'? "
  assert messages.did_you_mean('a16', ['zzzzzz']) == ''
