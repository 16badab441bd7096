"""The plans of all studies, at every size, and the claims about them."""

import pytest

from vit_jax_repro import models, studies
from vit_jax_repro.paper import table
from vit_jax_repro.runs import settings
from vit_jax_repro.runs.settings import to_plain
from vit_jax_repro.studies import claims, running

pytestmark = pytest.mark.quick


def plan_of(name, size):
  return running.checked(to_plain(studies.config(name, size).study))


def trainings(plan):
  """Settings of the first seed's trainings, as they are given to jobs.train."""
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
def test_every_training_has_settings_that_can_be(name, size):
  plan = plan_of(name, size)
  assert len(plan['seeds']) >= (2 if size == 'short' else 3)
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
def test_claims_are_about_sides_that_are_there(name):
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


def test_published_numbers():
  """Of Table 8, the cells that the text of D.4 speaks of; of Table 7, means."""
  published = claims.STUDIES['position_embeddings'].published_values()
  assert len(published) == 8
  assert published['none'] == '61.382'
  assert published['1-D, stem'] == '64.206'
  assert published['1-D, shared'] == '64.292'
  assert published['2-D, every layer'] == '64.046'
  assert published['relative, every layer'] == '64.032'
  adam = claims.STUDIES['adam_vs_sgd'].published_values()
  assert adam == {'Adam': '89.33', 'SGD': '88.79'}


def test_names_and_sizes():
  for arguments, says in (
    (('mnist',), "unknown study 'mnist'; choose from"),
    (('transfer', 'huge'), "unknown size 'huge'; choose from"),
  ):
    with pytest.raises(ValueError, match=says) as error:
      studies.config(*arguments)
    assert '\n' not in str(error.value)
