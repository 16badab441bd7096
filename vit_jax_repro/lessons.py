"""The computations of the notebooks, at three sizes.

Size 'digits' takes minutes on a laptop, with scikit-learn's digits. 'short' is
the same with fewer updates, to test the notebooks. 'full' is for a GPU and has
published files, CIFAR-10, the user's pictures, and the studies of the papers'
models on ImageNet. Trainings and checks are stored in a folder and not
repeated.
"""

import base64
import contextlib
import dataclasses
import html
import io
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from vit_jax_repro import jobs, models, recipes, studies
from vit_jax_repro.analysis import cost, saved_results
from vit_jax_repro.data import digits, photographs
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.paper import results, table, views
from vit_jax_repro.published import fetching
from vit_jax_repro.reproduction import budget, checks
from vit_jax_repro.reproduction.options import Options, apply_overrides
from vit_jax_repro.runs import configuration
from vit_jax_repro.runs.settings import to_plain
from vit_jax_repro.studies import report, running

SIZES = studies.SIZES
_SHORT_STEPS = 150  # total steps of the quickstart at size 'short'
# At full size: the file to inspect, the file to fine-tune, and the data set.
_TRAINED = 'imagenet21k+imagenet2012/ViT-B_16'
_PRETRAINED = 'imagenet21k/ViT-B_16'
_TARGET = 'cifar10'


@dataclasses.dataclass(frozen=True)
class Lesson:
  """Settings and computations of a notebook.

  Raises:
    InputError: the size is unknown.
  """

  size: str = 'digits'  # one of SIZES
  folder: str = 'runs/lessons'  # folder of results; has one for each size
  # Only for size 'full':
  weights_dir: str = 'weights'  # folder of published files; missing are fetched
  data_dir: str | None = None  # folder of TFDS data sets; None: TFDS's own
  images: Sequence[str] = ()  # pictures to inspect
  budget_hours: float | None = None  # for `check`
  # Overrides of training settings, such as {'accum_steps': 64} for one device.
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    # Hides warnings of TFDS and Orbax that a user can do nothing about.
    logging.set_verbosity(logging.ERROR)
    if self.size not in SIZES:
      raise InputError(f'size={self.size!r} must be one of {", ".join(SIZES)}')

  @property
  def is_full(self) -> bool:
    """Returns whether published weights and real data are used."""
    return self.size == 'full'

  def path(self, *parts: str) -> str:
    """Returns a path in the folder of this size; creates the folder."""
    os.makedirs(os.path.join(self.folder, self.size), exist_ok=True)
    return os.path.join(self.folder, self.size, *parts)

  def training(self) -> Any:
    """Returns the configuration of a training, for `jobs.train`.

    Returns:
      An ml_collections.ConfigDict. A small ViT is trained on the digits from
      scratch. At full size, a published ViT-B/16 is fine-tuned on CIFAR-10 with
      the settings of the released code.
    """
    if not self.is_full:
      recipe = recipes.QUICKSTART
      if self.size == 'short':
        steps = _SHORT_STEPS
        recipe = recipe | dict(total_steps=steps, warmup_steps=steps // 10)
      return configuration.create(recipe, recipes.QUICKSTART_MODEL)
    model = _PRETRAINED.rpartition('/')[2]
    recipe = recipes.vit_finetune(_TARGET, model) | dict(
      pretrained_dir=os.path.dirname(self._fetched(_PRETRAINED)),
      tfds_data_dir=self.data_dir,
    )
    config = to_plain(configuration.create(recipe, model))
    apply_overrides(config, self.overrides)
    import ml_collections

    return ml_collections.ConfigDict(config)

  def trained(self) -> str:
    """Returns the path of a weights file to inspect.

    This is a model trained on the digits; at full size the published ViT-B/16
    with ImageNet's classes.

    Raises:
      OSError: the file cannot be fetched; or as jobs.train.
      InputError: as jobs.train.
    """
    if self.is_full:
      return self._fetched(_TRAINED)
    with _quiet():
      return jobs.train(self.training(), self.path('training')).model

  def pictures(self, number: int = 4) -> list[str]:
    """Returns paths of images: test digits, or the first of `images`.

    Args:
      number: number of images, at most.

    Raises:
      InputError: the size is 'full' and there are no `images`.
    """
    if self.is_full:
      if not self.images:
        raise InputError(
          "size='full' needs your pictures; set images=('cat.jpg', ...)"
        )
      return list(self.images[:number])
    return _test_digits(self.path('images'), number)

  def photographs(self) -> str:
    """Writes a zip of photographs, one folder for each class; returns its path.

    They are 24 parts of the two photographs that scikit-learn ships.
    """
    folder = self.path('photographs')
    photographs.write_photographs(folder, 24, (96, 128))
    return shutil.make_archive(folder, 'zip', os.path.join(folder, 'train'))

  def study(self, name: str, **part: Any) -> report.StudyResult:
    """Runs a study, unless it is finished, and returns its result.

    Args:
      name: one of `studies.NAMES`.
      **part: arguments of `study_plan`.

    Raises:
      As studies.run.
    """
    plan = self.study_plan(name, **part)
    with _quiet():
      return studies.run(plan, self.path('studies', name))

  def study_plan(
    self,
    name: str,
    *,
    sides: Sequence[str] | None = None,
    num_seeds: int | None = None,
    base_lrs: Sequence[float] | None = None,
    updates: float = 1.0,
  ) -> dict[str, Any]:
    """Returns the configuration of a study as a plain dict; see `studies.run`.

    The last four arguments shorten the study. They count only at size 'digits',
    and the `size` of the returned configuration then names what is left out.

    Args:
      name: one of `studies.NAMES`.
      sides: names of the sides to run; None: all.
      num_seeds: number of seeds; None: all.
      base_lrs: learning rates to try; None: all.
      updates: fraction of the updates.

    Raises:
      InputError: the name is unknown, or an override is not a setting.
    """
    plan = to_plain(studies.config(name, self.size).study)
    if self.is_full:
      whole = [*plan['stages'].values()]
      for changes in plan['sides'].values():
        # Changes with a data set replace a stage completely.
        whole += [each for each in changes.values() if _is_whole(each)]
      for stage in whole:
        stage['tfds_data_dir'] = self.data_dir
        apply_overrides(stage, self.overrides)
    if self.size == 'digits':
      _leave_out(plan, sides, num_seeds, base_lrs, updates)
    return plan

  def costs(self, name: str) -> View:
    """Returns parameters and multiply-adds of the sides' models as a table.

    The models are those of the last stage, without heads. The tanh layer of
    pre-training is included if there is one.

    Args:
      name: one of `studies.NAMES`.
    """
    plan = running.checked(to_plain(studies.config(name, self.size).study))
    rows = []
    for side, changes in plan['sides'].items():
      *_, (_, made) = running.stages(plan, changes, 0.0, plan['seeds'][0])
      model = models.create(dict(made['model'], num_classes=None))
      size = 2 * (made['pp']['crop'],)
      parameters = cost.parameters(model, size)
      multiply_adds = cost.multiply_adds(model, size)
      rows.append((side, f'{parameters:,}', f'{multiply_adds:,}', f'{size[0]}'))
    columns = ('side', '>parameters', '>multiply-adds of an image', '>pixels')
    return View((Section('', (), columns, tuple(rows)),), ())

  def studied(self, name: str) -> saved_results.SavedStudy:
    """Returns the stored result of `study`, for `charts.study`."""
    return saved_results.study(self.path('studies', name, 'study.json'))

  def check(self, rows: Sequence[table.Row]) -> View:
    """Returns published numbers with verdicts; at full size, checks them first.

    At the other sizes the verdicts are those of earlier checks at full size, if
    there are any.

    Args:
      rows: published numbers.

    Raises:
      InputError, OSError: as reproduction.budget.run.
    """
    folder = os.path.join(self.folder, 'full', 'results')
    if self.is_full:
      options = Options(
        folder,
        self.weights_dir,
        fetch=True,
        data_dir=self.data_dir,
        overrides=self.overrides,
      )
      _, late, failed = budget.run(
        [row for row in rows if row.status != table.NOT],
        options,
        checks.resolve,
        self.budget_hours,
      )
      for row, why in (late | failed).items():
        messages.note(f'{row}: {why}')
    found = results.read(folder) if os.path.isdir(folder) else {}
    return views.numbers(rows, found)

  def _fetched(self, name):
    folder = os.path.join(self.weights_dir, os.path.dirname(name))
    return fetching.fetch(name, folder).file


def _leave_out(plan, sides, num_seeds, base_lrs, updates):
  """Shortens a study and extends its size; see `Lesson.study_plan`."""
  left_out = []
  for what, values, kept in (
    ('sides', plan['order']['sides'], sides),
    ('seeds', plan['seeds'], plan['seeds'][:num_seeds]),
    ('learning rates', plan['base_lrs'], base_lrs),
  ):
    if kept is not None and len(kept) < len(values):
      left_out.append(f'{len(kept)} of {len(values)} {what}')
      values[:] = kept
  if updates != 1:
    left_out.append(f'{updates:g} of the updates')
    for stage in plan['stages'].values():
      for key in ('total_steps', 'warmup_steps'):
        stage[key] = round(updates * stage[key])
  if left_out:
    plan['size'] += f' with {", ".join(left_out)}'


def _is_whole(changes):
  return isinstance(changes, dict) and 'dataset' in changes


def readme_claim() -> table.Row:
  """Returns the claim of README.md on `make quickstart` as a table row."""
  return table.Row(
    id='readme-quickstart',
    table='README.md',
    model='ViT of the quickstart',
    family='ViT',
    pretrain_dataset='',
    finetune_dataset='digits',
    train_examples='full',
    resolution=8,
    eval_dataset='digits',
    split='test',
    metric='top1_pct',
    value=98.0,
    decimals=0,
    status=table.FINETUNE,
    note='360 test images; the value is accurate to a point',
    source='README.md of this repository',
    exaflops=None,
    std=None,
    value_min=None,
    value_max=None,
    epochs='',
    checkpoint='',
    blocker='',
    confidence='',
    second_source='',
  )


@dataclasses.dataclass(frozen=True)
class Shown:
  """Markdown as the result of a cell, with its headings two levels lower.

  Attributes:
    markdown: the text.
    folded_under: a line that unfolds the text at a click; '': it is not folded.
  """

  markdown: str
  folded_under: str = ''

  def _repr_markdown_(self):
    text = re.sub('^(#+ )', r'##\1', self.markdown, flags=re.MULTILINE)
    if not self.folded_under:
      return text
    # The site's Markdown reads what is inside only if `markdown` is 1.
    return (
      f'<details markdown="1"><summary>{self.folded_under}</summary>\n\n{text}'
      '\n\n</details>'
    )


@dataclasses.dataclass(frozen=True)
class Picture:
  """A figure as the result of a cell, with a text for those who cannot see it.

  Attributes:
    figure: a matplotlib Figure.
    text: what the figure shows.
  """

  figure: Any
  text: str

  def _repr_html_(self):
    file = io.BytesIO()
    self.figure.savefig(file, format='png')
    encoded = base64.b64encode(file.getvalue()).decode()
    return (
      f'<img alt="{html.escape(self.text)}" style="max-width: 100%" '
      f'src="data:image/png;base64,{encoded}">'
    )


def _quiet():
  """Sends progress notes to stdout; Jupyter shows stderr as errors."""
  return contextlib.redirect_stderr(sys.stdout)


def _test_digits(folder, number):
  """Writes the first test digits as 8x8 PNG files; returns their paths."""
  from PIL import Image

  images, labels = digits.arrays()
  paths = []
  os.makedirs(folder, exist_ok=True)
  for position in digits.splits(labels)['test'][:number]:
    path = os.path.join(folder, f'{position:04}-is-{labels[position]}.png')
    Image.fromarray(images[position, ..., 0]).save(path)
    paths.append(path)
  return paths
