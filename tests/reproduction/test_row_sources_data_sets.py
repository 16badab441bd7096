import pytest

from vit_jax_repro.reproduction import row_sources

pytestmark = pytest.mark.quick


def test_evaluation_data_gives_data_sets_and_splits():
  target = row_sources.evaluation_data('ImageNet ReaL')
  assert (target.datasets, target.split) == (
    ('imagenet2012_real',),
    'validation',
  )
  assert row_sources.evaluation_data('CIFAR-10').split == 'test'
  assert row_sources.evaluation_data('VTAB-1k sNORB-Azim').datasets == (
    'vtab/smallnorb-azimuth',
  )
  structured = row_sources.evaluation_data('VTAB (full data) structured mean')
  assert len(structured.datasets) == 8
  assert len(row_sources.evaluation_data('VTAB-1k Mean').datasets) == 19


def test_evaluation_data_requires_a_folder_for_objectnet():
  target = row_sources.evaluation_data('ObjectNet')
  assert not target.datasets and 'FOLDER/test/CLASS' in target.pick


def test_evaluation_data_refuses_unknown_names():
  with pytest.raises(ValueError, match="unknown evaluation data set 'MNIST'"):
    row_sources.evaluation_data('MNIST')


@pytest.mark.parametrize(
  'tuned, dataset, wanted',
  [
    ('ImageNet', 'imagenet2012_real', 'imagenet2012'),
    ('', 'imagenet_v2/matched-frequency', 'imagenet2012'),
    ('ImageNet', './objectnet', 'imagenet2012'),
    ('VTAB-1k Pets', 'vtab/oxford_iiit_pet', 'vtab/oxford_iiit_pet'),
    ('iNaturalist 2019', './inat', './inat'),
    ('CIFAR-10', 'cifar10', 'cifar10'),
  ],
)
def test_trained_on_gives_the_training_set(tuned, dataset, wanted):
  assert row_sources.trained_on(tuned, dataset) == wanted
