"""The papers' rules against the original's own values."""

import pytest
import reference

from vit_jax_repro import recipes

pytestmark = pytest.mark.quick


def test_bit_resolution():
  for row in reference.hyperrule()['resolution']:
    got = recipes.bit_resolution(*row['original'])
    assert got == (row['precrop'], row['crop'])


def test_bit_data_sets():
  rule = reference.hyperrule()
  assert {k: list(v) for k, v in recipes.BIT_IMAGE_SIZES.items()} == rule[
    'known_dataset_sizes'
  ]
  for name, (resize, crop) in rule['known_dataset_resolution'].items():
    pp = recipes.bit_finetune(name)['pp']
    assert (pp['resize'], pp['crop']) == (resize, crop)


def test_bit_schedule_and_mixup():
  rule = reference.hyperrule()
  for num_examples, wanted in rule['schedule'].items():
    warmup, boundaries, total = recipes.bit_schedule(int(num_examples))
    assert [warmup, *boundaries, total] == wanted
  for num_examples, alpha in rule['mixup_alpha'].items():
    assert recipes.bit_mixup_alpha(int(num_examples)) == alpha


def test_vit_presets():
  recipe = recipes.vit_finetune('cifar10', 'ViT-B_16')
  assert (recipe['base_lr'], recipe['total_steps']) == (0.01, 10_000)
  assert recipe['pp'] == dict(train='train[:98%]', test='test', crop=384)
  assert recipes.vit_finetune('cifar10', 'ViT-L_16')['base_lr'] == 0.03
  recipe = recipes.vit_finetune('imagenet2012', 'ViT-B_16')
  assert recipe['total_steps'] == 20_000
  assert recipe['pp']['test'] == 'validation'


def test_augreg_strengths():
  """The paper's seven, with what AugReg's README of files calls them."""
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


def test_an_unknown_augreg_strength():
  message = r"unknown augmentation strength 'mild'; choose from \['none', 'li"
  with pytest.raises(ValueError, match=message) as caught:
    recipes.augreg_strength('mild')
  assert '\n' not in str(caught.value)
