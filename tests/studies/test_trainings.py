"""Which runs of a study are the same, and which are not."""

import pytest

from vit_jax_repro import studies
from vit_jax_repro.runs.settings import to_plain
from vit_jax_repro.studies import running
from vit_jax_repro.studies.trainings import Trainings

pytestmark = pytest.mark.quick


class Named(Trainings):
  """Gives runs their names, as if each was there."""

  def _read(self, name, file):
    return {}


def named(settings, before=None):
  return Named('folder').train('train', settings, before, 'about')


@pytest.fixture
def settings():
  plan = running.checked(to_plain(studies.config('transfer').study))
  return plan['stages']['finetune']


def test_free_settings_change_no_name(settings):
  other = settings | dict(prefetch=7, mesh=dict(settings['mesh'], fsdp=8))
  other['model'] = settings['model'] | dict(remat=True, attention='plain')
  assert named(other) == named(settings)


@pytest.mark.parametrize(
  'change',
  [
    dict(seed=1),
    dict(dataset='digits'),
    dict(pp=dict(train='train')),
    dict(model=dict(position_embedding='none')),
    dict(model=dict(classifier='gap')),
  ],
)
def test_any_other_does(settings, change):
  assert named(running._merged(settings, change)) != named(settings)
  assert named(settings, 'before') != named(settings)


@pytest.mark.parametrize('size', studies.SIZES)
@pytest.mark.parametrize('name', studies.NAMES)
def test_no_two_sides_share_their_last_run(name, size):
  """Where they differ at all: a rate of its own is not in the plan."""
  plan = running.checked(to_plain(studies.config(name, size).study))
  seen = {}
  for side, changes in plan['sides'].items():
    rates = running.rates_of(changes, plan, dict.fromkeys(plan['sides'], 0.1))
    run = None
    for _, made in running.stages(plan, changes, rates[0], 0):
      run = named(made, run)
    if 'rate_of' not in changes:
      seen.setdefault(run, []).append(side)
  assert all(len(sides) == 1 for sides in seen.values()), seen
