"""The work of the notebooks at three sizes; `Lesson` holds the settings.

'digits' is minutes on a laptop, with scikit-learn's digits; 'short' the same,
only to see that all runs; 'full' is for a GPU: published files, CIFAR-10, the
user's pictures, and the studies of the papers' models on ImageNet. What is
trained or checked is kept in a folder and not repeated.
"""

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from vit_jax_repro import jobs, models, recipes, studies, weights
from vit_jax_repro.analysis import cost, saved_results
from vit_jax_repro.data import digits
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import restoring
from vit_jax_repro.output import messages
from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.paper import results, table, views
from vit_jax_repro.published import fetching
from vit_jax_repro.reproduction import budget, checks
from vit_jax_repro.reproduction.options import Options, apply_overrides
from vit_jax_repro.runs import configuration
from vit_jax_repro.runs.settings import to_plain
from vit_jax_repro.studies import report, running
from vit_jax_repro.weights import model_card

SIZES = studies.SIZES
_SHORT_STEPS = 150  # of the quickstart's updates
# At full size: what is looked at, and what is fine-tuned, on which data.
_TRAINED = 'imagenet21k+imagenet2012/ViT-B_16'
_PRETRAINED = 'imagenet21k/ViT-B_16'
_TARGET = 'cifar10'


@dataclasses.dataclass(frozen=True)
class Lesson:
  """Settings of a notebook.

  Raises:
    InputError: an unknown size.
  """

  size: str = 'digits'  # one of SIZES
  folder: str = 'runs/lessons'  # keeps what is trained, a folder for each size
  # Of size 'full' alone:
  weights_dir: str = 'weights'  # published files, fetched if they are not there
  data_dir: str | None = None  # TFDS sets; by default TFDS's own
  images: Sequence[str] = ()  # pictures to look into
  budget_hours: float | None = None  # of `check`
  # Of trainings: other settings, such as {'accum_steps': 64} for one device.
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    # Of TFDS and Orbax, which warn of what their users cannot mend.
    logging.set_verbosity(logging.ERROR)
    if self.size not in SIZES:
      raise InputError(f'size={self.size!r} must be one of {", ".join(SIZES)}')

  @property
  def is_full(self) -> bool:
    """Returns whether published weights and real data are used."""
    return self.size == 'full'

  def path(self, *parts: str) -> str:
    """Returns a path in the folder of this size, which is made."""
    os.makedirs(os.path.join(self.folder, self.size), exist_ok=True)
    return os.path.join(self.folder, self.size, *parts)

  def training(self):
    """Returns the configuration of a training, for `jobs.train`.

    Returns:
      ConfigDict: a small ViT on the digits from scratch; at full size a
      published ViT-B/16 on CIFAR-10, as the released code fine-tunes it.
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
    """Returns the path of a weights file to look into.

    The digits' model, trained here; at full size a ViT-B/16 with ImageNet's
    classes as it was published.

    Raises:
      OSError: it cannot be fetched; else as jobs.train.
    """
    if self.is_full:
      return self._fetched(_TRAINED)
    with _quiet():
      return jobs.train(self.training(), self.path('training')).model

  def untrained(self) -> str:
    """Writes a file like that of `trained` with fresh parameters."""
    source = self.trained()
    restored = restoring.restore(source)
    card = model_card.read_card(source)
    if card is None:
      card = model_card.ModelCard(weights.describe(weights.load(source)))
    images = jnp.zeros((1, *restored.image_size, 3))
    init = jax.jit(restored.model.init)
    path = self.path('untrained.npz')
    model_card.save_model(
      path, init(jax.random.key(0), images)['params'], **vars(card)
    )
    return path

  def pictures(self, number: int = 4) -> list[str]:
    """Returns paths of images: `number` test digits, or the first of `images`.

    Raises:
      InputError: size 'full' and no `images`.
    """
    if self.is_full:
      if not self.images:
        raise InputError(
          "size='full' looks into your pictures; set images=('cat.jpg', ...)"
        )
      return list(self.images[:number])
    return _test_digits(self.path('images'), number)

  def study(self, name: str, **part: Any) -> report.StudyResult:
    """Runs a study of `studies.NAMES`, or finds it finished.

    Args:
      part: of `study_plan`.

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
    """Returns the study as it is run, plain; see `studies.run`.

    Args:
      sides, num_seeds, base_lrs, updates: which of the study's sides, seeds and
        learning rates are run, and what part of its updates, at size 'digits'
        only; by default all. The plan's size names what was left out.

    Raises:
      InputError: an unknown name, or overrides of no setting.
    """
    plan = to_plain(studies.config(name, self.size).study)
    if self.is_full:
      whole = [*plan['stages'].values()]
      for changes in plan['sides'].values():
        # What has a data set replaces a whole stage.
        whole += [each for each in changes.values() if _is_whole(each)]
      for stage in whole:
        stage['tfds_data_dir'] = self.data_dir
        apply_overrides(stage, self.overrides)
    if self.size == 'digits':
      _leave_out(plan, sides, num_seeds, base_lrs, updates)
    return plan

  def costs(self, name: str) -> View:
    """Returns the cost of the sides' models in the last stage, without heads.

    The tanh layer of pre-training is counted where there is one.
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
    """Returns the result of `study`, for `charts.study`."""
    return saved_results.study(self.path('studies', name, 'study.json'))

  def check(self, rows: Sequence[table.Row]) -> View:
    """Returns published numbers and verdicts; at full size, checks them first.

    Elsewhere there are neither weights nor data to check them with, so the
    verdicts are on what was measured at full size, if anything was.

    Raises:
      InputError, OSError: as requests.run.
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
  """Shortens a study and notes that in its size; see `Lesson.study_plan`."""
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
  unknown = dict.fromkeys(
    ('exaflops', 'std', 'value_min', 'value_max')
  ) | dict.fromkeys(
    ('epochs', 'checkpoint', 'blocker', 'confidence', 'second_source'), ''
  )
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
    note='360 images, right give or take one',
    source='README.md of this repository',
    **unknown,
  )


@dataclasses.dataclass(frozen=True)
class Shown:
  """Markdown as the result of a cell, its headings below those around it."""

  markdown: str

  def _repr_markdown_(self):
    return re.sub('^(#+ )', r'##\1', self.markdown, flags=re.MULTILINE)


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
