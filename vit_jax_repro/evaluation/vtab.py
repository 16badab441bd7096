"""VTAB-1k: from the accuracies of 19 tasks to the published means.

The score of VTAB is the mean over its tasks, and that of a group the mean over
the group's tasks (arXiv:1910.04867, section 2; ViT paper, Table 2 and Figure
2), so that groups count by their sizes of 7, 4 and 8.
"""

import dataclasses

from vit_jax_repro.data import catalogue

GROUPS = ('natural', 'specialized', 'structured')
ALL = 'all'

TASKS = {  # the tasks of each group, and of all
  group: tuple(
    row.name.removeprefix(catalogue.VTAB)
    for row in catalogue.DATA_SETS.values()
    if row.group and group in (row.group, ALL)
  )
  for group in (*GROUPS, ALL)
}


@dataclasses.dataclass(frozen=True)
class Mean:
  """The mean accuracy over some tasks."""

  mean: float | None  # a fraction, over the tasks that are there; None: none
  # Of the mean: what the test images being a sample adds, each task's
  # p (1 - p) / n. The choice of the 1000 training images is not in it.
  variance: float | None
  num_tasks: int  # that are there
  missing: tuple[str, ...]  # tasks without an accuracy

  @property
  def complete(self):
    """Whether it may be put beside a published one."""
    return not self.missing


def means(accuracies):
  """Means over the groups and over all tasks.

  Args:
    accuracies: {task: (accuracy, n)}, a fraction and the number of test images
      it is of; a task is called as in `TASKS`, with or without 'vtab/'.

  Returns:
    {'natural': Mean, 'specialized': Mean, 'structured': Mean, 'all': Mean}.

  Raises:
    ValueError: an unknown task or one that comes twice, an accuracy that is no
      fraction, or no test image.
  """
  known = {}
  for name, (accuracy, number) in accuracies.items():
    task = name.removeprefix(catalogue.VTAB)
    if task not in TASKS[ALL]:
      raise ValueError(
        f'unknown task {name!r} of VTAB; choose from {sorted(TASKS[ALL])}'
      )
    if task in known:
      raise ValueError(f'task {task!r} of VTAB is given twice; leave one out')
    if not 0 <= accuracy <= 1:
      raise ValueError(
        f'the accuracy {accuracy} of {name!r} must be a fraction, from 0 to 1'
      )
    if number < 1:
      raise ValueError(f'{name!r} has {number} test images; give at least 1')
    known[task] = accuracy, number
  return {group: _mean(tasks, known) for group, tasks in TASKS.items()}


def _mean(tasks, known):
  found = [known[task] for task in tasks if task in known]
  missing = tuple(task for task in tasks if task not in known)
  size = len(found)
  if not size:
    return Mean(None, None, 0, missing)
  return Mean(
    mean=sum(p for p, _ in found) / size,
    variance=sum(p * (1 - p) / n for p, n in found) / size**2,
    num_tasks=size,
    missing=missing,
  )
