"""The lines of a run's progress where standard error is no terminal."""

import time

import pytest

from vit_jax_repro.output import waiting
from vit_jax_repro.runs import progress

pytestmark = pytest.mark.quick

_PLAN = progress.Plan(
  start_step=0, total_steps=40, images_of_epoch=100, batch_size=10, peak=200.0
)


def test_shown_prints_epoch_rate_and_utilisation(capsys):
  """A line has another step's epoch or a wrong part of the peak."""
  with progress.shown(_PLAN) as display:
    for step in range(1, 21):
      display.stepped(step)
    display.write(
      20, {'train_loss': 1.25, 'images_per_sec': 50.0, 'accuracy_test': 0.5}
    )
  first, line = capsys.readouterr().err.splitlines()
  assert first == 'step 1/40: the update is compiled'
  assert line.startswith(
    'step 20/40, epoch 2.0: loss 1.2500, 50 images/s, 25.0% of the peak, test '
    'accuracy 50.00%, 0 s left'
  )


def test_shown_names_the_share_of_waiting_for_images(capsys):
  """The share is missing, or a zero is shown."""
  scalars = {'train_loss': 1.0, 'images_per_sec': 5.0, 'accuracy_test': 0.5}
  with progress.shown(_PLAN) as display:
    display.stepped(1)
    for share in (0.0, 0.124):
      display.write(2, scalars | {'input_wait': share})
  _, without, line = capsys.readouterr().err.splitlines()
  assert 'waiting' not in without
  assert '2.5% of the peak, 12% waiting for images, test acc' in line


def test_shown_prints_a_line_a_second_and_every_evaluation(capsys):
  """Lines flood a log file, or an evaluation is left out."""
  scalars = {'train_loss': 1.0, 'images_per_sec': 1.0}
  with progress.shown(_PLAN) as display:
    for step in range(1, 41):
      display.stepped(step)
      evaluated = {'accuracy_test': 0.1} if step % 20 == 0 else {}
      display.write(step, scalars | evaluated)
  steps = [line.split('/')[0] for line in capsys.readouterr().err.splitlines()]
  assert steps == ['step 1', 'step 1', 'step 20', 'step 40']


def test_quiet_names_the_update(capsys, monkeypatch):
  """A study's run of an hour names no update."""
  monkeypatch.setenv('VIT_JAX_REPRO_PATIENCE', '0.05')
  with waiting.watch('main'), progress.quiet(40) as display:
    display.stepped(7)
    time.sleep(0.2)
  lines = capsys.readouterr().err.splitlines()
  assert set(lines) - {'the first update'} == {'update 7 of 40'}


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0.4, '0 s'), (99, '99 s'), (720, '12 min'), (12_010, '3 h 20 min')],
)
def test_duration_uses_the_unit_that_fits(seconds, text):
  """Minutes or hours are cut off or carried wrongly."""
  assert progress.duration(seconds) == text
