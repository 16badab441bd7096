"""What a file is: real files under names of other kinds, and foreign files."""

import json
import os
import pathlib
import pickle
import shutil
import tarfile
import zipfile

import child_processes
import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS

from vit_jax_repro import ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.ports import file_kinds, state_dicts, weight_sources
from vit_jax_repro.published import weight_names
from vit_jax_repro.weights import trees

quick = pytest.mark.quick


def refused(path, *texts):
  """Checks the one line with which a file is refused."""
  with pytest.raises((ValueError, FileNotFoundError)) as caught:
    file_kinds.kind_of(path)
  line = str(caught.value)
  assert str(path) in line and '\n' not in line
  for text in texts:
    assert text in line
  return line


@pytest.fixture(scope='module')
def params():
  return tiny_models.params_of(
    tiny_models.spec(3, hidden_size=192, num_heads=3, num_layers=1)
  )


def written(folder, params):
  """Writes the files of each kind; returns their paths by kind."""
  import torch

  state = ports.to_state_dict(params, 'timm')
  paths = {kind: folder / f'as_{kind}' for kind in ('npz', 'torch', 'legacy')}
  weights.save(paths['npz'], params)
  tensors = {name: state_dicts.to_torch(torch, a) for name, a in state.items()}
  torch.save(tensors, paths['torch'])
  torch.save(tensors, paths['legacy'], _use_new_zipfile_serialization=False)
  paths['safetensors'] = folder / 'as_it.safetensors'
  state_dicts.write(paths['safetensors'], state)
  return paths


NAMES = (
  'model.pth.tar', 'last.ckpt', 'W.PTH', 'weights', 'model.bin',
  'model.safetensors', 'model.npz', 'model.pth', 'model.h5', 'model.onnx',
)  # fmt: skip


def test_load_reads_files_under_any_name(tmp_path, params):
  paths = written(tmp_path, params)
  wanted = trees.flatten(params)
  for number, (kind, path) in enumerate(paths.items()):
    folder = tmp_path / f'{number}'
    folder.mkdir()
    for name in NAMES:
      shutil.copyfile(path, folder / name)
      found = {'legacy': 'torch'}.get(kind, kind)
      assert file_kinds.kind_of(folder / name) == found
    # Reading all would repeat the same reader.
    for name in NAMES[number :: len(paths)]:
      read = trees.flatten(weight_names.load(folder / name).params)
      assert read.keys() == wanted.keys()
      for leaf, array in wanted.items():
        np.testing.assert_array_equal(read[leaf], array, leaf)


@pytest.mark.filterwarnings('ignore')  # torch.jit
def test_kind_of_names_programs_of_pytorch(tmp_path):
  import torch

  module, images = torch.nn.Linear(3, 2), torch.ones(1, 3)
  script, program = tmp_path / 'a.pth', tmp_path / 'b.pth'
  torch.jit.save(torch.jit.trace(module, images), script)
  torch.export.save(torch.export.export(module, (images,)), program)
  for path, what in ((script, 'TorchScript'), (program, 'torch.export')):
    line = refused(path, what, 'write its weights')
    # The advice works: it is run here, where the program is trusted.
    code = line.partition('trust it: ')[2].replace('PATH', repr(str(path)))
    code = code.replace('weights.pth', str(tmp_path / 'weights.pth'))
    exec(f'import torch\n{code}')
    found = state_dicts.read(tmp_path / 'weights.pth')
    np.testing.assert_array_equal(found['bias'], module.bias.detach())


KERAS = """
import os, sys
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
import keras
import tensorflow as tf
os.chdir(sys.argv[1])
model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
model.save('a.keras')
model.save_weights('a.weights.h5')
tf.saved_model.save(model, 'saved')
tf.train.Checkpoint(w=tf.Variable([1.0])).write('checkpoint/ckpt')
graph = tf.Graph()
with graph.as_default():
  tf.identity(tf.compat.v1.placeholder(tf.float32, [1], name='input'))
tf.io.write_graph(graph, '.', 'frozen.pb', as_text=False)
"""


def test_kind_of_names_files_of_keras_and_tensorflow(tmp_path):
  code, _, err = child_processes.run_script(KERAS, tmp_path)
  assert not code, err
  for name, what in {
    'a.keras': 'is a Keras model',
    'a.weights.h5': 'is an HDF5 file, as Keras',
    'saved': 'is a TensorFlow SavedModel',
    'saved/saved_model.pb': 'of a TensorFlow SavedModel',
    'frozen.pb': 'is a graph of TensorFlow',
  }.items():
    line = refused(tmp_path / name, what, 'give the same weights as .npz')
    assert 'download' not in line
  for name in ('', '/ckpt', '/ckpt.index', '/ckpt.data-00000-of-00001'):
    path = tmp_path / f'checkpoint{name}'
    assert file_kinds.kind_of(path) == 'tensorflow'
    with pytest.raises(InputError, match="one of the authors' EfficientNets"):
      weight_sources.read(str(path))


def test_kind_of_names_exports(tmp_path):
  import jax
  import onnx
  from jax import export
  from onnx import helper

  node = helper.make_node('Identity', ['x'], ['y'])
  values = [helper.make_tensor_value_info(name, 1, [1]) for name in 'xy']
  graph = helper.make_graph([node], 'graph', values[:1], values[1:])
  for producer in ('', 'pytorch'):
    model = helper.make_model(graph, producer_name=producer)
    onnx.save(model, tmp_path / 'a.npz')
    refused(tmp_path / 'a.npz', 'export in ONNX', 'give the weights')
  program = export.export(jax.jit(lambda x: x + 1))(np.ones(2, np.float32))
  (tmp_path / 'a.npz').write_bytes(program.serialize())
  refused(tmp_path / 'a.npz', 'export in StableHLO', 'give the weights')


@quick
@pytest.mark.parametrize(
  'content, texts',
  [
    (b'', ('is empty', 'download it again')),
    (b' <!doctype html><p>Sorry', ('HTML or XML page', 'download it again')),
    (b'\x00' * 5000, ('bytes of zero', 'download it again')),
    (b'PK\x03\x04' + b'a' * 90, ('truncated', 'download it again')),
    (
      b'version https://git-lfs.github.com/spec/v1\noid sha256:ab',
      ('Git LFS pointer', 'git lfs pull'),
    ),
    (b'GGUF\x03\x00\x00\x00' + bytes(90), ('GGUF', 'give the .safetensors')),
    (b'\x1f\x8b\x08\x00' + b'a' * 90, ('gzip', 'unpack it')),
    (b'epochs: 3\nmodel: ViT-B_16\n', ('text file', 'this package reads')),
    (b'\x07\x08\xff\xfe' * 40, ('known kind', 'this package reads')),
    (b'{"epochs": 3}', ('JSON file', 'this package reads')),
    (b'{"model_type": "vit"}', ('configuration of a model', 'its folder')),
    (b'{"architecture": {"model": "vit"}}', ('description', 'a.npz')),
    (b'{"peft_type": "LORA"}', ('PEFT', 'give its folder')),
  ],
)
def test_kind_of_names_other_contents(content, texts, tmp_path):
  path = tmp_path / 'a.pth'
  path.write_bytes(content)
  line = refused(path, *texts)
  assert ('download' in line) == ('download it again' in texts)


@quick
def test_kind_of_names_other_arrays_archives_and_images(tmp_path):
  np.save(tmp_path / 'a.npy', np.ones(3))
  refused(tmp_path / 'a.npy', 'single array', 'numpy.savez')
  np.savez(tmp_path / 'model.npz', a=np.ones(3))
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
    archive.write(tmp_path / 'model.npz', 'folder/model.npz')
  refused(tmp_path / 'a.npz', 'folder/model.npz', 'unzip')
  with tarfile.open(tmp_path / 'a.pth', 'w') as archive:
    archive.add(tmp_path / 'model.npz', 'model.npz')
  refused(tmp_path / 'a.pth', 'a tar archive with model.npz', 'tar -xf')
  for each in PHOTOGRAPHS.values():
    refused(each, 'an image')


@quick
@pytest.mark.parametrize('protocol', range(2, 6))
def test_kind_of_pickles_that_pytorch_did_not_write(protocol, tmp_path):
  content = pickle.dumps({'a': np.ones(3)}, protocol=protocol)
  (tmp_path / 'a.pth').write_bytes(content)
  line = refused(tmp_path / 'a.pth', 'PyTorch did not write', 'numpy.savez')
  assert 'download' not in line


@quick
def test_kind_of_folder_without_the_usual_names(tmp_path):
  line = refused(tmp_path, 'has none of model.safetensors')
  assert 'save_pretrained' in line
  for name in ('a.npz', 'b.npz'):
    np.savez(tmp_path / name, a=np.ones(3))
  (tmp_path / 'notes.txt').write_text('hello')
  assert refused(tmp_path).endswith('in it: a.npz, b.npz')
  (tmp_path / 'model.safetensors').write_bytes(b'')
  assert file_kinds.kind_of(tmp_path) == 'folder'


@pytest.mark.filterwarnings('ignore')  # flax.training.checkpoints
def test_kind_of_checkpoints_of_jax(tmp_path):
  import flax
  import orbax.checkpoint as ocp
  from flax import serialization
  from flax.training import checkpoints

  tree = {'params': {'a': np.ones(3, np.float32)}}
  (tmp_path / 'params.npz').write_bytes(serialization.to_bytes(tree))
  assert file_kinds.kind_of(tmp_path / 'params.npz') == 'msgpack'
  many = {f'{i}': np.ones(3, np.float32) for i in range(20)}
  (tmp_path / 'params.npz').write_bytes(serialization.to_bytes(many))
  assert file_kinds.kind_of(tmp_path / 'params.npz') == 'msgpack'
  # Newer versions of flax write Orbax checkpoints by default.
  for step, by_orbax in ((3, False), (20, True)):
    with flax.config.temp_flip_flag('use_orbax_checkpointing', by_orbax):
      checkpoints.save_checkpoint(os.fspath(tmp_path / 'a'), (tree, 3), step)
    kind = 'orbax' if by_orbax else 'msgpack'
    assert file_kinds.kind_of(tmp_path / 'a' / f'checkpoint_{step}') == kind
    assert file_kinds.kind_of(tmp_path / 'a') == kind
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'orbax', tree)
  assert file_kinds.kind_of(tmp_path / 'orbax') == 'orbax'


@quick
@pytest.mark.parametrize('content', [b'', None, b'GGUF\x03' + bytes(90)])
def test_kind_of_names_a_newest_checkpoint_without_arrays(content, tmp_path):
  np.savez(tmp_path / 'checkpoint_8', a=np.ones(3))
  newest = tmp_path / 'checkpoint_9'
  newest.mkdir() if content is None else newest.write_bytes(content)
  refused(tmp_path, 'checkpoint_9, the newest checkpoint in', 'an earlier one')


@quick
def test_kind_of_index_under_any_name(tmp_path):
  path = tmp_path / 'parts.json'
  path.write_text(json.dumps({'weight_map': {}}))
  assert file_kinds.kind_of(path) == 'index'


@quick
def test_kind_of_rejects_missing_files_addresses_and_pipes(tmp_path):
  refused(tmp_path / 'a.pth', 'no weights file', 'check the path')
  os.mkfifo(tmp_path / 'pipe')
  refused(pathlib.Path(tmp_path / 'pipe'), 'device or pipe')
  with pytest.raises(ValueError, match='is an address'):
    file_kinds.kind_of('gs://bucket/a.npz')
