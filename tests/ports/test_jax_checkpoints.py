"""Checkpoints that Flax and Orbax wrote, read as weights."""

import json
import shutil

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import reference
from flax import serialization
from flax.training import checkpoints
from port_cases import assert_same

from vit_jax_repro import weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.ports import converting, weight_sources
from vit_jax_repro.published import weight_names
from vit_jax_repro.weights import layouts, npz, trees


@pytest.fixture(scope='module')
def params(tmp_path_factory):
  path = tmp_path_factory.mktemp('reference') / 'vit.npz'
  npz.write(path, reference.checkpoint('vit_token').items())
  return weights.load(path)


@pytest.fixture(scope='module')
def momentum(params):
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.sgd(0.1, momentum=0.9, accumulator_dtype='bfloat16'),
  )
  return tx.init(params)


def save(folder, params, momentum, step):
  """Saves as the trainer of the original code, with Flax's own format."""
  before = flax.config.flax_use_orbax_checkpointing
  flax.config.update('flax_use_orbax_checkpointing', False)
  try:
    with pytest.warns(DeprecationWarning, match='in favor of Orbax'):
      checkpoints.save_checkpoint(
        folder, (params, momentum, step), step, keep=9
      )
  finally:
    flax.config.update('flax_use_orbax_checkpointing', before)


def test_read_takes_the_newest_of_the_original_trainer(
  params, momentum, tmp_path, capsys
):
  save(tmp_path, jax.tree.map(np.zeros_like, params), momentum, 9)
  save(tmp_path, params, momentum, 100)
  assert_same(weight_names.load(tmp_path).params, params)
  assert 'the newest checkpoint is' in capsys.readouterr().err
  assert_same(weight_names.load(tmp_path / 'checkpoint_100').params, params)
  older = weight_names.load(tmp_path / 'checkpoint_9').params
  assert not older['cls'].any()


def test_convert_writes_the_arrays_of_the_original_trainer(
  params, momentum, tmp_path
):
  save(tmp_path, params, momentum, 100)
  out = tmp_path / 'out.npz'
  converting.convert(tmp_path / 'checkpoint_100', out)
  with np.load(out, allow_pickle=False) as written:
    wanted = reference.checkpoint('vit_token')
    assert set(written.files) == wanted.keys()
    for name, array in wanted.items():
      np.testing.assert_array_equal(written[name], array)


@pytest.mark.parametrize(
  'wrap',
  [
    lambda p: p,
    lambda p: {'params': p},
    lambda p: {'params': {'params': p}, 'opt_state': {'0': {'trace': p}}},
    lambda p: {'params': p, 'opt_state': p, 'ema_params': p, 'step': 3},
    lambda p: {'target': p, 'state': {'step': 1}},
    lambda p: {'optimizer': {'target': p, 'state': {'param_states': p}}},
    lambda p: {'model': {'params': p, 'batch_stats': {}}},
    lambda p: {'state': {'params': p, 'tx': None}},
    lambda p: [p, {'count': np.int32(3)}],
    lambda p: layouts.to_file(trees.flatten(p), 'official'),
  ],
)
def test_read_finds_the_parameters_in_a_state(wrap, params, tmp_path):
  path = tmp_path / 'params.msgpack'
  path.write_bytes(serialization.msgpack_serialize(wrap(params)))
  assert_same(weight_names.load(path).params, params)


@pytest.mark.parametrize('orbax', [False, True])
@pytest.mark.parametrize('key', ['ema_params', 'ema'])
def test_read_takes_the_average_with_ema(key, orbax, params, tmp_path, capsys):
  average = jax.tree.map(lambda a: a / 2, params)
  path = tmp_path / 'a'

  def write(state):
    if orbax:
      with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state, force=True)
    else:
      path.write_bytes(serialization.msgpack_serialize(state))

  write({'params': params, key: average, 'step': np.int32(3)})
  assert_same(weight_names.load(path).params, params)
  assert f'averaged weights (EMA) too, in {key}; ' in capsys.readouterr().err
  assert_same(weight_names.load(f'{path}#ema').params, average)
  assert 'EMA' not in capsys.readouterr().err
  write({key: {'params': average}})
  assert_same(weight_names.load(path).params, average)
  assert 'averaged weights (EMA); it has no others' in capsys.readouterr().err
  write([{'params': params, key: average}, 3])
  assert_same(weight_names.load(path).params, params)
  assert_same(weight_names.load(f'{path}#ema').params, average)
  write({'params': params})
  with pytest.raises(InputError, match=r'it has no averaged weights.*--ema'):
    weight_names.load(f'{path}#ema')


def test_read_ignores_a_json_file_of_another_program(params, tmp_path, capsys):
  (tmp_path / 'checkpoint_3').write_bytes(serialization.to_bytes(params))
  (tmp_path / 'checkpoint_3.json').write_text('{"epoch": 3}')
  assert_same(weight_names.load(tmp_path).params, params)
  assert 'no description of a model' in capsys.readouterr().err


def test_load_reads_optimizer_target_of_an_npz_file(params, tmp_path):
  flat = trees.flatten({'optimizer': {'target': params, 'state': params}})
  npz.write(tmp_path / 'a.npz', flat.items())
  assert_same(weights.load(tmp_path / 'a.npz'), params)


def test_read_joins_arrays_that_flax_split(params, tmp_path, monkeypatch):
  monkeypatch.setattr(serialization, 'MAX_CHUNK_SIZE', 1000)
  narrow = jax.tree.map(jnp.bfloat16, params)
  encoded = serialization.to_bytes(narrow)
  assert b'__msgpack_chunked_array__' in encoded
  (tmp_path / 'a').write_bytes(encoded)
  assert_same(weight_names.load(tmp_path / 'a').params, jax.device_get(narrow))


def test_read_takes_one_of_equal_copies(params, tmp_path, capsys):
  copies = jax.tree.map(lambda a: np.stack([a, a]), params)
  path = tmp_path / 'a.msgpack'
  path.write_bytes(serialization.to_bytes({'params': copies}))
  assert_same(weight_names.load(path).params, params)
  assert 'saved 2 times' in capsys.readouterr().err
  one = jax.tree.map(lambda a: a[None], params)
  path.write_bytes(serialization.to_bytes({'params': one}))
  assert_same(weight_names.load(path).params, params)
  assert 'times' not in capsys.readouterr().err
  copies['head']['bias'][1, 3] += 1
  path.write_bytes(serialization.to_bytes({'params': copies}))
  with pytest.raises(InputError, match='copies differ in head/bias'):
    weight_names.load(path)


def test_read_names_a_truncated_or_foreign_file(params, tmp_path):
  path = tmp_path / 'a.msgpack'
  encoded = serialization.to_bytes(params)
  path.write_bytes(encoded[:-5])
  with pytest.raises(InputError, match=r'a.msgpack is a truncated file'):
    weight_names.load(path)
  path.write_bytes(encoded + b'abc')
  with pytest.raises(InputError, match='or damaged'):
    weight_names.load(path)
  path.write_bytes(serialization.to_bytes({'a': np.ones(3), 'b': 3}))
  with pytest.raises(InputError, match='unknown layout: 2 arrays named a, b'):
    weight_names.load(path)


@pytest.fixture(scope='module')
def transformer():
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.ViTConfig(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=32,
    image_size=16,
    patch_size=8,
    num_labels=5,
  )
  model = transformers.ViTForImageClassification(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.normal_(std=0.2)
  return model


def flax_vit(model, folder):
  """Returns the tree that transformers 4 saved as flax_model.msgpack."""
  converting_from = folder / 'torch'
  model.save_pretrained(converting_from)
  v4 = folder / 'v4'
  converting.convert(converting_from, v4, to='transformers_v4')
  import safetensors.numpy

  flat = {}
  for name, array in safetensors.numpy.load_file(
    v4 / 'model.safetensors'
  ).items():
    *parents, last = name.split('.')
    if last == 'weight':
      last = 'scale' if array.ndim == 1 else 'kernel'
    axes = (2, 3, 1, 0) if array.ndim == 4 else None
    given = array.transpose(axes) if last == 'kernel' else array
    flat['/'.join((*parents, last))] = np.ascontiguousarray(given)
  (folder / 'config.json').write_text((v4 / 'config.json').read_text())
  return flat


@pytest.mark.parametrize('parts', [1, 2])
def test_read_flax_vit_of_transformers_gives_its_logits(
  parts, transformer, tmp_path
):
  import torch

  from vit_jax_repro.inference import restoring

  flat = flax_vit(transformer, tmp_path)
  if parts == 1:
    tree = trees.nest(flat)
    assert {'vit', 'classifier'} == tree.keys()
    encoded = serialization.to_bytes(tree)
    (tmp_path / 'flax_model.msgpack').write_bytes(encoded)
  else:
    names = sorted(flat)
    index = {}
    for i, some in enumerate((names[::2], names[1::2])):
      file = f'flax_model-0000{i + 1}-of-00002.msgpack'
      tree = trees.nest({name: flat[name] for name in some})
      (tmp_path / file).write_bytes(serialization.to_bytes(tree))
      index |= dict.fromkeys(some, file)
    text = json.dumps({'metadata': {}, 'weight_map': index})
    (tmp_path / 'flax_model.msgpack.index.json').write_text(text)
  read = restoring.restore(tmp_path)
  images = np.random.default_rng(0).standard_normal((2, 16, 16, 3))
  images = images.astype(np.float32)
  logits = read.model.apply({'params': read.params}, images, train=False)
  with torch.no_grad():
    wanted = transformer(torch.from_numpy(images.transpose(0, 3, 1, 2))).logits
  assert float(wanted.abs().max()) > 0.3
  np.testing.assert_allclose(logits, wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('inside', ['', '5', '5/default'])
def test_read_orbax_of_another_trainer(inside, params, momentum, tmp_path):
  state = {'params': params, 'opt_state': momentum, 'step': 5}
  with ocp.CheckpointManager(tmp_path / 'all') as manager:
    zeros = jax.tree.map(jnp.zeros_like, state)
    manager.save(4, args=ocp.args.StandardSave(zeros))
    manager.save(5, args=ocp.args.StandardSave(state))
    manager.wait_until_finished()
  read = weight_sources.read(str(tmp_path / 'all' / inside))
  assert_same(read.params, params)
  assert not read.is_described


def test_read_takes_the_model_of_several_items(params, tmp_path, capsys):
  """Of items by name, an average is read before the parameters."""
  average = jax.tree.map(lambda a: a / 2, params)

  def write(**items):
    path = tmp_path / 'a'
    shutil.rmtree(path, ignore_errors=True)
    with ocp.CheckpointManager(path) as manager:
      items = {name: ocp.args.StandardSave(x) for name, x in items.items()}
      manager.save(5, args=ocp.args.Composite(**items))
      manager.wait_until_finished()

  path, count = tmp_path / 'a', {'count': np.int32(3)}
  write(ema=average, params=params, opt_state=count)
  [found] = weight_names.files_in(str(path))
  assert found.endswith('5/ema/manifest.ocdbt')
  assert_same(weight_names.load(path).params, params)
  assert '(EMA) too, in ema; --ema takes them' in capsys.readouterr().err
  assert_same(weight_names.load(f'{path}#ema').params, average)
  write(ema_params={'params': average}, state=count)
  assert_same(weight_names.load(path).params, average)
  assert 'averaged weights (EMA); it has no others' in capsys.readouterr().err
  write(params=params, teacher=average)
  with pytest.raises(InputError, match=r'several .*params, teacher;.*5/params'):
    weight_names.load(path)
  assert_same(weight_names.load(path / '5/teacher').params, average)
  with pytest.raises(InputError, match='no averaged weights'):
    weight_names.load(f'{path / "5/teacher"}#ema')
  write(state=count, more=count)
  with pytest.raises(InputError, match='unknown layout'):
    weight_names.load(path)


def test_read_checkpoint_of_flax_by_orbax(params, momentum, tmp_path):
  checkpoints.save_checkpoint(tmp_path, (params, momentum, 7), 7)
  assert_same(weight_names.load(tmp_path / 'checkpoint_7').params, params)


def test_read_names_a_damaged_orbax_checkpoint(params, tmp_path):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'a', {'params': params})
  for path in (tmp_path / 'a').rglob('d/*'):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(InputError, match='damaged Orbax checkpoint'):
    weight_names.load(tmp_path / 'a')
