"""The 19 tasks, on data sets with the features of the installed builders.

The expected labels were derived by hand from the rules in vtab.py.
"""

import numpy as np
import pytest
import tfds_fixtures
from tfds_fixtures import labelled

from vit_jax_repro.data import (
  catalogue,
  datasets,
  preprocess,
  tfds_builders,
  tfds_files,
  vtab,
)
from vit_jax_repro.data.tf_host import tensorflow

PLAIN = {  # task: labels in TFDS's `train`, and the last class name
  'caltech101': ((0, 101), 'yin_yang'),
  'cifar100': ((0, 99), 'worm'),
  'dtd': ((0, 46), 'zigzagged'),
  'oxford_flowers102': ((0, 101), 'blackberry lily'),
  'oxford_iiit_pet': ((0, 36), 'yorkshire_terrier'),
  'sun397': ((0, 396), '/y/youth_hostel'),
  'svhn': ((0, 9), '9'),
  'patch_camelyon': ((0, 1), '1'),
  'eurosat': ((0, 9), 'SeaLake'),
  'resisc45': ((0, 44), 'wetland'),
  'diabetic_retinopathy': ((0, 4), '4'),
  'dmlab': ((0, 5), '5'),
}


def clevr_depths(*depths):
  feature = tfds_fixtures.features_of('clevr')['objects']
  coords = [np.float32([1, 2, depth]) for depth in depths]
  return {'objects': tfds_fixtures.objects(feature, pixel_coords=coords)}


def kitti(*vehicles):
  feature = tfds_fixtures.features_of('kitti')['objects']
  columns = {
    'type': [kind for kind, _ in vehicles],
    'location': [np.float32([1, 2, ahead]) for _, ahead in vehicles],
  }
  objects = tfds_fixtures.objects(feature, **columns) if vehicles else []
  return {'objects': objects}


def derived(task):
  """Returns examples of a task, their labels and the class names."""
  if task == 'clevr-count':  # 3 to 10 objects; 3 is class 0
    return (
      [clevr_depths(*[9.0] * n) for n in (3, 4, 10)],
      [0, 1, 7],
      ('3', '4', '5', '6', '7', '8', '9', '10'),
    )
  if task == 'clevr-distance':  # an upper edge belongs to its bin
    return (
      [
        clevr_depths(12, 7.5, 9.2),  # the nearest is at 7.5
        clevr_depths(8.0),
        clevr_depths(8.01),
        clevr_depths(8.5, 8.75),
        clevr_depths(8.75),
        clevr_depths(9.5),
        clevr_depths(9.75),
        clevr_depths(10.0),
        clevr_depths(10.5, 99),
      ],
      [0, 0, 1, 1, 2, 3, 4, 4, 5],
      ('(0, 8]', '(8, 8.5]', '(8.5, 9]', '(9, 9.5]', '(9.5, 10]', '(10, 100]'),
    )
  if task == 'kitti-distance':
    return (
      [
        kitti(('Car', 7.9), ('Van', 30.0)),
        kitti(('Van', 8.0)),
        kitti(('Truck', 8.1), ('Pedestrian', 1.0)),  # no vehicle is nearer
        kitti(('Car', 20.0)),
        kitti(('Car', 20.5), ('Tram', 3.0)),
        kitti(('Cyclist', 3.0), ('Misc', 5.0)),
        kitti(),
        kitti(('Car', -2.0)),  # behind the camera
      ],
      [0, 0, 1, 1, 2, 3, 3, 0],
      ('(-100, 8] m', '(8, 20] m', '(20, 999] m', 'no vehicle'),
    )
  if task == 'dsprites-xpos':  # 32 positions in pairs
    positions, labels = [0, 1, 2, 15, 16, 31], [0, 0, 1, 7, 8, 15]
    examples = [{'label_x_position': i} for i in positions]
    return examples, labels, tuple(map(str, range(16)))
  if task == 'dsprites-orientation':  # 2.5 to a class: three, two, three, ...
    turns, labels = [0, 2, 3, 4, 5, 7, 8, 39], [0, 0, 1, 1, 2, 2, 3, 15]
    examples = [{'label_orientation': i} for i in turns]
    return examples, labels, tuple(map(str, range(16)))
  feature, last = {
    'smallnorb-azimuth': ('label_azimuth', 17),
    'smallnorb-elevation': ('label_elevation', 8),
  }[task]
  examples = [{feature: i, 'label_category': 3} for i in (0, 5, last)]
  return examples, [0, 5, last], tuple(map(str, range(last + 1)))


DERIVED = [task for task in vtab.TASKS if task not in PLAIN]


def opened(task, split, data_dir):
  return datasets.open_split(f'vtab/{task}', split, data_dir=data_dir)


def records(split):
  return list(split.records().as_numpy_iterator())


def test_tasks_are_nineteen():
  assert len(vtab.TASKS) == 19 and len(PLAIN) == 12 and len(DERIVED) == 7


@pytest.mark.parametrize('task', PLAIN)
def test_open_split_reads_tasks_with_a_label_feature(tmp_path, task):
  labels, last_name = PLAIN[task]
  row = catalogue.DATA_SETS[f'vtab/{task}']
  names = None
  if task == 'cifar100':  # TFDS has them in the archive
    names = [*(f'name {i}' for i in range(99)), 'worm']
  tfds_fixtures.write(
    tmp_path, row.tfds, {'train': labelled(*labels)}, class_names=names
  )
  split = opened(task, f'train[:{len(labels)}]', tmp_path)
  assert [int(record['label']) for record in records(split)] == list(labels)
  assert split.num_classes == row.num_classes == max(labels) + 1
  assert split.class_names[-1] == last_name
  assert not split.multi_label


@pytest.mark.parametrize('task', DERIVED)
def test_open_split_derives_labels_of_tasks_without_one(tmp_path, task):
  examples, labels, names = derived(task)
  row = catalogue.DATA_SETS[f'vtab/{task}']
  tfds_fixtures.write(tmp_path, row.tfds, {'train': examples})
  split = opened(task, f'train[:{len(labels)}]', tmp_path)
  found = records(split)
  assert [int(record['label']) for record in found] == labels
  assert {record['label'].dtype for record in found} == {np.dtype(np.int64)}
  assert split.class_names == names and split.num_classes == row.num_classes
  image = preprocess.decode(found[0]['image'])
  assert image.shape[-1] == 3 and image.dtype.name == 'uint8'


def test_dsprites_images_have_values_0_and_255(tmp_path):
  image = np.zeros((64, 64, 1), np.uint8)
  image[10, 20] = 1
  example = {'image': image, 'label_x_position': 31, 'label_orientation': 3}
  tfds_fixtures.write(tmp_path, 'dsprites', {'train': [example]})
  tf = tensorflow()
  for task, label in {'dsprites-xpos': 15, 'dsprites-orientation': 1}.items():
    (record,) = records(opened(task, 'train[:1]', tmp_path))
    assert record['image'][:4] == b'\x89PNG' and int(record['label']) == label
    decoded = preprocess.decode(record['image']).numpy()
    np.testing.assert_array_equal(decoded, np.tile(image * 255, [1, 1, 3]))
    assert tf.io.decode_image(record['image']).shape == (64, 64, 1)


def test_second_image_of_smallnorb_is_not_read(tmp_path):
  example = {
    'image': np.full((96, 96, 1), 7, np.uint8),
    'image2': np.full((96, 96, 1), 9, np.uint8),
  }
  tfds_fixtures.write(tmp_path, 'smallnorb', {'test': [example] * 4})
  split = opened('smallnorb-azimuth', 'test', tmp_path)
  assert split.num_examples == 2  # the second half of TFDS's
  assert (preprocess.decode(records(split)[0]['image']).numpy() == 7).all()


def test_named_splits_have_the_right_examples(tmp_path):
  """The labels of 1100 examples identify them, in part by their order."""
  labels = [i % 47 for i in range(1100)]
  image = np.zeros((1, 1, 3), np.uint8)
  tfds_fixtures.write(
    tmp_path,
    'dtd',
    {
      'train': labelled(*labels[:900], image=image),
      'validation': labelled(*labels[900:], image=image),
      'test': labelled(46, image=image),
    },
    per_file=10_000,
  )

  def read(split):
    return [int(r['label']) for r in records(opened('dtd', split, tmp_path))]

  assert read('train800') == labels[:800]
  assert read('val200') == labels[900:1100]
  assert sorted(read('train800val200')) == sorted(labels[:800] + labels[900:])
  assert sorted(read('train800 + test')) == sorted([*labels[:800], 46])
  assert len(read('train')) == 900 and len(read('val')) == 200
  assert len(read('trainval')) == 1100 and read('test') == [46]
  assert read('train[:3]') == labels[:3]  # TFDS's notation


def test_open_files_rejects_a_set_without_the_labels_feature(tmp_path):
  tfds_fixtures.write(tmp_path, 'dtd', {'train': labelled(0)})
  builder = tfds_builders.find('dtd', tmp_path)
  reading = vtab.reading_of('clevr-count')
  message = "needs an 'image' and a class 'objects', and has .'file_name', 'im"
  with pytest.raises(ValueError, match=message):
    tfds_files.open_files('vtab/clevr-count', 'train', builder, reading)


def test_fingerprints_of_two_tasks_of_the_same_files_differ(tmp_path):
  tfds_fixtures.write(tmp_path, 'dsprites', {'train': [{}, {}]})
  prints = {
    opened(task, 'train[:2]', tmp_path).fingerprint()
    for task in ('dsprites-xpos', 'dsprites-orientation')
  }
  assert len(prints) == 2


def test_kitti_is_opened_in_the_version_of_the_protocol(tmp_path):
  tfds_fixtures.write(tmp_path, 'kitti:3.3.0', {'train': [kitti()]})
  with pytest.raises(FileNotFoundError, match=r'tfds build kitti:3\.1\.0 '):
    opened('kitti-distance', 'train', tmp_path)
