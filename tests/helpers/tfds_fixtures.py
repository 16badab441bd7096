"""Small TFDS data sets on disk, with the features of the installed builders.

What opens them afterwards is the real builder of that name.
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
    name: as tfds.builder takes it, such as 'eurosat/rgb' or 'kitti:3.1.0'.
    splits: {split: examples}, each as the builder generates them; features
      that are left out become `plain(feature)`.
    class_names: of `label`, where the builder reads them from its download.
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
  """`example` with something plain for every feature that it lacks."""
  return {
    key: example[key] if key in example else plain(feature)
    for key, feature in features.items()
  }


def plain(feature):
  """Any value of a feature."""
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
  """Examples of these labels."""
  return [{'label': label, **more} for label in labels]


def objects(feature, **columns):
  """Values of a sequence of dicts, from the columns that matter."""
  size = len(next(iter(columns.values())))
  parts = feature.feature
  return [
    filled(parts, {key: values[i] for key, values in columns.items()})
    for i in range(size)
  ]


def features_of(name):
  """The features of the installed builder."""
  tensorflow()
  import tensorflow_datasets as tfds

  with silence():
    return tfds.builder(name, try_gcs=False).info.features


def source_of(builder):
  """The code of a builder, as text."""
  return pathlib.Path(inspect.getfile(type(builder))).read_text()


def write_imagenet_archive(folder, num_images):
  """ILSVRC2012_img_val.tar with its first images, grey; returns their names."""
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
