"""Conversion between files of weights, ports and folders."""

import functools
import json
import os
import stat
import sys

import jax
import jax.numpy as jnp
import numpy as np
import port_cases
import pytest
import reference
import timm_stub
import tiny_models
from flax import serialization
from port_cases import assert_same

from vit_jax_repro import models, ports, weights
from vit_jax_repro.inference import restoring
from vit_jax_repro.ports import code_constants, converting, state_dicts
from vit_jax_repro.weights import layouts, model_card, npz, trees

quick = pytest.mark.quick


@pytest.fixture
def vit(tmp_path):
  """Returns (path, tree) of a file in the published layout."""
  path = tmp_path / 'vit.npz'
  npz.write(path, reference.checkpoint('vit_token').items())
  return path, weights.load(path)


def without_cls_slot(params):
  """Returns a ViT as in big_vision's files: the slot is in the class token."""
  positions = params['Transformer']['posembed_input']['pos_embedding']
  return {
    **params,
    'Transformer': {
      name: value
      for name, value in params['Transformer'].items()
      if name != 'posembed_input'
    },
    'cls': params['cls'] + positions[:, :1],
    'pos_embedding': positions[:, 1:],
  }


@quick
@pytest.mark.parametrize('layout', layouts.LAYOUTS)
def test_convert_writes_every_layout_of_npz(layout, vit, tmp_path):
  path, params = vit
  out = tmp_path / 'out.npz'
  to = None if layout == 'official' else layout
  result = converting.convert(path, out, to=to)
  if layout.startswith('big_vision'):
    params = without_cls_slot(params)
  assert_same(weights.load(out), params)
  arrays = dict(npz.read(out))
  assert result == converting.Converted(
    path=str(out),
    target=layout,
    model='vit',
    num_arrays=len(arrays),
    num_parameters=sum(array.size for array in arrays.values()),
    num_bytes=sum(array.nbytes for array in arrays.values()),
  )
  assert sorted(os.listdir(tmp_path)) == ['out.npz', 'vit.npz']
  assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(path.stat().st_mode)


@quick
def test_convert_keeps_the_card_and_drops_parts(tmp_path):
  path = tiny_models.save_run(tmp_path / 'a.npz')
  card = model_card.read_card(path)
  converting.convert(path, tmp_path / 'b.npz', to='linen')
  assert model_card.read_card(tmp_path / 'b.npz') == card
  converting.convert(path, tmp_path / 'c.npz', drop=('head',))
  found = model_card.read_card(tmp_path / 'c.npz')
  assert found.class_names is None
  assert found.architecture == {**card.architecture, 'num_classes': None}
  assert 'head' not in weights.load(tmp_path / 'c.npz')
  assert restoring.restore(tmp_path / 'c.npz').model.num_classes is None


def test_convert_with_a_model_name_overrides_the_file(tmp_path):
  model = models.create('DeiT-Ti_16', num_classes=3)
  params = tiny_models.params_of(
    dict(models.variant('DeiT-Ti_16'), num_classes=3), (32, 32)
  )
  path = tmp_path / 'a.npz'
  weights.save(path, params)
  assert models.create(weights.describe(params)).gelu == 'tanh'
  result = converting.convert(path, tmp_path / 'b.npz', model='DeiT-Ti_16')
  assert result.model == 'DeiT-Ti_16'
  restored = restoring.restore(tmp_path / 'b.npz')
  assert restored.model == model and restored.preprocessing == 'deit'
  with pytest.raises(ValueError, match='weights do not fit the model'):
    converting.convert(path, tmp_path / 'c.npz', model='DeiT-S_16')
  assert not (tmp_path / 'c.npz').exists()


@quick
def test_convert_replaces_nothing_without_overwrite(vit, tmp_path):
  path, params = vit
  out = tmp_path / 'out.npz'
  for taken in (out, tmp_path / 'out.json'):
    taken.write_text('mine')
    with pytest.raises(FileExistsError, match=r'exists already; .*overwrite'):
      converting.convert(path, out)
    assert taken.read_text() == 'mine'
  converting.convert(path, out, overwrite=True)
  assert_same(weights.load(out), params)
  assert not (tmp_path / 'out.json').exists()  # it described other weights


@quick
def test_convert_rejects_an_empty_name(vit, tmp_path, monkeypatch):
  here = tmp_path / 'here'
  here.mkdir()
  (here / 'model.safetensors').write_text('mine')
  monkeypatch.chdir(here)
  for source, out in ((vit[0], ''), ('', 'new')):
    for overwrite in (False, True):
      with pytest.raises(ValueError, match='must both be the name'):
        converting.convert(source, out, to='timm', overwrite=overwrite)
  for out in ('.', './'):
    with pytest.raises(FileExistsError, match='overwrite'):
      converting.convert(vit[0], out, to='timm')
  assert os.listdir(here) == ['model.safetensors']
  assert (here / 'model.safetensors').read_text() == 'mine'


@quick
@pytest.mark.parametrize('out', ['out.npz', 'port'])
def test_convert_never_pairs_weights_with_another_card(out, tmp_path):
  """Checks every step of the replacement, at each of which it may be killed."""
  out = tmp_path / out
  weights_file, card, to = out, tmp_path / 'out.json', None
  if out.suffix == '':
    weights_file, card = out / 'model.safetensors', out / 'config.json'
    to = 'transformers'
  runs = []
  for number in range(2):
    params = tiny_models.params_of(tiny_models.spec(3 + number))
    runs.append(tmp_path / f'{number}.npz')
    model_card.save_model(
      runs[-1],
      params,
      architecture=weights.describe(params),
      image_size=weights.describe(params)['image_size'],
    )

  def there():
    return tuple(
      path.read_bytes() if path.exists() else None
      for path in (weights_file, card)
    )

  converting.convert(runs[0], out, to=to)
  pairs = [there()]

  def watch(frame, event, called):
    if event == 'c_return' and called in (os.remove, os.replace):
      pairs.append(there())

  sys.setprofile(watch)
  try:
    converting.convert(runs[1], out, to=to, overwrite=True)
  finally:
    sys.setprofile(None)
  (old, old_card), *between, (new, new_card) = dict.fromkeys(pairs)
  assert old != new and None not in (new, new_card) and old_card != new_card
  assert between == [(old, None), (new, None)]


@quick
def test_convert_keeps_a_json_file_next_to_a_port(vit, tmp_path):
  (tmp_path / 'port.json').write_text('mine')
  converting.convert(vit[0], tmp_path / 'port.safetensors', to='timm')
  assert (tmp_path / 'port.json').read_text() == 'mine'


@quick
def test_convert_names_the_file_and_the_missing_library(
  vit, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'torch', None)  # as if not installed
  out = tmp_path / 'out.pth'
  with pytest.raises(ValueError, match='needs torch; install') as caught:
    converting.convert(vit[0], out, to='deit')
  assert str(caught.value).startswith(f'{out}: reading and writing')
  assert os.listdir(tmp_path) == ['vit.npz']


@pytest.mark.slow
@quick
def test_convert_to_official_adds_a_position_for_the_token(tmp_path, capsys):
  """Compares the logits of big_vision's numbers in the authors' layout."""
  path, out, big = (tmp_path / f'{name}.npz' for name in 'abc')
  params = port_cases.tree('bv_tok_learn', tmp_path)
  model_card.save_model(path, params, architecture=weights.describe(params))
  converting.convert(path, out)
  assert 'note' not in capsys.readouterr().err
  arrays = dict(npz.read(out))
  positions = arrays['Transformer/posembed_input/pos_embedding']
  np.testing.assert_array_equal(positions[:, :1], 0)
  np.testing.assert_array_equal(positions[:, 1:], params['pos_embedding'])
  np.testing.assert_array_equal(arrays['cls'], params['cls'])
  assert not any(name.startswith('params/') for name in arrays)
  images = reference.images('bv_tok_learn')
  logits = []
  for each in (path, out):
    found = restoring.restore(each)
    logits.append(found.model.apply({'params': found.params}, images))
  np.testing.assert_array_equal(*logits)
  card = model_card.read_card(out)
  assert models.create(card.architecture).class_token_after_positions is False
  # The opposite conversion changes the numbers and prints a note.
  converting.convert(out, big, to='big_vision')
  assert 'added to the token: the same logits' in capsys.readouterr().err
  converting.convert(path, tmp_path / 'd.npz', to='big_vision')
  assert 'note' not in capsys.readouterr().err
  assert_same(weights.load(tmp_path / 'd.npz'), params)


@quick
def test_convert_never_replaces_the_source(vit, tmp_path):
  path, _ = vit
  before = path.read_bytes()
  (tmp_path / 'link.npz').symlink_to(path)
  os.link(path, tmp_path / 'hard.npz')
  for out in ('vit.npz', 'link.npz', 'hard.npz'):
    with pytest.raises(OSError, match='is read'):
      converting.convert(path, tmp_path / out, overwrite=True)
  card = tmp_path / 'vit.json'
  folder = tmp_path / 'port'
  converting.convert(path, folder, to='timm')
  card.write_text('{}')
  for source in (folder, folder / 'model.safetensors'):
    with pytest.raises(OSError, match='is the source folder'):
      converting.convert(source, folder, to='timm', overwrite=True)
    with pytest.raises(OSError, match='is read'):
      converting.convert(source, folder / 'config.npz', overwrite=True)
  assert path.read_bytes() == before and card.read_text() == '{}'


@quick
def test_convert_writes_to_the_target_of_a_link(vit, tmp_path):
  path, params = vit
  (tmp_path / 'elsewhere').mkdir()
  real = tmp_path / 'elsewhere' / 'real.npz'
  real.write_bytes(b'old')
  link = tmp_path / 'link.npz'
  link.symlink_to(real)
  converting.convert(path, link, overwrite=True)
  assert link.is_symlink()
  assert_same(weights.load(real), params)
  assert os.listdir(tmp_path / 'elsewhere') == ['real.npz']


@quick
@pytest.mark.parametrize(
  'out, options, message',
  [
    ('b.npz', {'to': 'keras'}, 'unknown --to=keras; choose from timm'),
    ('b.npz', {'to': 'timm'}, "--to is 'timm'; .* choose from official"),
    ('b.safetensors', {}, '--to is not given; .* choose from timm'),
    ('b.pth', {'to': 'official'}, "--to is 'official'"),
    ('b', {'to': 'deit'}, "--to is 'deit'; .* choose from timm, transformers"),
    ('none/b.npz', {}, 'there is no folder'),
    ('none/b', {'to': 'timm'}, 'there is no folder'),
    ('vit.npz/b', {'to': 'timm'}, 'there is no folder'),
    ('file', {'to': 'timm'}, 'is a file; give the name of a folder'),
    ('b.npz', {'num_heads': 3}, '--num_heads=3 is only for files of ports'),
    ('b.npz', {'drop': ('neck',)}, 'cannot drop'),
    ('b.npz', {'model': 'ViT-X_16'}, 'unknown model'),
  ],
)
def test_convert_rejects_wrong_arguments_in_one_line(
  out, options, message, vit, tmp_path
):
  (tmp_path / 'file').write_text('mine')
  with pytest.raises((ValueError, OSError), match=message) as caught:
    converting.convert(vit[0], tmp_path / out, **options)
  assert '\n' not in str(caught.value)
  assert sorted(os.listdir(tmp_path)) == ['file', 'vit.npz']


@quick
@pytest.mark.parametrize('ending', ['npz', 'msgpack'])
def test_convert_names_missing_and_mis_shaped_arrays(ending, vit, tmp_path):
  """They were copied, and only who opened the copy met an error."""
  flat = trees.flatten(vit[1])
  path = tmp_path / f'a.{ending}'

  def write():
    if ending == 'npz':
      npz.write(path, flat.items())
    else:
      path.write_bytes(serialization.to_bytes(trees.nest(flat)))

  flat['cls'] = flat['cls'].ravel()
  write()
  with pytest.raises(ValueError, match=r'a\.\w+: .*cls: file \(48,\)'):
    converting.convert(path, tmp_path / 'out.npz')
  flat['cls'] = flat['cls'].reshape(1, 1, -1)
  name = 'Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias'
  del flat[name]
  write()
  with pytest.raises(ValueError, match=f'missing=.*{name}'):
    converting.convert(path, tmp_path / 'out.npz')
  assert sorted(os.listdir(tmp_path)) == sorted({path.name, 'vit.npz'})


@quick
def test_convert_never_replaces_the_card_of_a_checkpoint(vit, tmp_path):
  path = tmp_path / 'checkpoint_3'
  path.write_bytes(serialization.to_bytes(vit[1]))
  card = tmp_path / 'checkpoint_3.json'
  card.write_text('{}')
  for source in (path, tmp_path):
    with pytest.raises(OSError, match='is read'):
      converting.convert(source, f'{path}.npz', overwrite=True)
  assert card.read_text() == '{}'


@quick
def test_convert_leaves_no_files_after_a_failure(tmp_path):
  path = tmp_path / 'a.npz'
  npz.write(path, reference.checkpoint('hybrid_stem_only').items())
  for out, to in [('b.npz', 'big_vision'), ('b.pth', 'transformers')]:
    with pytest.raises(ValueError, match=to):
      converting.convert(path, tmp_path / out, to=to)
  assert os.listdir(tmp_path) == ['a.npz']


@quick
def test_convert_prints_a_note_if_only_pre_logits_are_dropped(tmp_path, capsys):
  params = tiny_models.params_of(tiny_models.spec(3, representation_size=16))
  weights.save(tmp_path / 'a.npz', params)
  converting.convert(
    tmp_path / 'a.npz', tmp_path / 'b.npz', drop=('pre_logits',)
  )
  assert 'note: the head was trained on pre_logits' in capsys.readouterr().err


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', ''])
@pytest.mark.parametrize('library', ports.LIBRARIES)
def test_convert_to_a_port_and_back_is_exact(
  library, suffix, vit, tmp_path, capsys
):
  path, params = vit
  says_gelu = library in code_constants.LIBRARIES
  if not suffix and (says_gelu or library == 'deit'):
    return  # these libraries have no folders
  if library == 'dinov2':
    return  # it has no model without LayerScale
  params = jax.tree.map(lambda a: a.astype(np.float16), params)
  weights.save(path, params)
  port, back = tmp_path / f'port{suffix}', tmp_path / 'back.npz'
  result = converting.convert(path, port, to=library)
  assert result.target == library
  assert result.num_bytes == sum(a.nbytes for a in jax.tree.leaves(params))
  heads = None if suffix == '' else 3  # in config.json
  converting.convert(port, back, num_heads=heads)
  assert_same(weights.load(back), params)
  noted = 'do not name the GELU' in capsys.readouterr().err
  assert noted == (suffix != '' and not says_gelu)
  described = suffix == '' or says_gelu
  assert (tmp_path / 'back.json').exists() == described
  assert not [name for name in os.listdir(tmp_path) if name.startswith('.')]


def test_convert_writes_bfloat16_so_that_timm_reads_it(vit, tmp_path, capsys):
  path, params = vit
  params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
  port, out = tmp_path / 'port', tmp_path / 'out.npz'
  npz.write(path, layouts.to_file(trees.flatten(params), 'official').items())
  converting.convert(path, port, to='timm')
  converting.convert(port, out)
  assert capsys.readouterr().err.count('written as float32') == 1
  read = weights.load(out)
  assert {a.dtype for a in jax.tree.leaves(read)} == {np.dtype('float32')}
  timm = timm_stub.import_timm()
  model = timm.models.vision_transformer.VisionTransformer(
    img_size=32,
    patch_size=8,
    embed_dim=48,
    depth=3,
    num_heads=3,
    mlp_ratio=2,
    num_classes=10,
  )
  model.load_pretrained(str(out))
  np.testing.assert_array_equal(
    model.head.weight.detach().numpy().T, read['head']['kernel']
  )


def test_convert_keeps_other_files_of_a_folder(vit, tmp_path):
  folder = tmp_path / 'port'
  folder.mkdir()
  converting.convert(vit[0], folder, to='transformers')  # the folder was empty
  (folder / 'notes.md').write_text('mine')
  with pytest.raises(FileExistsError, match='overwrite'):
    converting.convert(vit[0], folder, to='timm')
  converting.convert(vit[0], folder, to='timm', overwrite=True)
  assert (folder / 'notes.md').read_text() == 'mine'
  assert 'architecture' in json.loads((folder / 'config.json').read_text())
  assert ports.library_of(state_dicts.read(folder)) == 'timm'


@pytest.mark.parametrize('library', ['timm', 'transformers'])
def test_convert_keeps_rectangular_image_sizes(library, tmp_path):
  """Converts 4x6 patches and a token, which are 5x5 patches without a card."""
  case = 'vit_token_rect'
  params = port_cases.tree(case, tmp_path)
  path, port, back = (tmp_path / name for name in ('a.npz', 'b', 'c.npz'))
  spec = weights.describe(params)
  model_card.save_model(path, params, architecture=spec, image_size=(32, 48))
  converting.convert(path, port, to=library)
  converting.convert(port, back)
  assert_same(weights.load(back), params)
  assert model_card.read_card(back).image_size == (32, 48)
  (tmp_path / 'a.json').unlink()
  with pytest.raises(ValueError, match='not those of 40x40 pixels'):
    converting.convert(path, tmp_path / 'd', to=library)


def fine_tuned(folder, **fields):
  """Saves a port's own model; returns a function to its logits."""
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.ViTConfig(
    hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=96, image_size=32, patch_size=8, initializer_range=0.3,
    id2label={0: 'cat', 1: 'dog', 2: 'owl'}, **fields,
  )  # fmt: skip
  module = transformers.ViTForImageClassification(config).eval()
  module.save_pretrained(folder)
  processor = transformers.ViTImageProcessor(
    size={'height': 32, 'width': 32}, image_mean=[0.5] * 3
  )
  processor.save_pretrained(folder)

  def logits(images):
    with torch.no_grad():
      images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
      return module(images).logits.numpy()

  return logits


@pytest.mark.parametrize('act', ['gelu', 'gelu_new', 'gelu_pytorch_tanh'])
def test_convert_keeps_the_logits_of_a_fine_tuned_port(act, tmp_path, capsys):
  """Converts a port whose GELU and epsilon differ from the authors'."""
  theirs = fine_tuned(tmp_path / 'port', hidden_act=act)
  converting.convert(tmp_path / 'port', tmp_path / 'a.npz')
  assert 'layer_norm_eps=1e-12' in capsys.readouterr().err
  restored = restoring.restore(tmp_path / 'a.npz')
  assert restored.class_names == ('cat', 'dog', 'owl')
  assert restored.image_size == (32, 32)
  assert restored.preprocessing == 'vit_jax'
  images = reference.images('vit_token')
  with jax.default_matmul_precision('highest'):
    apply = functools.partial(restored.model.apply, train=False)
    ours = jax.jit(apply)({'params': restored.params}, images)
  np.testing.assert_allclose(ours, theirs(images), rtol=0, atol=1e-5)
  # The conversion back to the port keeps the constants.
  converting.convert(tmp_path / 'a.npz', tmp_path / 'b', to='transformers')
  import transformers

  config = transformers.AutoConfig.from_pretrained(tmp_path / 'b')
  assert config.layer_norm_eps == 1e-12 and config.num_labels == 3
  assert config.id2label == {0: 'cat', 1: 'dog', 2: 'owl'}
  with pytest.raises(ValueError, match='epsilon 1e-06, not 1e-12'):
    converting.convert(tmp_path / 'a.npz', tmp_path / 'c', to='timm')
  assert not (tmp_path / 'c').exists()


def test_convert_rejects_class_names_of_another_head(tmp_path):
  fine_tuned(tmp_path / 'port')
  path = tmp_path / 'port' / 'config.json'
  config = json.loads(path.read_text())
  config['id2label']['3'] = 'fox'
  path.write_text(json.dumps(config))
  for out, to in (('a.npz', None), ('b', 'transformers')):
    with pytest.raises(ValueError, match='4 class names for 3 classes'):
      converting.convert(tmp_path / 'port', tmp_path / out, to=to)
  assert os.listdir(tmp_path) == ['port']


def test_convert_reads_and_writes_distilled_deit_files(tmp_path):
  case = 'deit_distilled_tiny'
  path = tmp_path / 'deit.pth'
  state_dicts.write(path, reference.checkpoint(case), wrapper='model')
  converting.convert(path, tmp_path / 'a.npz', num_heads=3)
  restored = restoring.restore(tmp_path / 'a.npz')
  assert restored.model.distilled and restored.model.gelu == 'erf'
  assert restored.preprocessing == 'deit'
  assert_same(restored.params, port_cases.tree(case, tmp_path))
  result = converting.convert(tmp_path / 'a.npz', tmp_path / 'b.pth', to='deit')
  assert result.num_arrays == 47
  import torch

  state = torch.load(tmp_path / 'b.pth', weights_only=True)['model']
  wanted = reference.checkpoint(case)
  assert state.keys() == wanted.keys()
  assert all((state[name].numpy() == wanted[name]).all() for name in wanted)
