"""Plans of all studies at every size, and the claims about them."""

import jax
import pytest

from vit_jax_repro import models, studies
from vit_jax_repro.paper import table
from vit_jax_repro.runs import settings
from vit_jax_repro.runs.settings import to_plain
from vit_jax_repro.studies import claims, outcome, running

pytestmark = pytest.mark.quick


def plan_of(name, size):
  """Returns the checked plan of a study."""
  return running.checked(to_plain(studies.config(name, size).study))


def trainings(plan):
  """Yields side and settings of the first seed's calls of jobs.train."""
  for side, changes in plan['sides'].items():
    before = False
    rate = running.rates_of(changes, plan, dict.fromkeys(plan['sides']))[0]
    for _, made in running.stages(plan, changes, rate or 0.1, plan['seeds'][0]):
      if before:
        made.update(pretrained_dir='before', model_or_filename='model')
      before = True
      yield side, made


@pytest.mark.parametrize('size', studies.SIZES)
@pytest.mark.parametrize('name', studies.NAMES)
def test_plans_have_valid_and_distinct_trainings(name, size):
  plan = plan_of(name, size)
  least = {'short': 2, 'digits': 5, 'full': outcome.MIN_SEEDS}
  assert len(plan['seeds']) >= least[size]
  seen = {}
  for side, made in trainings(plan):
    settings.from_config(made)
    architecture = dict(made['model'], num_classes=7)
    assert models.create(architecture)
    seen.setdefault(side, []).append(made)
  assert list(seen) == list(plan['sides'])
  chains = list(seen.values())
  assert not any(a == b for i, a in enumerate(chains) for b in chains[:i])


@pytest.mark.parametrize('name', studies.NAMES)
def test_claims_are_about_sides_of_their_plan(name):
  study = claims.STUDIES[name]
  assert study.claims and study.title
  for size in ('digits', 'full'):
    sides = plan_of(name, size)['sides']
    for claim in study.claims:
      assert claim.weights.keys() | claim.gap.keys() <= sides.keys()
      assert abs(sum(claim.weights.values())) < 1e-9
      assert claim.kind in ('more', 'alike', 'differs')
    assert study.published.keys() <= sides.keys()
  for claim in study.claims[:1]:
    assert claim.weights.keys() <= plan_of(name, 'short')['sides'].keys()
  assert study.published_values() == {
    side: table.find(row).published for side, row in study.published.items()
  }


def test_published_values_are_the_cells_of_the_paper():
  """Compares with Tables 6, 7 and 8.

  Table 8: the cells discussed in appendix D.4. Table 7: means. Table 6:
  ImageNet after 7 epochs of JFT-300M.
  """
  published = claims.STUDIES['position_embeddings'].published_values()
  assert len(published) == 8
  assert published['none'] == '61.382'
  assert published['1-D, stem'] == '64.206'
  assert published['1-D, shared'] == '64.292'
  assert published['2-D, every layer'] == '64.046'
  assert published['relative, every layer'] == '64.032'
  adam = claims.STUDIES['adam_vs_sgd'].published_values()
  assert adam == {'Adam': '89.33', 'SGD': '88.79'}
  scaling = claims.STUDIES['scaling']
  published = scaling.published_values()
  assert published == {
    'ViT, small': '84.15',
    'hybrid, small': '85.58',
    'ViT, large': '86.30',
    'hybrid, large': '86.60',
  }
  ahead, less = (
    sum(weight * float(published[side]) for side, weight in c.weights.items())
    for c in scaling.claims
  )
  assert round(ahead, 2) == 1.43 and round(less, 2) == 1.13


def test_plan_of_full_scaling_has_the_models_of_table_6():
  for side, made in trainings(plan_of('scaling', 'full')):
    row = table.find(claims.STUDIES['scaling'].published[side])
    name = row.model.replace('R50x1', 'R50').replace('/', '_')
    assert made['model']['model_name'] == name
    assert made['dataset'] == 'imagenet2012' and made['pp']['crop'] == 224


@pytest.mark.slow
@pytest.mark.parametrize('size', ['digits', 'full'])
def test_plan_of_scaling_has_hybrids_equal_to_vits_but_for_the_stem(size):
  """Transformer, number of patches and training are the same."""
  shapes, rest = {}, {}
  for side, made in trainings(plan_of('scaling', size)):
    model = models.create(dict(made.pop('model'), num_classes=10))
    crop = made['pp'].pop('crop')
    made['pp'].pop('shift')  # in pixels
    images = jax.ShapeDtypeStruct((1, crop, crop, 3), 'float32')
    params = jax.eval_shape(model.init, jax.random.key(0), images)['params']
    shapes[side], rest[side] = params, made
  numbers = []
  for name in ('small', 'large'):
    vit, hybrid = shapes[f'ViT, {name}'], shapes[f'hybrid, {name}']
    assert 'block1' in hybrid.keys() - vit.keys()
    assert vit.keys() <= hybrid.keys()
    assert vit['Transformer'] == hybrid['Transformer']
    numbers.append(sum(x.size for x in jax.tree.leaves(vit)))
  assert numbers[1] > 3 * numbers[0]
  assert all(made == rest['ViT, small'] for made in rest.values())


def test_config_rejects_unknown_names_and_sizes():
  for arguments, message in (
    (('mnist',), "unknown study 'mnist'; choose from"),
    (('transfer', 'huge'), "unknown size 'huge'; choose from"),
  ):
    with pytest.raises(ValueError, match=message) as error:
      studies.config(*arguments)
    assert '\n' not in str(error.value)
