"""The published tables of sizes and settings."""

import pytest

from vit_jax_repro import models
from vit_jax_repro.paper import facts

pytestmark = pytest.mark.quick


def test_tables_have_all_rows():
  sizes = {each.name: len(each.rows) for each in facts.tables()}
  assert sizes['ViT Table 1'] == 5
  assert sizes['ViT Table 3'] == 13
  assert sizes['ViT Table 4'] == 8
  assert [
    sizes[name]
    for name in ('Model sizes', 'Pre-training settings', 'Fine-tuning settings')
  ] == [41, 27, 45]
  assert '' not in sizes
  assert facts.named('vit table 4').title == 'Recipes of fine-tuning'
  with pytest.raises(ValueError, match="no table 'x'; `list` has all names"):
    facts.named('x')


def test_common_and_varying_columns():
  found = facts.named('ViT Table 3')
  assert found.common()['batch_size'] == '4096'
  assert found.common()['resolution'] == '224'
  assert 'stochastic_depth' not in found.common()  # not stated anywhere
  assert found.varying()[:4] == ['model', 'dataset', 'epochs', 'base_lr']
  assert not {*found.common()} & {*found.varying()}


@pytest.mark.parametrize(
  'name, family',
  [('ViT Table 1', 'ViT'), ('AugReg Table 1', 'ViT'), ('DeiT Table 1', 'DeiT')],
)
def test_sizes_match_the_models(name, family):
  for row in facts.named(name).rows:
    model = row['model'].replace('/', '_').replace('@384', '')
    if family == 'DeiT':
      model = model.replace(' distilled', '_16-distilled')
      model = model if model.endswith('distilled') else f'{model}_16'
    spec = models.variant(model)
    assert (row['patch_size'], row['width']) == (
      str(spec['patch_size'][0]),
      str(spec['hidden_size']),
    )
    assert (row['layers'], row['mlp_dim'], row['heads']) == tuple(
      str(spec['transformer'][field])
      for field in ('num_layers', 'mlp_dim', 'num_heads')
    )
