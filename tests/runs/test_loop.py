"""The training loop: updates, evaluations, checkpoints and stops."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.runs import loop

pytestmark = pytest.mark.quick


@dataclasses.dataclass
class State:
  params: int  # counts updates


class Recorder:
  """Runs the loop with functions that record their calls."""

  def __init__(self, losses=None):
    self.written, self.saved, self.evaluated, self.seen = [], [], [], []
    self.scores = {}
    self.losses = losses or {}
    self.interrupted = None  # at the evaluation of this step

  def step(self, state, batch):
    self.seen.append(batch['id'])
    number = state.params + 1
    loss = self.losses.get(number, 1 / number)
    return State(number), {'loss': np.float32(loss), 'grad_norm': np.float32(2)}

  def evaluate(self, state):
    self.evaluated.append(state.params)
    if state.params == self.interrupted:
      return None
    return {'accuracy_test': state.params / 100}

  def save(self, state, evaluated):
    self.saved.append(state.params)
    self.scores[state.params] = evaluated

  def run(
    self,
    *,
    start=0,
    total=10,
    progress=1,
    evaluation=0,
    checkpoint=0,
    stop_after=None,
  ):
    batches = ({'id': i} for i in itertools.count(start))
    return loop.run(
      State(start),
      batches,
      step=self.step,
      start_step=start,
      total_steps=total,
      batch_size=4,
      every=loop.Every(progress, evaluation, checkpoint),
      learning_rate=lambda step: 0.5 + step,
      evaluate=self.evaluate,
      write=lambda step, scalars: self.written.append((step, scalars)),
      save=self.save,
      stop=lambda: len(self.seen) == stop_after,
    )


def test_run_evaluates_and_saves_after_the_last_update():
  recorder = Recorder()
  state, evaluated = recorder.run(total=10, progress=3)
  assert state.params == 10 and recorder.seen == list(range(10))
  assert [step for step, _ in recorder.written] == [3, 6, 9, 10]
  assert recorder.evaluated == recorder.saved == [10]
  assert evaluated == {'accuracy_test': 0.1}


def test_run_saves_independently_of_evaluations():
  recorder = Recorder()
  recorder.run(total=12, progress=5, evaluation=6, checkpoint=4)
  assert recorder.evaluated == [6, 12]
  assert recorder.saved == [4, 8, 12]


def test_run_writes_loss_rate_speed_and_accuracy():
  recorder = Recorder()
  recorder.run(total=4, progress=2, evaluation=4)
  (_, first), (_, last) = recorder.written
  assert first['train_loss'] == 0.5 and first['lr'] == 1.5  # of update 1
  assert first['grad_norm'] == 2 and first['images_per_sec'] > 0
  assert 0 <= first['input_wait'] <= 1
  assert 'accuracy_test' not in first and last['accuracy_test'] == 0.04


def test_run_makes_the_remaining_updates_if_continued():
  recorder = Recorder()
  state, _ = recorder.run(start=7, total=10)
  assert recorder.seen == [7, 8, 9] and state.params == 10


def test_run_only_evaluates_a_finished_state():
  recorder = Recorder()
  _, evaluated = recorder.run(start=10, total=10)
  assert evaluated == {'accuracy_test': 0.1}
  assert not recorder.seen and not recorder.saved


def test_run_saves_the_evaluation_of_the_same_step():
  recorder = Recorder()
  recorder.run(total=6, evaluation=2, checkpoint=3)
  assert recorder.scores == {3: {}, 6: {'accuracy_test': 0.06}}


@pytest.mark.parametrize('last', [5, 10])
def test_run_saves_after_the_update_if_stopped(last):
  """A stop at the last update leaves the evaluation to a later call."""
  recorder = Recorder()
  state, evaluated = recorder.run(
    progress=3, evaluation=5, checkpoint=2, stop_after=last
  )
  assert evaluated is None and state.params == last
  assert recorder.seen == list(range(last))
  assert recorder.saved[-1] == last and last not in recorder.evaluated
  assert recorder.scores[last] == {}
  step, scalars = recorder.written[-1]
  assert step == last and scalars['train_loss'] == np.float32(1 / last)


def test_run_saves_the_step_of_an_interrupted_evaluation():
  recorder = Recorder()
  recorder.interrupted = 6
  state, evaluated = recorder.run(evaluation=3)
  assert evaluated is None and state.params == 6
  assert recorder.saved == [6] and recorder.evaluated == [3, 6]
  assert 'accuracy_test' not in recorder.written[-1][1]


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_run_names_the_step_of_a_loss_not_finite(bad):
  recorder = Recorder({5: bad})
  with pytest.raises(
    ValueError, match=f'the loss is {bad} at step 5; training'
  ):
    recorder.run(total=20, progress=4, checkpoint=4)
  assert recorder.saved == [4]


def test_paced_waits_for_the_update_before():
  """JAX would take a batch for each of many updates in advance."""

  @jax.jit
  def step(state, batch):
    for _ in range(30):
      state = jnp.tanh(state @ state)
    return state, state.sum() + batch

  state, paced, losses = jnp.ones((500, 500)), loop.paced(step), []
  for number in range(4):
    state, loss = paced(state, number)
    assert all(before.is_ready() for before in losses)
    losses.append(loss)


@pytest.mark.parametrize('size', [0, 1, 3, 50])
def test_prefetch_keeps_all_elements_in_order(size):
  out = loop.prefetch(iter(range(10)), lambda x: x * 2, size)
  assert list(out) == list(range(0, 20, 2))


def test_prefetch_is_ahead_by_its_size():
  put = []
  out = loop.prefetch(iter(range(10)), lambda x: put.append(x) or x, 2)
  assert next(out) == 0
  assert put == [0, 1, 2]


@pytest.mark.parametrize(
  'metrics, reason, last_finite',
  [
    ({'loss': np.nan, 'grad_norm': np.nan}, 'the loss is nan', 6),
    ({'loss': -np.inf}, 'the loss is -inf', 6),
    ({'loss': 2.0, 'grad_norm': np.inf}, 'norm of the gradients is inf', 7),
  ],
)
def test_check_finite_names_the_last_finite_loss(metrics, reason, last_finite):
  with pytest.raises(
    loop.NotFiniteError, match=f'{reason} at step 7;'
  ) as error:
    loop.check_finite(7, metrics)
  assert (error.value.step, error.value.last_finite) == (7, last_finite)
  loop.check_finite(7, {'loss': 2.0, 'grad_norm': 3.0})
