"""Loading, describing, creating and saving models of each published layout."""

import child_processes
import jax
import jax.numpy as jnp
import model_shapes
import numpy as np
import pytest
import reference

from vit_jax_repro import models, weights
from vit_jax_repro.weights import npz, trees

# Tests write these files completely, and only names and shapes of the others.
SMALL = (
  'augreg.Ti_16.imagenet2012-res_384',
  'augreg.R_Ti_16.imagenet2012-res_224',
  'imagenet21k.ViT-B_32',
  'gsam.ViT-S_32',
  'sam.ViT-S_16',
  'bit.BiT-S-R50x1',
  'mixer_imagenet1k.Mixer-B_16',
  'big_vision.S_16.gap_rep_sincos2d',
  'big_vision.S_16.tok_learn',
  'big_vision.S_16.map_learn',
  'big_vision.S_16.map_learn_scan',
  'big_vision.S_16.two_towers_img_map_scan',
)


def layout_of(key):
  return reference.layouts()[key]['layout']


# Repeated in large arrays. The length is prime, so that no axis divides it.
NOISE = np.random.default_rng(0).standard_normal(999_983, dtype=np.float32)


def write_random(path, key):
  """Writes a file with the names, shapes and dtypes of a released one."""

  def arrays():
    for i, (name, (shape, dtype)) in enumerate(layout_of(key).items()):
      yield name, np.resize(NOISE[i:], shape).astype(dtype)

  npz.write(path, arrays())
  return path


def read_shapes(path):
  return {name: array.shape for name, array in npz.read(path)}


def assert_same_tree(left, right):
  left, right = trees.flatten(left), trees.flatten(right)
  assert left.keys() == right.keys()
  for name, array in left.items():
    assert array.dtype == right[name].dtype
    np.testing.assert_array_equal(array, right[name], err_msg=name)


def is_exception(key):
  """Returns whether a file has more or fewer parameters than one model."""
  return key == 'sam.ViT-S_16' or 'two_towers' in key


def released_layout(key):
  """Returns the layout that reproduces a released file."""
  return 'big_vision_scan' if key.endswith('_scan') else 'official'


@pytest.mark.parametrize('key', SMALL)
def test_save_reproduces_released_layouts(key, tmp_path):
  """Loads, saves and loads: bit-exact, and in the published layout."""
  path = write_random(tmp_path / 'in.npz', key)
  params = weights.load(path)
  weights.save(tmp_path / 'out.npz', params, layout=released_layout(key))
  assert_same_tree(weights.load(tmp_path / 'out.npz'), params)
  weights.save(tmp_path / 'linen.npz', params, layout='linen')
  assert_same_tree(weights.load(tmp_path / 'linen.npz'), params)
  if not is_exception(key):
    assert read_shapes(tmp_path / 'out.npz') == read_shapes(path)
    size = reference.layouts()[key]['npz_bytes_zip64']
    assert (tmp_path / 'out.npz').stat().st_size == size


@pytest.fixture
def names_and_shapes(monkeypatch):
  """Replaces files by arrays without memory, of the real names and shapes."""

  def load(key):
    canonical = weights.layouts.from_file(layout_of(key))
    flat = {
      canonical[name]: weights.layouts.from_file_shape(
        canonical[name], np.broadcast_to(np.zeros((), dtype), shape)
      )
      for name, (shape, dtype) in layout_of(key).items()
      if name in canonical
    }
    return trees.unstack(flat)

  return load


@pytest.mark.parametrize('key', reference.layouts())
def test_describe_fits_each_released_layout(key, names_and_shapes):
  """Compares the described model's parameters with those of the file."""
  flat = names_and_shapes(key)
  spec = weights.describe(flat)
  model = models.create(spec)
  image_size = spec['image_size'] or (224, 224)
  shapes = model_shapes.parameter_shapes(model, image_size)
  wanted = {name: leaf.shape for name, leaf in shapes.items()}
  assert wanted == {k: v.shape for k, v in flat.items()}
  if key != 'sam.ViT-S_16':  # counts its optimizer state too
    total = sum(np.prod(shape) for shape in wanted.values())
    assert total == reference.layouts()[key]['parameters']
  if not is_exception(key):
    written = weights.layouts.to_file(flat, released_layout(key))
    assert {k: list(v.shape) for k, v in written.items()} == {
      name: shape for name, (shape, _) in layout_of(key).items()
    }


@pytest.mark.quick
@pytest.mark.parametrize(
  ('key', 'size'),
  [
    ('imagenet21k+imagenet2012.ViT-B_16', 384),
    ('imagenet21k+imagenet2012.ViT-B_16-224', 224),
    ('imagenet21k.ViT-H_14', 224),
    ('augreg.R_Ti_16.imagenet2012-res_384', 384),
    ('imagenet21k+imagenet2012.R50+ViT-B_16', 384),
    ('gsam.ViT-S_32', 224),
    ('mixer_sam.Mixer-B_32', 224),
    ('big_vision.B_16.tok_learn', 224),
    ('bit.BiT-M-R50x1', None),
    ('big_vision.S_16.gap_rep_sincos2d', None),
  ],
)
def test_describe_gives_the_image_size(key, size, names_and_shapes):
  expected = size and (size, size)
  assert weights.describe(names_and_shapes(key))['image_size'] == expected


@pytest.mark.quick
def test_load_gives_one_tree_for_pre_linen_and_linen_numbering(tmp_path):
  """Has twelve layers because 10 and 11 must sort after 9."""
  old = reference.checkpoint('vit_12_layers')
  assert any('MlpBlock_3' in name for name in old)
  new = {reference.to_linen(name): array for name, array in old.items()}
  npz.write(tmp_path / 'old.npz', old.items())
  npz.write(tmp_path / 'new.npz', new.items())
  params = weights.load(tmp_path / 'old.npz')
  assert_same_tree(params, weights.load(tmp_path / 'new.npz'))
  assert_same_tree(params, trees.nest(new))
  stacked = trees.stack(trees.flatten(params))
  npz.write(tmp_path / 'stacked.npz', stacked.items())
  assert_same_tree(weights.load(tmp_path / 'stacked.npz'), params)


@pytest.mark.quick
@pytest.mark.parametrize('prefix', ['opt/target/', 'params/', 'params/img/'])
def test_load_ignores_prefixes_and_other_contents(prefix, tmp_path):
  plain = reference.checkpoint('vit_token')
  npz.write(tmp_path / 'plain.npz', plain.items())
  held = {prefix + name: array for name, array in plain.items()}
  held |= {
    'opt/state/step': np.int32(3),
    'opt/state/param_states/embedding/kernel/grad_ema': np.zeros(2, 'f4'),
    'extra/accum_train_time': np.float64(2),
    'extra/x': np.zeros(1),
  }
  npz.write(tmp_path / 'held.npz', held.items())
  assert_same_tree(
    weights.load(tmp_path / 'held.npz'), weights.load(tmp_path / 'plain.npz')
  )


@pytest.mark.quick
@pytest.mark.parametrize('case', ['hybrid_stem_only', 'hybrid_1_1_1'])
def test_load_accepts_group_norms_of_both_shapes(case, tmp_path):
  """Loads (1, 1, 1, C) and (C,) as (C,); hybrids are saved as (1, 1, 1, C)."""
  arrays = reference.checkpoint(case)
  flat = {k: v.ravel() if 'gn' in k else v for k, v in arrays.items()}
  npz.write(tmp_path / 'flat.npz', flat.items())
  params = weights.load(tmp_path / 'flat.npz')
  assert params['gn_root']['scale'].ndim == 1
  weights.save(tmp_path / 'out.npz', params)
  assert_same_tree(weights.load(tmp_path / 'out.npz'), params)
  shapes = read_shapes(tmp_path / 'out.npz')
  assert shapes['gn_root/scale'][:3] == (1, 1, 1)


@pytest.mark.quick
@pytest.mark.parametrize('numbering', [lambda i: f'_{i}', lambda i: ''])
def test_load_accepts_numbered_bit_convolutions(numbering, tmp_path):
  arrays = reference.checkpoint('bit_tiny_1_1_1_1')
  numbered = {
    name.replace('standardized_conv2d', f'standardized_conv2d{numbering(i)}'): a
    for i, (name, a) in enumerate(arrays.items())
  }
  npz.write(tmp_path / 'a.npz', numbered.items())
  params = weights.load(tmp_path / 'a.npz')
  weights.save(tmp_path / 'out.npz', params)
  with np.load(tmp_path / 'out.npz') as written:
    assert set(written.files) == arrays.keys()
    for name, array in arrays.items():
      np.testing.assert_array_equal(written[name], array)


@pytest.mark.quick
@pytest.mark.parametrize('layout', ['official', 'big_vision', 'linen'])
def test_save_widens_bfloat16_of_big_vision_files(layout, tmp_path, capsys):
  arrays = reference.checkpoint('bv_map_learn')
  arrays = {k: v.astype(jnp.bfloat16) for k, v in arrays.items()}
  npz.write(tmp_path / 'a.npz', arrays.items())
  params = weights.load(tmp_path / 'a.npz')
  weights.save(tmp_path / 'b.npz', params, layout=layout)
  assert 'written as float32' in capsys.readouterr().err
  with np.load(tmp_path / 'b.npz', allow_pickle=False) as written:
    if layout != 'linen':
      assert set(written.files) == arrays.keys()
    assert {written[n].dtype for n in written.files} == {np.dtype('float32')}
  wide = jax.tree.map(lambda a: a.astype(np.float32), params)
  assert_same_tree(weights.load(tmp_path / 'b.npz'), wide)
  weights.save(tmp_path / 'c.npz', wide, layout=layout)
  assert 'note' not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.quick
@pytest.mark.parametrize(
  'case', ['vit_token', 'vit_gap', 'vit_token_prelogits']
)
def test_save_as_big_vision_keeps_the_logits_of_a_vit(case, tmp_path):
  npz.write(tmp_path / 'a.npz', reference.checkpoint(case).items())
  params = weights.load(tmp_path / 'a.npz')
  weights.save(tmp_path / 'b.npz', params, layout='big_vision')
  shapes = read_shapes(tmp_path / 'b.npz')
  assert shapes['params/pos_embedding'][1] == 16
  images = reference.images(case)
  logits = []
  for tree in (params, weights.load(tmp_path / 'b.npz')):
    model = models.create(weights.describe(tree))
    logits.append(model.apply({'params': tree}, images))
  np.testing.assert_allclose(*logits, rtol=0, atol=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize('case', ['bit_tiny_1_1_1_1', 'hybrid_2_2'])
def test_save_as_big_vision_rejects_bit_and_hybrids(case, tmp_path):
  npz.write(tmp_path / 'a.npz', reference.checkpoint(case).items())
  params = weights.load(tmp_path / 'a.npz')
  for layout in ('big_vision', 'big_vision_scan'):
    with pytest.raises(ValueError, match='have no file for BiT, '):
      weights.save(tmp_path / 'b.npz', params, layout=layout)
  assert not (tmp_path / 'b.npz').exists()


@pytest.mark.quick
def test_save_rejects_an_unknown_layout(tmp_path):
  params = {'embedding': {'kernel': np.zeros((2, 2, 3, 4), 'f4')}}
  with pytest.raises(
    ValueError, match=r"unknown layout='flax'; choose from \['o"
  ):
    weights.save(tmp_path / 'b.npz', params, layout='flax')


@pytest.mark.quick
def test_save_unstacks_scanned_parameters(tmp_path):
  npz.write(tmp_path / 'a.npz', reference.checkpoint('vit_12_layers').items())
  params = weights.load(tmp_path / 'a.npz')
  scanned = models.create(weights.describe(params), scan=True)
  stacked = weights.adapt(params, scanned, head='keep')
  assert 'encoderblock' in stacked['Transformer']
  weights.save(tmp_path / 'b.npz', jax.tree.map(jnp.asarray, stacked))
  assert_same_tree(weights.load(tmp_path / 'b.npz'), params)


def test_save_writes_a_distilled_model_as_its_flat_tree(tmp_path):
  model = models.create('DeiT-Ti_16-distilled', num_classes=10, num_layers=2)
  params = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))['params']
  weights.save(tmp_path / 'a.npz', params)
  assert set(npz.read_names(tmp_path / 'a.npz')) == set(trees.flatten(params))
  loaded = weights.load(tmp_path / 'a.npz')
  assert_same_tree(loaded, jax.tree.map(np.asarray, params))
  assert models.create(weights.describe(loaded)) == model


@pytest.mark.quick
def test_describe_rejects_an_incomplete_tree():
  """Expects one line with all missing arrays and all of a wrong rank."""
  flat = vit_token()
  flat['embedding/kernel'] = flat['embedding/kernel'][0]
  flat['head/bias'] = np.float32(1)
  attention = 'Transformer/encoderblock_0/MultiHeadDotProductAttention_0'
  del flat['Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel']
  flat[f'{attention}/query/kernel'] = np.zeros((48, 0, 12))
  with pytest.raises(ValueError, match='cannot tell the arch') as caught:
    weights.describe(trees.nest(flat))
  message = str(caught.value)
  for part in (
    "missing=['Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel']",
    'embedding/kernel: (8, 3, 48) instead of 4',
    'head/bias: () instead of 1',
    'query/kernel: (48, 0, 12) instead of 3',
  ):
    assert part in message
  assert '\n' not in message
  with pytest.raises(ValueError, match="pass the tree inside 'params'"):
    weights.describe({'params': trees.nest(vit_token())})


def vit_token():
  """Returns a flat canonical tree."""
  return {
    reference.to_linen(k): v
    for k, v in reference.checkpoint('vit_token').items()
  }


@pytest.mark.quick
@pytest.mark.parametrize('number', ['1000', '9' * 40, '9' * 5000])
def test_describe_rejects_a_huge_layer_number(number):
  flat = vit_token()
  flat[f'Transformer/encoderblock_{number}/x'] = np.zeros(1, 'f4')
  with pytest.raises(ValueError, match='at most 1000 layers') as caught:
    weights.describe(flat)
  assert len(str(caught.value)) < 200


@pytest.mark.quick
def test_load_rejects_arrays_of_whole_numbers(tmp_path):
  """Quantised weights without their scales are other numbers."""
  arrays = vit_token()
  arrays['cls'] = arrays['cls'].astype(np.int8)
  np.savez(tmp_path / 'a.npz', **arrays)
  with pytest.raises(ValueError, match="'cls' is a int8 array"):
    weights.load(tmp_path / 'a.npz')


@pytest.mark.quick
@pytest.mark.parametrize(
  'change, message',
  [
    (lambda tree: {}, 'no parameters of a model: 0 leaves'),
    (lambda tree: {'foo': {'bar': np.zeros(3)}}, '1 leaves named foo/bar'),
    (lambda tree: {'params': tree}, "pass the tree inside 'params'"),
    (lambda tree: {**tree, 'cls': None}, "leaf 'cls' is a NoneType"),
    (lambda tree: {**tree, 'cls': [1, 2]}, "leaf 'cls' is a list"),
    (lambda tree: {**tree, 'cls': np.array(['a'])}, 'is a <U1 array'),
    (lambda tree: {**tree, 'cls': np.zeros(1, complex)}, 'complex128 array'),
  ],
)
def test_save_rejects_other_trees(change, message, tmp_path):
  path = tmp_path / 'a.npz'
  path.write_bytes(b'before')
  tree = trees.nest(vit_token())
  with pytest.raises(ValueError, match=message) as caught:
    weights.save(path, change(tree))
  assert '\n' not in str(caught.value)
  assert path.read_bytes() == b'before' and len(list(tmp_path.iterdir())) == 1


@pytest.mark.quick
def test_save_rejects_stacking_of_different_blocks(tmp_path):
  flat = vit_token()
  del flat['Transformer/encoderblock_1/LayerNorm_0/bias']
  with pytest.raises(ValueError, match='LayerNorm_0/bias must have one shape'):
    weights.save(tmp_path / 'a.npz', flat, layout='big_vision_scan')
  assert not list(tmp_path.iterdir())


# Prints by how many bytes the peak memory rises while a file is loaded.
RISE = """
import pathlib
import re
import sys
from vit_jax_repro import weights

def kilobytes(field):
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(rf'{field}:\\s+(\\d+) kB', status)[1])

before = kilobytes('VmRSS')
params = weights.load(sys.argv[1])
print((kilobytes('VmHWM') - before) * 1024)
"""


def test_load_needs_little_more_memory_than_the_file(tmp_path):
  """Loads ViT-B/16, 347 MB: peak RSS rises by at most 1.3 file sizes."""
  path = write_random(tmp_path / 'a.npz', 'imagenet21k+imagenet2012.ViT-B_16')
  code, output, error = child_processes.run_script(RISE, path)
  assert not code, error
  rise, size = int(output), path.stat().st_size
  path.unlink()
  assert 0.9 * size < rise < 1.3 * size
