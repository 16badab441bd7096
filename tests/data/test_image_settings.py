"""Image settings: their declarations, and checks of their bounds."""

import dataclasses

import pytest

from vit_jax_repro.data import augment, image_settings, preprocess, randaugment
from vit_jax_repro.errors import InputError
from vit_jax_repro.runs import settings

pytestmark = pytest.mark.quick

FIELDS = {
  field.name: field
  for field in dataclasses.fields(image_settings.ImageSettings)
}


@pytest.mark.parametrize(
  ('cls', 'more'),
  [
    (settings.Preprocessing, {'train', 'test', 'validation', 'split_seed'}),
    (augment.Augmentation, {'dtype', 'mean', 'std', 'decoder'}),
  ],
)
def test_settings_classes_inherit_the_fields_of_image_settings(cls, more):
  fields = {field.name: field for field in dataclasses.fields(cls)}
  assert fields.keys() == FIELDS.keys() | more
  for name, field in FIELDS.items():
    assert fields[name].default == field.default
    assert name not in cls.__annotations__  # not redeclared


def test_preprocessing_begins_with_the_splits_that_it_needs():
  names = [field.name for field in dataclasses.fields(settings.Preprocessing)]
  assert names == ['train', 'test', *FIELDS, 'validation', 'split_seed']


def outside(field):
  """Yields values that a field's bounds and choices exclude."""
  rules = field.metadata
  if rules['least'] is not None:
    yield rules['least'] - 1
  for bound in (rules['below'], rules['most']):
    if bound is not None:
      yield bound + 1
  if rules['choices']:
    yield 'none of the choices'


OUTSIDE = [
  (n, value) for n, field in FIELDS.items() for value in outside(field)
]


@pytest.mark.parametrize(('name', 'value'), OUTSIDE)
def test_augmentation_rejects_values_outside_the_bounds(name, value):
  with pytest.raises(InputError, match=name.removeprefix('randaugment_')):
    augment.Augmentation(crop=8, **{name: value})


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    (name, choice)
    for name, field in FIELDS.items()
    for choice in field.metadata['choices']
  ],
)
def test_augmentation_accepts_each_choice(name, value):
  assert getattr(augment.Augmentation(crop=8, **{name: value}), name) == value


def test_policy_choices_are_those_of_randaugment():
  with pytest.raises(InputError, match='unknown') as error:
    randaugment.check(layers=1, magnitude=1, policy='x')
  choices = FIELDS['randaugment_policy'].metadata['choices']
  assert str(error.value).endswith(str(sorted(choices)))


def test_defaults_of_omits_required_settings():
  defaults = image_settings.defaults_of(image_settings.ImageSettings)
  assert defaults.keys() == FIELDS.keys() - {'crop'}
  assert defaults['inception_crop'] is True and defaults['shift'] == 0


def test_setting_accepts_a_default_value_or_a_factory():
  @dataclasses.dataclass
  class Options:
    given: int = image_settings.setting(image_settings.REQUIRED, 'A number.')
    size: int = image_settings.setting(3, 'A size.', least=1)
    names: dict = image_settings.setting(dict, 'Names.')

  options = Options(given=1)
  assert (options.size, options.names) == (3, {})
  assert options.names is not Options(given=1).names
  assert image_settings.defaults_of(Options) == {'size': 3}
  with pytest.raises(TypeError, match='given'):
    Options()


def test_resize_defaults_to_crop():
  found = augment.Augmentation(crop=8)
  assert found.crop == found.resize == (8, 8)
  assert (found.mean, found.std) == (preprocess.HALF, preprocess.HALF)
