"""Names of a study's runs: equal settings share a run."""

import pytest

from vit_jax_repro import studies
from vit_jax_repro.runs.settings import to_plain
from vit_jax_repro.studies import running
from vit_jax_repro.studies.trainings import Trainings

pytestmark = pytest.mark.quick


class Named(Trainings):
  """Returns names of runs without training: all runs seem finished."""

  def __init__(self):
    super().__init__('folder', total=1)

  def _read(self, name, file, *needed):
    return {'accuracy': 0.5}


def named(settings, before=None):
  """Returns the name of a run with these settings."""
  return Named().train('train', settings, before, 'about')


@pytest.fixture
def settings():
  """Settings of the fine-tuning of `transfer`."""
  plan = running.checked(to_plain(studies.config('transfer').study))
  return plan['stages']['finetune']


def test_train_keeps_the_name_if_a_free_setting_changes(settings):
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
def test_train_gives_another_name_if_any_other_setting_changes(
  settings, change
):
  assert named(running._merged(settings, change)) != named(settings)
  assert named(settings, 'before') != named(settings)


@pytest.mark.parametrize('size', studies.SIZES)
@pytest.mark.parametrize('name', studies.NAMES)
def test_train_gives_each_side_its_own_last_run(name, size):
  """Sides with `rate_of` are left out: the plan does not have their rate."""
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
