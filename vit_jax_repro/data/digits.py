"""The embedded default data set: scikit-learn's handwritten digits.

1797 real images, 8x8 pixels, grey values 0 to 16, shipped inside
scikit-learn (its copy of the test part of the UCI "Optical Recognition of
Handwritten Digits" data). They become an ordinary TFDS data set, PNG files of
8x8x1 with values 0 to 255, prepared without a network.

The split is fixed: image i, in scikit-learn's order, belongs to `test` when
i % 5 == 0, which gives 360 test and 1437 training images.
"""

import functools

import numpy as np

from vit_jax_repro.data import tensorflow_cpu

NAME = 'digits'
CLASS_NAMES = tuple('0123456789')
TEST_EVERY = 5
NUM_EXAMPLES = {'train': 1437, 'test': 360}
_LARGEST_VALUE = 16  # of a pixel in scikit-learn's copy


def arrays():
  """All images in scikit-learn's order.

  Returns:
    images [1797, 8, 8, 1] uint8 in 0..255, labels [1797] int64.
  """
  from sklearn import datasets

  bunch = datasets.load_digits()
  images = np.rint(bunch.images * (255 / _LARGEST_VALUE)).astype(np.uint8)
  return images[..., None], bunch.target.astype(np.int64)


def split_of(index):
  """The split that image `index` (scikit-learn's order) belongs to."""
  return 'test' if index % TEST_EVERY == 0 else 'train'


@functools.cache
def builder_class():
  """The TFDS builder; defined on first use, importing TFDS takes seconds."""
  import tensorflow_datasets as tfds

  class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits of scikit-learn, with a fixed split."""

    name = NAME
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(
              shape=(8, 8, 1), encoding_format='png'
            ),
            'label': tfds.features.ClassLabel(names=CLASS_NAMES),
            'index': np.int64,
          }
        ),
        supervised_keys=('image', 'label'),
      )

    def _split_generators(self, dl_manager):
      del dl_manager  # nothing is downloaded
      return {name: self._generate_examples(name) for name in NUM_EXAMPLES}

    def _generate_examples(self, split):
      for index, (image, label) in enumerate(zip(*arrays(), strict=True)):
        if split_of(index) == split:
          yield index, {'image': image, 'label': label, 'index': index}

  return Digits


def prepared_builder(data_dir=None):
  """The builder with its files written, which takes under a second once.

  Args:
    data_dir: the TFDS directory; None means TFDS's own default.

  Raises:
    OSError: the directory cannot be written.
  """
  tensorflow_cpu.tensorflow()
  with tensorflow_cpu.silence():
    builder = builder_class()(data_dir=data_dir)
    if builder.is_prepared():
      return builder
    try:
      builder.download_and_prepare()
    except OSError as error:
      builder = builder_class()(data_dir=data_dir)
      if not builder.is_prepared():  # else another process was faster
        raise OSError(
          f'cannot write the digits data set to {builder.data_dir}: '
          f'{error.strerror or error}; give another --data_dir'
        ) from error
  return builder
