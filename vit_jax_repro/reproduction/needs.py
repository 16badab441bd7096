"""What checks need: hours, bytes to download, and bytes of disk.

Needs are {name: amount} of parts, so that a part that several checks share, a
weights file or a training, counts once in the sum.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping

from vit_jax_repro.data import catalogue as data_sets
from vit_jax_repro.published import catalogue as published
from vit_jax_repro.reproduction import checks, running
from vit_jax_repro.reproduction.options import Options

TFLOPS = 100.0  # default speed for hours
ABOUT = (
  'Hours are computed, not measured: the floating-point operations that are '
  'left, at {tflops:g} TFLOP/s (--tflops). Downloads are the weights files '
  'that are not in {weights!r}, and the archives of the data sets, also those '
  'that you get by hand or have. Disk has room for both, for the prepared data '
  '(counted as large as the archives), and for three copies of the weights for '
  'each training that is not finished in {results!r}. The total counts what '
  'checks share once. A + marks a sum without parts of unknown size.'
)
# Bytes of the archives by TFDS builder, as TFDS 4.9.10 lists them in
# checksums.tsv and url_checksums/. Of imagenet_v2 only matched-frequency, of
# eurosat only rgb.
_IMAGENET_VALIDATION = 6_744_924_160
_IMAGENET_PARTS = {  # besides the validation images
  'imagenet2012': 'ILSVRC2012_img_train.tar',
  'imagenet2012_real': 'real.json',
}
ARCHIVES = {
  'imagenet2012': 147_897_477_120 + _IMAGENET_VALIDATION,
  'imagenet2012_real': 388_478 + _IMAGENET_VALIDATION,
  'imagenet_v2': 1_264_079_360,
  'cifar10': 170_052_171,
  'cifar100': 168_513_733,
  'oxford_iiit_pet': 811_092_049,
  'oxford_flowers102': 344_878_000,
  'caltech101': 269_154_795,
  'dtd': 625_239_812,
  'sun397': 39_095_590_629,
  'svhn_cropped': 1_575_594_780,
  'patch_camelyon': 8_028_222_167,
  'eurosat': 94_280_567,
  'clevr': 19_021_600_724,
  'dmlab': 3_017_022_789,
  'dsprites': 28_024_106,
  'kitti': 12_575_610_564,
  'smallnorb': 262_778_180,
}
_WEIGHTS_PER_TRAINING = 3  # model.npz, and a checkpoint with the momentum


@dataclasses.dataclass(frozen=True)
class Needs:
  """What one or several checks need; None is an unknown number of bytes."""

  operations: Mapping[str, float]  # of evaluations and trainings
  weights: Mapping[str, int | None]  # bytes of files that are missing
  archives: Mapping[str, int | None]  # bytes by data set
  trainings: Mapping[str, int | None]  # bytes of their folders

  @property
  def is_known(self) -> bool:
    """Returns whether all sizes are known."""
    parts = self.weights, self.archives, self.trainings
    return all(None not in each.values() for each in parts)

  @property
  def download(self) -> int:
    """Returns the bytes to download, without unknown ones."""
    return _sum(self.weights) + _sum(self.archives)

  @property
  def disk(self) -> int:
    """Returns the bytes that the checks fill, without unknown ones."""
    return self.download + _sum(self.archives) + _sum(self.trainings)

  def hours(self, tflops: float) -> float:
    """Returns the hours at a speed in TFLOP/s."""
    return sum(self.operations.values()) / (tflops * 1e12 * 3600)


def of(check: checks.Check, options: Options) -> Needs:
  """Returns the needs of a check; empty ones if it needs a choice first.

  Raises:
    InputError: an override is wrong.
  """
  if check.pick:
    return total([])
  operations = running.remaining(check, options)
  names = missing_weights(check, options)
  sizes = {name: (published.find(name).sizes or (None,))[0] for name in names}
  first = published.find(check.file_for(check.files[0], check.datasets[0]))
  size = first.sizes[0] * _WEIGHTS_PER_TRAINING if first.sizes else None
  runs = options.work('runs')
  trained = {recipe.dataset for tried in check.recipes for recipe in tried}
  return Needs(
    operations,
    sizes,
    _archives({*check.datasets, *trained}, trained),
    {key: size for key in operations if key.startswith(runs)},
  )


def total(found: Iterable[Needs]) -> Needs:
  """Returns the needs of several checks; shared parts count once."""
  parts = {field.name: {} for field in dataclasses.fields(Needs)}
  for each in found:
    for name, part in parts.items():
      for key, amount in getattr(each, name).items():
        part[key] = max(amount or 0, part.get(key) or 0) or None
  return Needs(**parts)


def missing_weights(check: checks.Check, options: Options) -> list[str]:
  """Returns the published names of the files of a check that do not exist."""
  names = {
    published.find(check.file_for(file, dataset)).name
    for dataset in check.datasets
    for file in check.files
  }
  return sorted(n for n in names if not os.path.exists(options.weights(n)))


def _archives(names, trained):
  """Returns {builder or archive: bytes}; data sets share ImageNet's."""
  sizes = {}
  for name in names:
    row = data_sets.find(name)
    part = row.tfds.partition(':')[0].partition('/')[0] if row else name
    size = ARCHIVES.get(part)
    if part in _IMAGENET_PARTS:
      sizes['ILSVRC2012_img_val.tar'] = _IMAGENET_VALIDATION
      if part == 'imagenet2012' and name not in trained:
        continue
      size = ARCHIVES[part] - _IMAGENET_VALIDATION
      part = _IMAGENET_PARTS[part]
    sizes[part] = size
  return sizes


def _sum(sizes):
  return sum(size or 0 for size in sizes.values())
