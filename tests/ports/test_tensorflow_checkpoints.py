"""EfficientNet's released checkpoints, written here under the authors' names.

No released file is on this machine: the names are those of the authors' code.
"""

import collections

import efficientnets
import numpy as np
import pytest

from vit_jax_repro import models, ports, weights
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import restoring
from vit_jax_repro.ports import converting, file_kinds, weight_sources
from vit_jax_repro.published import weight_names
from vit_jax_repro.weights import trees

AVERAGE = '/ExponentialMovingAverage'
NORM = 'tpu_batch_normalization'
LEAVES = {
  'scale': 'gamma', 'bias': 'beta', 'mean': 'moving_mean',
  'var': 'moving_variance',
}  # fmt: skip


def of_the_authors(params, model='efficientnet-b0'):
  """Returns {name of a variable: array}, in the order of the authors' layers.

  Each layer takes the next number of its kind in its scope, as TensorFlow
  names them.
  """
  flat, found, numbers = trees.flatten(params), {}, collections.Counter()

  def put(scope, kind, module):
    number = numbers[scope, kind]
    numbers[scope, kind] += 1
    name = f'{scope}/{kind}_{number}' if number else f'{scope}/{kind}'
    for path, array in flat.items():
      parent, _, leaf = path.rpartition('/')
      if parent != module:
        continue
      if kind == 'depthwise_conv2d':
        found[f'{name}/depthwise_kernel'] = array.swapaxes(2, 3)
      else:
        leaf = LEAVES[leaf] if kind == NORM else leaf
        found[f'{name}/{leaf}'] = array

  def put_both(scope, kind, module):
    put(scope, kind, f'{module}/conv')
    put(scope, NORM, f'{module}/norm')

  put_both(f'{model}/stem', 'conv2d', 'stem')
  units = sorted({'/'.join(n.split('/')[:2]) for n in flat if 'block' in n})
  for i, unit in enumerate(units):
    scope = f'{model}/blocks_{i}'
    if f'{unit}/expand/conv/kernel' in flat:
      put_both(scope, 'conv2d', f'{unit}/expand')
    put_both(scope, 'depthwise_conv2d', f'{unit}/depthwise')
    put(f'{scope}/se', 'conv2d', f'{unit}/squeeze/reduce')
    put(f'{scope}/se', 'conv2d', f'{unit}/squeeze/expand')
    put_both(scope, 'conv2d', f'{unit}/project')
  put_both(f'{model}/head', 'conv2d', 'top')
  put(f'{model}/head', 'dense', 'head')
  assert len(found) == len(flat)
  return found


def write(path, variables):
  """Writes a checkpoint by the operation of TensorFlow's Saver."""
  tf = tensorflow()
  tf.raw_ops.SaveV2(
    prefix=str(path),
    tensor_names=[*variables],
    shape_and_slices=[''] * len(variables),
    tensors=[tf.constant(array) for array in variables.values()],
  )
  tf.compat.v1.train.update_checkpoint_state(path.parent, str(path))
  return str(path)


def averaged(params):
  """Returns variables whose averages are these arrays, and slots."""
  variables = of_the_authors(params)
  return (
    {name: array + 1 for name, array in variables.items()}
    | {name + AVERAGE: array for name, array in variables.items()}
    | {f'{name}/RMSProp': array for name, array in variables.items()}
    | {'global_step': np.int64(7)}
  )


@pytest.fixture(scope='module')
def b0(tmp_path_factory):
  """Returns (path of a checkpoint of B0, its averages as a tree)."""
  params = efficientnets.params_of(models.variant('EfficientNet-B0'))
  folder = tmp_path_factory.mktemp('efficientnet-b0')
  return write(folder / 'model.ckpt', averaged(params)), params


def assert_same(tree, other):
  tree, other = trees.flatten(tree), trees.flatten(other)
  assert tree.keys() == other.keys()
  for name, array in tree.items():
    np.testing.assert_array_equal(array, other[name], name, strict=True)


def test_names_are_those_of_the_authors_code(b0):
  reader = tensorflow().train.load_checkpoint(b0[0])
  names = reader.get_variable_to_shape_map()
  for name in (
    'stem/conv2d/kernel',
    'stem/tpu_batch_normalization/moving_variance',
    'blocks_0/depthwise_conv2d/depthwise_kernel',
    'blocks_0/tpu_batch_normalization_1/gamma',
    'blocks_0/conv2d/kernel',
    'blocks_0/se/conv2d_1/bias',
    'blocks_15/conv2d_1/kernel',
    'blocks_15/tpu_batch_normalization_2/beta/ExponentialMovingAverage',
    'head/dense/kernel',
  ):
    assert f'efficientnet-b0/{name}' in names
  assert 'efficientnet-b0/blocks_16/conv2d/kernel' not in names
  assert 'efficientnet-b0/blocks_0/conv2d_1/kernel' not in names
  assert names['efficientnet-b0/blocks_1/se/conv2d/kernel'] == [1, 1, 96, 4]


def test_averages_equal_those_of_timms_route(b0, capsys):
  path, params = b0
  read = weight_sources.read(path, ema=True)
  assert_same(read.params, params)
  state = ports.to_state_dict(params, 'timm')
  assert_same(read.params, ports.from_state_dict(state))
  assert 'its averaged weights are read' in capsys.readouterr().err


def test_restore_takes_the_folder_with_the_authors_preprocessing(b0):
  path, params = b0
  folder = path.rpartition('/')[0]
  assert weight_names.holds_model(folder)  # as config.pretrained_dir
  restored = restoring.restore(folder)
  assert restored.name == 'EfficientNet-B0'
  assert restored.image_size == (224, 224)
  assert restored.preprocessing == 'efficientnet'
  assert_same(restored.params, params)
  ends = ('.index', '.data-00000-of-00001')
  assert weight_names.files_in(path) == [path + end for end in ends]


def test_convert_writes_an_npz(b0, tmp_path):
  path, params = b0
  out = tmp_path / 'b0.npz'
  assert converting.convert(f'{path}.index', out).model == 'EfficientNet-B0'
  assert_same(weights.load(out), params)
  assert converting.inputs_of(path)[1:] == weight_names.files_in(path)


@pytest.mark.parametrize('blocks', [2, 3])
def test_units_are_divided_into_blocks_by_their_widths(tmp_path, blocks):
  params = efficientnets.params_of(efficientnets.cut('B3', blocks))
  variables = of_the_authors(params, 'efficientnet-b3')
  path = write(tmp_path / 'model.ckpt', variables)
  assert_same(weight_sources.read(path).params, params)
  with pytest.raises(InputError, match=r'has no averaged weights \(EMA\)'):
    weight_sources.read(path, ema=True)


def test_folder_with_several_takes_the_newest(tmp_path):
  first, second = (
    efficientnets.params_of(efficientnets.tiny(), seed) for seed in (0, 1)
  )
  write(tmp_path / 'model.ckpt-1', of_the_authors(first))
  write(tmp_path / 'model.ckpt-2', of_the_authors(second))
  assert_same(weight_sources.read(str(tmp_path)).params, second)
  (tmp_path / 'checkpoint').unlink()
  with pytest.raises(InputError, match=r'give one of model\.ckpt-1, mod'):
    file_kinds.kind_of(tmp_path)


def test_read_refuses_damaged_and_foreign_checkpoints(tmp_path):
  params = efficientnets.params_of(efficientnets.tiny())
  variables = of_the_authors(params)

  def refused(message):
    with pytest.raises(InputError, match=message) as caught:
      weight_names.load(tmp_path / 'model.ckpt')
    assert '\n' not in str(caught.value)

  path = tmp_path / 'model.ckpt'
  write(path, {'bert/kernel': np.ones(3, np.float32)})
  refused("of bert/kernel, not of one of the authors' EfficientNets")
  kernel = 'efficientnet-b0/blocks_1/conv2d_1/kernel'
  write(path, {k: v for k, v in variables.items() if k != kernel})
  refused('conv2d/kernel, .* belong to no layer of an EfficientNet')
  bias = 'efficientnet-b0/head/dense/bias'
  write(path, {k: v for k, v in variables.items() if k != bias})
  with pytest.raises(InputError, match=r"do not fit.*'head/kernel'"):
    restoring.restore(path)
  write(path, variables | {'efficientnet-b0/head/dense/bias': np.arange(10)})
  refused("head/dense/bias' has dtype int64")
  write(path, variables)
  arrays = tmp_path / 'model.ckpt.data-00000-of-00001'
  whole = arrays.read_bytes()
  arrays.write_bytes(whole[:-4096])
  refused(r'arrays of [\d,]+ bytes and its .data files have [\d,]+;')
  arrays.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
  refused('is a damaged TensorFlow checkpoint')
  index = tmp_path / 'model.ckpt.index'
  index.write_bytes(b'\xff' * 40 + index.read_bytes()[40:])
  refused('is a damaged TensorFlow checkpoint')
