"""The embedded default data set: scikit-learn's handwritten digits.

scikit-learn ships 1797 real images of 8x8 pixels with grey values 0 to 16, a
copy of the test part of the UCI "Optical Recognition of Handwritten Digits"
data. This module turns them into an ordinary TFDS data set of PNG files, 8x8x1
with values 0 to 255, and needs no network.

The split is fixed: image i, in scikit-learn's order, belongs to `test` when
i % 5 == 0, which gives 360 test and 1437 training images.

For transfer learning there are two halves, `digits/0-4` and `digits/5-9`, whose
labels start at 0. Their training images are also divided into `few`, the first
5 of each class in scikit-learn's order, and `held_out`, the others.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax_repro.data import tf_host
from vit_jax_repro.errors import InputError

NAME = 'digits'
DEFAULT_CONFIG = 'all'
CONFIGS = {DEFAULT_CONFIG: range(10), '0-4': range(5), '5-9': range(5, 10)}
TEST_EVERY = 5
FEW = 5  # images of each class
_LARGEST_VALUE = 16  # of a pixel in scikit-learn's copy


def arrays() -> tuple[np.ndarray, np.ndarray]:
  """Loads all images and labels in scikit-learn's order.

  Returns:
    images [1797, 8, 8, 1] uint8 in 0..255, labels [1797] int64.
  """
  from sklearn import datasets

  bunch = datasets.load_digits()
  images = np.rint(bunch.images * (255 / _LARGEST_VALUE)).astype(np.uint8)
  return images[..., None], bunch.target.astype(np.int64)


def config_of(name: str) -> str:
  """Returns the key of CONFIGS for a name such as 'digits' or 'digits/5-9'.

  Raises:
    InputError: the name is unknown.
  """
  names = {NAME: DEFAULT_CONFIG}
  names |= {f'{NAME}/{config}': config for config in CONFIGS}
  if name not in names:
    raise InputError(f'unknown data set {name!r}; choose from {sorted(names)}')
  return names[name]


def splits(
  labels: np.ndarray | Sequence[int], config: str = DEFAULT_CONFIG
) -> dict[str, list[int]]:
  """Returns which images belong to each split.

  Args:
    labels: [1797] digits in scikit-learn's order.
    config: a key of CONFIGS.

  Returns:
    {split: positions in scikit-learn's order}.
  """
  positions = np.flatnonzero(np.isin(labels, CONFIGS[config])).tolist()
  train = [i for i in positions if i % TEST_EVERY]
  test = [i for i in positions if i % TEST_EVERY == 0]
  if config == DEFAULT_CONFIG:
    return {'train': train, 'test': test}
  few = []
  for digit in CONFIGS[config]:
    few += [i for i in train if labels[i] == digit][:FEW]
  held_out = [i for i in train if i not in few]
  return {'train': train, 'test': test, 'few': few, 'held_out': held_out}


def sizes(config: str = DEFAULT_CONFIG) -> dict[str, int]:
  """Counts the images of each split."""
  _, labels = arrays()
  return {name: len(places) for name, places in splits(labels, config).items()}


@functools.cache
def builder_class() -> Any:
  """Defines and returns the TFDS builder class.

  The class is defined on first use because importing TFDS takes seconds.
  """
  import tensorflow_datasets as tfds

  class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits of scikit-learn, with a fixed split."""

    name = NAME
    VERSION = tfds.core.Version('1.0.0')
    BUILDER_CONFIGS = [  # noqa: RUF012
      tfds.core.BuilderConfig(name=config) for config in CONFIGS
    ]

    def _info(self):
      digits = CONFIGS[self.builder_config.name]
      return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(
              shape=(8, 8, 1), encoding_format='png'
            ),
            'label': tfds.features.ClassLabel(
              names=[str(digit) for digit in digits]
            ),
            'index': np.int64,
          }
        ),
        supervised_keys=('image', 'label'),
      )

    def _split_generators(self, dl_manager):
      del dl_manager  # nothing is downloaded
      images, labels = arrays()
      config = self.builder_config.name
      labels_from_0 = labels - CONFIGS[config].start
      return {
        split: self._generate_examples(images, labels_from_0, positions)
        for split, positions in splits(labels, config).items()
      }

    def _generate_examples(self, images, labels, positions):
      for i in positions:
        yield i, {'image': images[i], 'label': labels[i], 'index': i}

  return Digits


def _reason(error):
  text = getattr(error, 'strerror', None) or str(error)
  return text.strip().partition('\n')[0]


def prepared_builder(
  data_dir: str | os.PathLike | None = None, config: str = DEFAULT_CONFIG
) -> Any:
  """Returns the TFDS builder, and writes its files if they do not exist yet.

  Writing takes less than a second.

  Args:
    data_dir: the TFDS directory; None means TFDS's own default.
    config: a key of CONFIGS.

  Returns:
    tfds.core.DatasetBuilder.

  Raises:
    OSError: the directory cannot be written or is full.
  """
  tf = tf_host.tensorflow()
  with tf_host.silence():
    builder = builder_class()(data_dir=data_dir, config=config)
    if builder.is_prepared():
      return builder
    try:
      builder.download_and_prepare()
    except (OSError, RuntimeError, tf.errors.OpError) as error:
      builder = builder_class()(data_dir=data_dir, config=config)
      if not builder.is_prepared():  # otherwise another process prepared it
        raise OSError(
          f'cannot write the digits data set to {builder.data_dir}: '
          f'{_reason(error)}; free space there or name another TFDS directory'
        ) from error
  return builder
