"""Progress of a training run on the terminal."""

import contextlib
from collections.abc import Callable, Generator

from vit_jax_repro.output import reports


@contextlib.contextmanager
def bar(start_step: int, total_steps: int) -> Generator[Callable]:
  """Shows a bar with loss, images per second and remaining time.

  Each evaluation prints a line that stays. If standard error is not a terminal,
  only these lines are printed.

  Yields:
    A function of (step, scalars), such as `runs.loop.run` takes as `write`.
  """
  from rich import progress

  err = reports.progress_console()
  columns = (
    progress.TextColumn('step'),
    progress.MofNCompleteColumn(),
    progress.BarColumn(),
    progress.TextColumn('{task.fields[shown]}'),
    progress.TimeRemainingColumn(),
    progress.TextColumn('left'),
  )
  with progress.Progress(
    *columns, console=err, disable=not err.is_terminal
  ) as p:
    task = p.add_task(
      'train', total=total_steps, completed=start_step, shown='compiling'
    )

    def show(step, scalars):
      p.update(task, completed=step, shown=_summary(scalars))
      if 'accuracy_test' in scalars:
        err.print(
          f'step {step}/{total_steps}: {_summary(scalars)}, '
          f'test accuracy {scalars["accuracy_test"]:.2%}',
          soft_wrap=True,
        )

    yield show


def silent(step: int, scalars: dict) -> None:
  """Ignores its arguments; replaces the function of `bar` in quiet runs."""
  del step, scalars


def _summary(scalars):
  rate = f'{scalars["images_per_sec"]:.0f} images/s'
  return f'loss {scalars["train_loss"]:.4f}, {rate}'
