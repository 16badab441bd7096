import pytest

from vit_jax_repro.paper import table
from vit_jax_repro.reproduction import row_sources

pytestmark = pytest.mark.quick


def choice(**wanted):
  row = next(
    row
    for row in table.rows()
    if row.status == table.FINETUNE
    and all(value in str(getattr(row, name)) for name, value in wanted.items())
  )
  return row, row_sources.recipe_of(row)


@pytest.mark.parametrize(
  'wanted, name, options',
  [
    (
      dict(table='ViT Table 2', resolution='512'),
      'vit-paper-table2-imagenet',
      {},
    ),
    (dict(table='ViT Table 9'), 'vit-paper', {}),
    (
      dict(table='README expected results (2020-11)', model='L/16'),
      'vit_jax-vit.py',
      {'dropout': 0.1},
    ),
    (
      dict(table='README expected results (2020-11)', model='ViT-B/32'),
      'vit_jax-vit.py',
      {'dropout': 0.0},
    ),
    (
      dict(table='README CIFAR results', model='TF2'),
      'bit-readme-cifar',
      {'variant': 'jax'},
    ),
    (dict(table='BiT Table 7'), 'bit-hyperrule-paper', {}),
    (
      dict(table='DeiT Table 10', model='160'),
      'deit-finetune-384',
      {'image_size': 160},
    ),
    (dict(table='notebooks/experiments/resnet.json'), 're_vit-bit', {}),
  ],
)
def test_recipe_of_picks_the_recipe_of_a_table(wanted, name, options):
  _, found = choice(**wanted)
  assert (found.name, found.options, found.pick) == (name, (options,), '')


def test_recipe_of_lists_choices_without_a_published_recipe():
  _, found = choice(table='DeiT Table 7')
  assert not found.name and 'vit-paper' in found.pick


def test_recipes_for_trains_on_few_examples_per_class():
  row, found = choice(train_examples='5 per class', eval_dataset='ImageNet')
  (recipe,) = row_sources.recipes_for(row, found, 'imagenet2012', 'BiT-M-R50x1')
  assert recipe.settings['pp']['train'] == 'train@5'
  assert recipe.settings['total_steps'] == 500  # 5000 images: a small task
