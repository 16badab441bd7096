"""Progress of a training run on the terminal."""

import contextlib
import dataclasses
import time
from collections.abc import Generator, Mapping

from vit_jax_repro.output import reports, waiting

# A smaller share of the time for images is not shown.
_SHOWN_WAIT = 0.01
_PAUSE = 1.0  # seconds between two lines, unless one is about an evaluation


class Progress:
  """Shows nothing: the base of the others."""

  def stepped(self, step: int) -> None:
    """Notices that an update was started."""

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Shows the scalars of an update, see `runs.loop.run`."""


class _Quiet(Progress):
  """Only names the update for `output.waiting`."""

  def __init__(self, total_steps):
    self._total_steps = total_steps

  def stepped(self, step):
    waiting.now_doing(f'update {step} of {self._total_steps}')


def _measured(scalars):
  """Returns (name, value) of what an evaluation measured; [] without one."""
  return [
    (f'{which} {kind.replace("_", " ")}', scalars[f'{kind}_{which}'])
    for which in ('validation', 'test')
    for kind in ('mean_average_precision', 'accuracy')
    if f'{kind}_{which}' in scalars
  ][:1]


class _Shown(Progress):
  """A progress that describes updates by lines of text."""

  def __init__(self, console, plan):
    self.console, self.plan = console, plan
    self._began: tuple[float, int] | None = None  # time and number

  def stepped(self, step):
    if self._began is None:  # the update is compiled, and has run once
      self._began = time.monotonic(), step

  def describe(self, step, scalars):
    plan = self.plan
    parts = [
      f'loss {scalars["train_loss"]:.4f}',
      f'{scalars["images_per_sec"]:.0f} images/s',
    ]
    if plan.peak:
      parts.append(f'{scalars["images_per_sec"] / plan.peak:.1%} of the peak')
    if scalars.get('input_wait', 0) >= _SHOWN_WAIT:
      parts.append(f'{scalars["input_wait"]:.0%} waiting for images')
    parts += [f'{name} {value:.2%}' for name, value in _measured(scalars)]
    epoch = step * plan.batch_size / plan.images_of_epoch
    place = f'step {step}/{plan.total_steps}, epoch {epoch:.1f}'
    return f'{place}: {", ".join(parts)}'


class _Lines(_Shown):
  """Prints lines, where standard error is no terminal."""

  _last = 0.0

  def stepped(self, step):
    if self._began is None:
      waiting.heard()
      text = f'step {step}/{self.plan.total_steps}: the update is compiled'
      self.console.print(text, soft_wrap=True)
    super().stepped(step)
    waiting.now_doing(f'update {step} of {self.plan.total_steps}')

  def write(self, step, scalars):
    now = time.monotonic()
    if not _measured(scalars) and now - self._last < _PAUSE:
      return
    self._last = now
    waiting.heard()
    text = self.describe(step, scalars) + self._left(step, now)
    self.console.print(text, soft_wrap=True)

  def _left(self, step, now):
    started, first = self._began or (now, step)
    remaining = self.plan.total_steps - step
    if step <= first or not remaining:
      return ''
    return f', {duration((now - started) / (step - first) * remaining)} left'


class _Bar(_Shown):
  """Moves a bar, and prints a line for each evaluation."""

  def __init__(self, console, plan, bar, task):
    super().__init__(console, plan)
    self._bar, self._task = bar, task

  def stepped(self, step):
    if self._began is None:
      self._bar.update(self._task, shown='first updates')
    super().stepped(step)
    self._bar.update(self._task, completed=step)

  def write(self, step, scalars):
    text = self.describe(step, scalars)
    shown = text.partition(', ')[2]
    for name, _ in _measured(scalars):
      shown = shown.partition(f', {name}')[0]
    self._bar.update(self._task, completed=step, shown=shown)
    if _measured(scalars):
      self.console.print(text, soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is known of a run before its first update.

  Attributes:
    start_step: number of updates before this call.
    total_steps: number of the last update.
    images_of_epoch: images of the training split.
    batch_size: images of an update.
    peak: images per second at the peak of the devices; None if unknown.
  """

  start_step: int
  total_steps: int
  images_of_epoch: int
  batch_size: int
  peak: float | None = None


@contextlib.contextmanager
def quiet(total_steps: int) -> Generator[Progress]:
  """Shows no updates; a long silence ends with a line that names the update."""
  with waiting.doing('the first update'):
    yield _Quiet(total_steps)


@contextlib.contextmanager
def shown(plan: Plan) -> Generator[Progress]:
  """Shows epoch, loss, images per second, utilisation and remaining time.

  On a terminal a bar moves from the first update on, and each evaluation prints
  a line that stays. Elsewhere a line is printed at most once a second.
  """
  from rich import progress

  err = reports.progress_console()
  if not err.is_terminal:
    with waiting.doing('the first update'):
      yield _Lines(err, plan)
    return
  columns = (
    progress.TextColumn('step'),
    progress.MofNCompleteColumn(),
    progress.TextColumn('{task.fields[shown]}'),
    progress.TimeElapsedColumn(),
    progress.TextColumn('·'),
    progress.TimeRemainingColumn(),
    progress.TextColumn('left'),
  )
  with (
    waiting.suspended(),
    progress.Progress(*columns, console=err, redirect_stdout=False) as bar,
  ):
    task = bar.add_task(
      'train',
      total=plan.total_steps,
      completed=plan.start_step,
      shown='compiling the update',
    )
    yield _Bar(err, plan, bar, task)


def duration(seconds: float) -> str:
  """Describes a duration: '48 s', '12 min', '3 h 20 min'."""
  if seconds < 100:
    return f'{seconds:.0f} s'
  minutes = round(seconds / 60)
  if minutes < 100:
    return f'{minutes} min'
  return f'{minutes // 60} h {minutes % 60} min'
