"""The published file that weights are, for the model card."""

import json

import pytest

from vit_jax_repro.ports import hub_card
from vit_jax_repro.published import catalogue, origins

pytestmark = pytest.mark.quick


def sized(path, name):
  """Makes an empty file of a published file's size."""
  path.parent.mkdir(exist_ok=True)
  with open(path, 'wb') as file:
    file.truncate(catalogue.find(name).sizes[0])
  return str(path)


def test_find_knows_a_published_name():
  """Finds another library's copy, a wrong licence or wrong data sets."""
  name = 'imagenet21k/ViT-B_16'
  assert origins.find(name, '/x.npz', 'timm') == hub_card.Origin(
    'timm/vit_base_patch16_224.orig_in21k', ('imagenet-21k',), 'apache-2.0'
  )
  found = origins.find(name, '/x.npz', 'transformers')
  assert found.base_model == 'google/vit-base-patch16-224-in21k'
  found = origins.find('hf://facebook/deit-tiny-patch16-224', '/x', 'timm')
  assert found.base_model == 'timm/deit_tiny_patch16_224.fb_in1k'
  assert found.datasets == ('imagenet-1k',)
  found = origins.find('hf://me/my.model', '/x', 'timm')
  assert found == hub_card.Origin('me/my.model')


@pytest.mark.parametrize(
  'name, datasets',
  [
    ('imagenet21k+imagenet2012/ViT-L_32', ('imagenet-1k', 'imagenet-21k')),
    ('BiT-M-R50x1', ('imagenet-21k',)),
    ('BiT-M-R50x1-ILSVRC2012', ('imagenet-1k', 'imagenet-21k')),
    ('BiT-S-R50x1', ('imagenet-1k',)),
    ('sam/ViT-B_16', ('imagenet-1k',)),
    (
      'Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'
      '--cifar100-steps_500-lr_0.01-res_224',
      ('imagenet-21k', 'cifar100'),
    ),
  ],
)
def test_find_names_the_data_sets(name, datasets):
  """Finds a data set that a published file did not learn from."""
  assert origins.find(name, '/x.npz', 'timm').datasets == datasets


def test_find_knows_a_file_by_its_size_or_folder(tmp_path):
  """Finds a user's own file that is taken for a published one."""
  name = 'imagenet21k+imagenet2012/ViT-B_32'
  path = sized(tmp_path / 'a' / 'ViT-B_32.npz', name)
  found = origins.find(path, path, 'timm')
  assert found.base_model == 'google/vit-base-patch32-384'
  own = tmp_path / 'a' / 'BiT-M-R50x1.npz'
  own.write_text('trained here')
  assert origins.find(str(own), str(own), 'timm') == hub_card.Origin()
  fetched = tmp_path / 'imagenet21k' / 'ViT-B_32.npz'
  fetched.parent.mkdir()
  fetched.write_text('without its head')
  found = origins.find(str(fetched), str(fetched), 'timm')
  assert found.base_model == 'timm/vit_base_patch32_224.orig_in21k'


@pytest.mark.parametrize(
  'config, base',
  [
    (
      {
        'pretrained_dir': 'gs://vit_models/imagenet21k',
        'model': {'model_name': 'ViT-B_16'},
      },
      'google/vit-base-patch16-224-in21k',
    ),
    (
      {
        'pretrained_dir': '/gone/imagenet21k/',
        'model_or_filename': 'ViT-L_16.npz',
      },
      'google/vit-large-patch16-224-in21k',
    ),
    ({'pretrained_dir': '/gone', 'model': {'model_name': 'ViT-B_16'}}, None),
    ({'pretrained_dir': None}, None),
  ],
)
def test_find_names_the_file_that_a_run_started_from(config, base, tmp_path):
  """Finds a run whose base is lost, and one that is given a base."""
  (tmp_path / 'manifest.json').write_text('{}')
  config = {'dataset': 'cifar10', **config}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  path = str(tmp_path / 'model.npz')
  found = origins.find(str(tmp_path), path, 'transformers')
  assert (found.base_model, found.license) == (base, None)
  assert found.datasets == ('cifar10',)
