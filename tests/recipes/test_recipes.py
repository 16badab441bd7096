"""The papers' rules compared with values of the original code."""

import pytest
import reference

from vit_jax_repro import models, recipes
from vit_jax_repro.data import catalogue
from vit_jax_repro.recipes import recipe, rules

pytestmark = pytest.mark.quick


def test_bit_resolution_equals_the_original():
  for row in reference.hyperrule()['resolution']:
    got = rules.resolution(*row['original'])
    assert got == (row['precrop'], row['crop'])


def test_bit_finetune_has_the_sizes_of_the_original():
  rule = reference.hyperrule()
  assert {k: list(v) for k, v in rules.IMAGE_SIZES.items()} == rule[
    'known_dataset_sizes'
  ]
  for name, (resize, crop) in rule['known_dataset_resolution'].items():
    pp = recipes.bit_finetune(name)['pp']
    assert (pp['resize'], pp['crop']) == (resize, crop)


def test_bit_schedule_and_mixup_equal_the_original():
  rule = reference.hyperrule()
  for num_examples, wanted in rule['schedule'].items():
    warmup, boundaries, total = recipes.bit_schedule(int(num_examples))
    assert [warmup, *boundaries, total] == wanted
  for num_examples, alpha in rule['mixup_alpha'].items():
    assert recipes.bit_mixup_alpha(int(num_examples)) == alpha


def test_vit_finetune_equals_the_original_presets():
  found = recipes.vit_finetune('cifar10', 'ViT-B_16')
  assert (found['base_lr'], found['total_steps']) == (0.01, 10_000)
  assert found['pp'] == dict(train='train[:98%]', test='test', crop=384)
  assert recipes.vit_finetune('cifar10', 'ViT-L_16')['base_lr'] == 0.03
  found = recipes.vit_finetune('imagenet2012', 'ViT-B_16')
  assert found['total_steps'] == 20_000
  assert found['pp']['test'] == 'validation'
  # mixer_base16_cifar10.py; the weights fix the image size.
  assert recipes.vit_finetune('cifar10', 'Mixer-B_16')['pp']['crop'] == 224


def test_augreg_strengths_equal_the_seven_of_the_paper():
  """The names are those in AugReg's README of files."""
  found = {
    name: tuple(recipes.augreg_strength(name).values())
    for name in recipes.AUGREG_STRENGTHS
  }
  assert found == {
    'none': (0, 0, 0),
    'light1': (2, 0, 0),
    'light2': (2, 10, 0.2),
    'medium1': (2, 15, 0.2),
    'medium2': (2, 15, 0.5),
    'strong1': (2, 20, 0.5),
    'strong2': (2, 20, 0.8),
  }
  assert list(recipes.augreg_strength('none')) == [
    'layers',
    'magnitude',
    'mixup_alpha',
  ]


def test_augreg_strength_rejects_an_unknown_name():
  message = r"unknown augmentation strength 'mild'; choose from \['none', 'li"
  with pytest.raises(ValueError, match=message) as caught:
    recipes.augreg_strength('mild')
  assert '\n' not in str(caught.value)


def test_bit_resolution_is_small_for_five_tasks_of_vtab():
  """BiT crops images below 96x96 to 128 of 160 pixels (paper, section 3.3)."""
  small = {
    name.removeprefix('vtab/')
    for name, row in catalogue.DATA_SETS.items()
    if row.group and rules.resolution(*rules.image_size(name)) == (160, 128)
  }
  assert small == {
    'cifar100',
    'svhn',
    'eurosat',
    'dsprites-xpos',
    'dsprites-orientation',
  }


@pytest.mark.parametrize(
  ('dataset', 'split', 'wanted'),
  [
    ('cifar10', 'train', 50_000),
    ('cifar10', 'minival', 1000),
    ('cifar10:3.0.2', 'train[:98%]', 49_000),
    ('imagenet2012', 'minitrain', 1_268_355),
    ('imagenet2012', 'train[99%:]', 1_281_167 - 1_268_355),
    ('oxford_flowers102', 'minitrain + validation', 918 + 1020),
    ('cifar10', 'train[100:300]', 200),
    ('cifar10', 'train[60000:]', 0),
    ('cifar10', 'validation', None),
    ('mnist', 'train', None),
  ],
)
def test_num_examples_counts_the_images_of_a_split(dataset, split, wanted):
  assert recipe.num_examples(dataset, split) == wanted


def test_num_examples_is_1000_for_every_task_of_vtab():
  for name, row in catalogue.DATA_SETS.items():
    if row.group:
      assert recipe.num_examples(name, 'train800val200') == 1000


def test_build_passes_fields_to_the_model():
  request = recipe.RecipeRequest('x', 'cifar10', 'ViT-B_16', '')
  fields = dict(dropout_rate=0.3, stochastic_depth_rate=0.2)
  found = recipe.build(request, 'here', {}, (0.1,), model_fields=fields)
  model = models.create(found.architecture(models.variant('ViT-B_16')))
  assert (model.dropout_rate, model.stochastic_depth_rate) == (0.3, 0.2)
  assert model.num_layers == 12
  assert models.create('ViT-B_16').dropout_rate == 0.0
