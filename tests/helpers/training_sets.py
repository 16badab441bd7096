"""Writes small data sets to train on, as TFDS files and as folders."""

from vit_jax_repro.data import digits
from vit_jax_repro.data.tf_host import silence, tensorflow


def write_shards(data_dir, num_shards, config='all'):
  """Writes the digits as a TFDS set with several files per split."""
  tensorflow()
  import tensorflow_datasets as tfds

  with silence():
    builder = digits.builder_class()(data_dir=data_dir, config=config)
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(num_shards=num_shards)
    )


def write_folder(root, num_images):
  """Writes the first digits as ROOT/train/CLASS/*.png."""
  tf = tensorflow()
  images, labels = digits.arrays()
  for i in range(num_images):
    path = root / 'train' / f'digit {labels[i]}' / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(images[i]).numpy())
  return root
