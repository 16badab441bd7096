"""The input of a run: its splits as batches, with their augmentation."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from vit_jax_repro import recipes
from vit_jax_repro.data import (
  augment,
  class_checks,
  class_matching,
  datasets,
  labels,
  pipeline,
  preprocess,
  split_records,
  splitting,
)
from vit_jax_repro.data.image_settings import ImageSettings
from vit_jax_repro.data.split_parts import UnknownSplitError
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import multi_label
from vit_jax_repro.output.messages import note, note_unapplied
from vit_jax_repro.runs.settings import DEFAULT_PREPROCESSING, Settings
from vit_jax_repro.training import mixing


class Input:
  """The training, test and validation splits of a run.

  Args:
    settings: the settings of the run.
    is_described: whether the splits are only described, for a dry run: the
      data sets need not be on this machine, and no batch can be read.
    records: folders in which earlier runs may have recorded how a folder
      without splits is divided, see data/split_records.py.

  Raises:
    InputError: a setting is invalid; checked before the data sets are opened.
    OSError: a data set does not exist or is not readable.
  """

  def __init__(
    self,
    settings: Settings,
    *,
    is_described: bool = False,
    records: Iterable[str] = (),
  ):
    self.settings = settings
    self._division = split_records.asked(
      settings.pp.train,
      settings.pp.test,
      settings.pp.split_seed,
      validation=settings.pp.validation,
      folders=records,
    )
    self.is_described = is_described
    # Counts every replacement in this process so far.
    self.replaced_images = 0
    self.preprocessing = settings.preprocessing or DEFAULT_PREPROCESSING
    # Names of the images that this process could not decode.
    self._unreadable: dict[str, set[str]] = {
      name: set() for name in splitting.SIDES
    }
    self._readable_classes: set[int] = set()  # have a readable training image
    self._mostly_lost: set[str] = set()  # notes on classes
    self.augmentation = self._augmentation()
    self.image_size = self.augmentation.crop
    self.train = self._split('train')
    self.test = self._split('test')
    self.validation = (
      self._split('validation') if settings.pp.validation else None
    )
    self.orientation = settings.pp.orientation or self.train.orientation
    self.augmentation = dataclasses.replace(
      self.augmentation, orientation=self.orientation
    )
    # Ids of test images with an EXIF orientation that is not applied.
    self._turned = set() if self.test.is_folder else None
    self._check_labels()
    self.notes = [] if is_described else self._checked()
    self.notes += self._notes_on_sizes()
    if settings.pp.split_seed and not self.train.divided:
      self.notes.append(
        f'config.pp.split_seed={settings.pp.split_seed} has no effect, because '
        f'{settings.dataset!r} has splits of its own'
      )

  def _split(self, key):
    """Opens the split that a key of `pp` names."""
    settings = self.settings
    split, data_dir = getattr(settings.pp, key), settings.tfds_data_dir
    options: dict[str, Any] = dict(data_dir=data_dir, division=self._division)
    try:
      if self.is_described:
        return datasets.describe_split(settings.dataset, split, **options)
      return datasets.open_split(
        settings.dataset, split, manual_dir=settings.tfds_manual_dir, **options
      )
    except UnknownSplitError as error:
      raise InputError(f'{error}; set --config.pp.{key}') from None

  def _check_labels(self):
    """Refuses settings that do not suit images with several labels."""
    settings = self.settings
    about = f'config.dataset={settings.dataset!r} has several labels an image'
    if not self.train.multi_label or settings.objective == 'masked_patches':
      return
    if not self.train.is_folder:
      raise InputError(
        f'{about} and is for evaluation; choose a data set with one'
      )
    if settings.objective != 'classification':
      raise InputError(
        f'{about}, and objective={settings.objective!r} learns one; leave '
        'config.objective out and set --config.loss=sigmoid'
      )
    if settings.loss != 'sigmoid':
      raise InputError(
        f'{about}, and config.loss={settings.loss!r} learns one; set '
        '--config.loss=sigmoid'
      )
    if settings.label_smoothing:
      raise InputError(
        f'{about}, and config.label_smoothing={settings.label_smoothing} '
        'spreads the probability of a single one; leave it out'
      )

  @property
  def has_several_labels(self) -> bool:
    """Returns whether the run learns several labels an image."""
    is_learned = self.settings.objective != 'masked_patches'
    return self.train.multi_label and is_learned

  def label_shape(self, rows: int) -> tuple[int, ...]:
    """Returns the shape of the labels of a batch of `rows` images."""
    classes = (self.train.num_classes,) if self.train.multi_label else ()
    return rows, *classes

  def _checked(self):
    """Returns lines for the user on data that say less than they seem to."""
    lines = [*self.train.notes, *self.test.notes]
    if self.validation is not None:
      lines += self.validation.notes
    elif self.settings.keep_best:
      lines.append(
        'config.keep_best chooses by the test split, so that its score is '
        'higher than on new images; config.pp.validation names a third split '
        'to choose by'
      )
    if self.settings.objective != 'masked_patches':  # which has no classes
      for split in filter(None, (self.test, self.validation)):
        lines += class_checks.check_training(
          self.train,
          split,
          as_is=self.settings.labels == class_matching.AS_IS,
        )
    return list(dict.fromkeys(lines))

  def _notes_on_sizes(self):
    """Returns lines on batches with several copies of an image."""
    settings, size = self.settings, self.train.num_examples
    batch, copies = settings.batch, settings.repeated_augmentation
    lines = []
    if batch > size:
      lines.append(
        f'config.batch={batch} is larger than the training split of {size} '
        f'images: an update has each image {batch / size:.2g} times, with '
        f'augmentations of its own; {size} or less has it once'
      )
    if copies > 1 and copies >= min(batch, size):
      lines.append(
        f'config.repeated_augmentation={copies} is not below '
        f'config.batch={batch} or the {size} images of the training split: an '
        'update or an epoch has copies of a single image'
      )
    return lines

  def _augmentation(self):
    pp = self.settings.pp
    scale = preprocess.pick_preprocessing(self.preprocessing)
    wanted: dict[str, Any] = {
      field.name: getattr(pp, field.name)
      for field in dataclasses.fields(ImageSettings)
    }
    wanted['resize'] = pp.resize or None
    try:
      return augment.Augmentation(
        **wanted,
        dtype=self.settings.transfer_dtype,
        mean=scale.mean,
        std=scale.std,
        decoder=scale.training_decoder,
      )
    except InputError as error:
      raise InputError(f'config.pp: {error}') from None

  def batches(self, start_step: int) -> Iterator[dict]:
    """Returns this process's part of the training batches after a step."""
    settings = self.settings
    batches = pipeline.training_batches(
      self.train,
      augmentation=self.augmentation,
      seed=settings.seed,
      start_step=start_step,
      batch_size=settings.batch // jax.process_count(),
      shuffle_buffer=settings.shuffle_buffer,
      repeats=settings.repeated_augmentation,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      report=self._replaced,
    )
    return labels.translated(batches, None, self.train.num_classes)

  @property
  def watched(self) -> str:
    """Returns which split is evaluated during training."""
    return 'test' if self.validation is None else 'validation'

  def split_of(self, which: str) -> datasets.Split:
    """Returns the split 'train', 'validation' or 'test'."""
    found = getattr(self, which)
    assert found is not None, which
    return found

  def evaluation_batches(self, which: str, rows: int) -> Iterator[dict]:
    """Returns this process's part of the split 'test' or 'validation'.

    A split smaller than a batch is one batch of its own size, because the rows
    that fill a batch up are computed, too.

    Args:
      which: the split.
      rows: images of a batch, over all processes.
    """
    split = self.split_of(which)
    size = min(rows, split.num_examples)
    batches = pipeline.evaluation_batches(
      split,
      preprocessing=self.preprocessing,
      image_size=self.image_size,
      batch_size=-(-size // jax.process_count()),
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      report=functools.partial(self._report_once, which, 'counted as wrong'),
      orientation=self.orientation,
      turned=self._turned,
    )
    if self.has_several_labels:
      batches = multi_label.with_truth(batches, None, self.train.num_classes)
    return labels.translated(batches, None, self.train.num_classes)

  def note_orientation(self) -> None:
    """Notes once how many images have an orientation not applied."""
    note_unapplied(self._turned, '--config.pp.orientation=exif')
    self._turned = None

  def replaced_by_all(self) -> int:
    """Returns the sum of `replaced_images`; all processes must call it."""
    if jax.process_count() == 1:
      return self.replaced_images
    from jax.experimental import multihost_utils

    counts = multihost_utils.process_allgather(np.int32(self.replaced_images))
    return int(counts.sum())

  def device_augmentation(self) -> Callable[[dict, jax.Array], dict] | None:
    """Returns (batch, key) -> batch for the update; None if it is not needed.

    The function flips and normalises uint8 images, erases boxes, mixes images
    and smooths labels, as the settings ask for.
    """
    settings, num_classes = self.settings, self.train.num_classes
    mixup_alpha = settings.mixup_alpha
    if mixup_alpha is None:
      mixup_alpha = recipes.bit_mixup_alpha(self.train.num_examples)
    parts = []
    if settings.random_erasing:
      parts.append(
        functools.partial(
          mixing.random_erasing, probability=settings.random_erasing
        )
      )
    if mixup_alpha or settings.cutmix_alpha:
      parts.append(
        functools.partial(
          mixing.mixup_or_cutmix,
          mixup_alpha=mixup_alpha,
          cutmix_alpha=settings.cutmix_alpha,
          num_classes=num_classes,
          label_smoothing=settings.label_smoothing,
        )
      )
    elif settings.label_smoothing:
      parts.append(
        functools.partial(
          mixing.smooth_labels,
          num_classes=num_classes,
          label_smoothing=settings.label_smoothing,
        )
      )
    uint8 = settings.transfer_dtype == 'uint8'
    if not parts and not uint8:
      return None

    mean, std = self.augmentation.mean, self.augmentation.std

    def augmented(batch, key):
      batch = mixing.normalize(mixing.flip(batch), mean=mean, std=std)
      for number, part in enumerate(parts):
        batch = part(batch, jax.random.fold_in(key, number))
      return batch

    return augmented

  def unreadable(self) -> tuple[dict[str, int], list[str]]:
    """Counts the images that no process could decode; all must call it.

    Only those of a folder are counted, and of those that this call of the run
    has read.

    Returns:
      {class: unreadable images of the training split}, and lines on the
      classes of the splits that lost most of their images.
    """
    counts = {
      which: class_checks.unreadable_by_class(
        split, self._unreadable[which], in_all_processes=True
      )
      for which in splitting.SIDES
      if (split := getattr(self, which)) is not None
    }
    return {name: lost for name, (lost, _) in counts['train'].items()}, [
      *(
        line
        for which, found in counts.items()
        for line in self._notes_on_classes(which, found)
      ),
    ]

  def _notes_on_classes(self, which, counts):
    split = self.split_of(which)
    fate = (
      'others take their place' if which == 'train' else 'they count as wrong'
    )
    return class_checks.notes_on_unreadable(split, counts, fate)

  def _replaced(self, name, why):
    self.replaced_images += 1
    is_new = name not in self._unreadable['train']
    self._report_once('train', 'another image takes its place', name, why)
    if is_new and self.train.folder:
      self._check_class_of(name)

  def _report_once(self, which, what, name, why):
    if name not in self._unreadable[which]:
      self._unreadable[which].add(name)
      line = preprocess.undecodable(name, why)
      note(f'{line}; {what}', every_process=True)

  def _check_class_of(self, name):
    """Refuses a class without a readable image; notes one that lost most."""
    folder, split = self.train.folder, self.train
    (position,) = folder.positions([name])
    counts = class_checks.unreadable_by_class(
      split, self._unreadable['train'], in_all_processes=False
    )
    for label in folder.labels_at(position):
      if label not in self._readable_classes:
        self._require_readable(label)
        self._readable_classes.add(label)
      name = split.class_names[label]
      lines = self._notes_on_classes('train', {name: counts[name]})
      if lines and name not in self._mostly_lost:
        self._mostly_lost.add(name)
        note(lines[0], every_process=True)

  def _require_readable(self, label):
    """Reads images of a class, as in training, until one can be decoded."""
    of_class = self.train.subset(self.train.folder.positions_of(label))
    batches = pipeline.training_batches(
      of_class,
      augmentation=self.augmentation,
      seed=self.settings.seed,
      start_step=0,
      batch_size=1,
      shuffle_buffer=1,
      report=lambda *_: None,
    )
    try:
      next(batches)
    except InputError as error:
      raise InputError(
        f'none of the {of_class.num_examples} images of class '
        f'{of_class.class_names[label]!r} in split {of_class.split!r} can be '
        f'decoded: {error}; mend them or remove the class'
      ) from None
