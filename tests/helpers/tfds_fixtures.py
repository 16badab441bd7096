"""Writes small TFDS data sets with the features of the installed builders.

The real builder of the same name opens them.
"""

import inspect
import io
import pathlib
import tarfile

import numpy as np

from vit_jax_repro.data.tf_host import silence, tensorflow


def write(data_dir, name, splits, *, class_names=None, per_file=10):
  """Writes a prepared data set.

  Args:
    data_dir: the TFDS directory.
    name: an argument of tfds.builder, such as 'eurosat/rgb' or 'kitti:3.1.0'.
    splits: {split: examples} in the form that the builder generates; a missing
      feature becomes `plain(feature)`.
    class_names: of `label`, if the builder reads them from its download.
    per_file: examples in a file.
  """
  tensorflow()
  import tensorflow_datasets as tfds

  with silence():
    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
  features = builder.info.features
  if class_names:
    features['label'].names = class_names
  where = pathlib.Path(builder.data_dir)
  where.mkdir(parents=True)
  config = builder.builder_config
  writer = tfds.core.SequentialWriter(
    tfds.core.DatasetInfo(
      builder=tfds.core.DatasetIdentity(
        name=builder.name,
        version=builder.version,
        data_dir=str(where),
        module_name='',
        config_name=config.name if config else None,
      ),
      features=features,
    ),
    max_examples_per_shard=per_file,
  )
  writer.initialize_splits(list(splits))
  writer.add_examples(
    {
      split: [filled(features, example) for example in examples]
      for split, examples in splits.items()
    }
  )
  writer.close_all()


def filled(features, example):
  """Returns `example` with plain values for missing features."""
  return {
    key: example[key] if key in example else plain(feature)
    for key, feature in features.items()
  }


def plain(feature):
  """Returns a valid value of a feature."""
  import tensorflow_datasets as tfds

  if isinstance(feature, tfds.features.Sequence):
    return []
  if isinstance(feature, tfds.features.Text):
    return 'x'
  if isinstance(feature, tfds.features.ClassLabel):
    return 0
  if isinstance(feature, tfds.features.BBoxFeature):
    return tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
  shape = tuple(side or 4 for side in feature.shape)
  return np.zeros(shape, feature.np_dtype)


def labelled(*labels, **more):
  """Returns an example of each label."""
  return [{'label': label, **more} for label in labels]


def objects(feature, **columns):
  """Returns a sequence of dicts with the given columns."""
  size = len(next(iter(columns.values())))
  parts = feature.feature
  return [
    filled(parts, {key: values[i] for key, values in columns.items()})
    for i in range(size)
  ]


def features_of(name):
  """Returns the features of an installed builder."""
  tensorflow()
  import tensorflow_datasets as tfds

  with silence():
    return tfds.builder(name, try_gcs=False).info.features


def source_of(builder):
  """Returns the source code of a builder."""
  return pathlib.Path(inspect.getfile(type(builder))).read_text()


def write_imagenet_archive(folder, num_images):
  """Writes an ILSVRC2012_img_val.tar of grey images; returns their names."""
  tf = tensorflow()
  folder.mkdir()
  encoded = tf.io.encode_jpeg(np.full((8, 8, 3), 127, np.uint8)).numpy()
  names = [f'ILSVRC2012_val_{i + 1:08}.JPEG' for i in range(num_images)]
  with tarfile.open(folder / 'ILSVRC2012_img_val.tar', 'w') as archive:
    for name in names:
      info = tarfile.TarInfo(name)
      info.size = len(encoded)
      archive.addfile(info, io.BytesIO(encoded))
  return names
