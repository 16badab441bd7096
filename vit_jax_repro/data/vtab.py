"""The labels of the 19 tasks of VTAB-1k, computed from TFDS's data sets.

A task is opened as `vtab/TASK`, such as `vtab/clevr-count`. A row of
catalogue.py has its data set, version, splits and classes. Its images are those
of the data set. Some have one channel, but all decoders return three. This file
defines the tasks whose label is not a feature `label`.

Rules and numbers: google-research/task_adaptation, data/{clevr,dsprites,kitti,
smallnorb}.py, and BiT (arXiv:1912.11370), appendix F. A distance bin includes
its upper edge and excludes its lower one.

The protocol was written for older versions of TFDS. This package opens the
versions of TFDS 4.9.10. `version` and `protocol` of a row differ only for Pets
(4.0.0 instead of 3.*.*). KITTI is opened in the version that the protocol
fixes.
"""

import functools
import itertools

from vit_jax_repro.data import catalogue, tfds_files
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.data.tfds_files import ExampleReading

CLEVR_FEWEST = 3  # objects in a scene; the most are ten
CLEVR_EDGES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)  # bins of pixel depth
KITTI_EDGES = (-100.0, 8.0, 20.0, 999.0)  # metres in front of the camera
KITTI_VEHICLES = 3  # types 0 to 2: Car, Van and Truck
DSPRITES_CLASSES = 16  # for 32 positions and for 40 orientations
DSPRITES_POSITIONS, DSPRITES_ORIENTATIONS = 32, 40


def _count(objects, _):
  tf = tensorflow()
  return tf.size(objects['size'], out_type=tf.int64) - CLEVR_FEWEST


def _nearest_object(objects, _):
  depths = objects['pixel_coords'][:, 2]  # [n] float32
  return _bin(tensorflow().reduce_min(depths), CLEVR_EDGES)


def _nearest_vehicle(objects, _):
  tf = tensorflow()
  ahead = objects['location'][:, 2]  # [n] float32
  ahead = tf.where(objects['type'] < KITTI_VEHICLES, ahead, float('inf'))
  return _bin(tf.reduce_min(ahead), KITTI_EDGES)  # infinity without a vehicle


def _bin(distance, edges):
  """Returns the index of the last edge below `distance`, an int64 scalar."""
  tf = tensorflow()
  below = tf.constant(edges, tf.float32) < distance
  return tf.reduce_sum(tf.cast(below, tf.int64)) - 1


def _grouped(value, _, *, num_values):
  """Maps neighbouring values to one of DSPRITES_CLASSES, in integers."""
  return value * DSPRITES_CLASSES // num_values


def _visible(encoded):
  """Converts a PNG of values 0 and 1 to one of 0 and 255."""
  tf = tensorflow()
  return tf.io.encode_png(tf.io.decode_png(encoded, channels=1) * 255)


def _bins(edges, unit=''):
  pairs = itertools.pairwise(edges)
  return tuple(f'({low:g}, {high:g}]{unit}' for low, high in pairs)


def _dsprites(feature, num_values):
  return ExampleReading(
    feature=feature,
    label=functools.partial(_grouped, num_values=num_values),
    class_names=tuple(str(i) for i in range(DSPRITES_CLASSES)),
    image=_visible,
    name=feature,
  )


_READINGS = {
  'clevr-count': ExampleReading(
    feature='objects',
    parts=('size',),
    label=_count,
    class_names=tuple(str(n) for n in range(CLEVR_FEWEST, 11)),
    name='count',
  ),
  'clevr-distance': ExampleReading(
    feature='objects',
    parts=('pixel_coords',),
    label=_nearest_object,
    class_names=_bins(CLEVR_EDGES),
    name='distance',
  ),
  'kitti-distance': ExampleReading(
    feature='objects',
    parts=('type', 'location'),
    label=_nearest_vehicle,
    class_names=(*_bins(KITTI_EDGES, ' m'), 'no vehicle'),
    name='distance',
  ),
  'dsprites-xpos': _dsprites('label_x_position', DSPRITES_POSITIONS),
  'dsprites-orientation': _dsprites('label_orientation', DSPRITES_ORIENTATIONS),
  'smallnorb-azimuth': ExampleReading(feature='label_azimuth', name='azimuth'),
  'smallnorb-elevation': ExampleReading(
    feature='label_elevation', name='elevation'
  ),
}

TASKS = tuple(
  row.name.removeprefix(catalogue.VTAB)
  for row in catalogue.DATA_SETS.values()
  if row.group
)


def reading_of(task: str) -> ExampleReading:
  """Returns how to read the examples of a task in TASKS."""
  return _READINGS.get(task, tfds_files.IMAGE_AND_LABEL)
