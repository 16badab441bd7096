"""LoRA adapters in PEFT's layout, compared with the merge in PyTorch.

PEFT is no dependency of the tests. The adapters have the names and settings of
peft 0.21.2, whose `merge_and_unload` computes W + (B @ A) * s.
"""

import json

import numpy as np
import port_cases
import pytest
import tiny_models
from run_verb import run_verb

from vit_jax_repro import weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.ports import converting, state_dicts, weight_sources
from vit_jax_repro.published import weight_names
from vit_jax_repro.weights import model_card

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
timm_stub = pytest.importorskip('timm_stub')

WIDTH, CLASSES = 192, 3
QUERIES = ('vit.layers.0.attention.q_proj', 'vit.layers.1.attention.q_proj')


def transformers_vit(cls='ViTForImageClassification', **options):
  torch.manual_seed(0)
  config = transformers.ViTConfig(
    hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=384, image_size=8, patch_size=4,
    **{'num_labels': CLASSES} | options,
  )  # fmt: skip
  return getattr(transformers, cls)(config)


def timm_vit():
  torch.manual_seed(0)
  return timm_stub.import_timm().create_model(
    'vit_base_patch16_224', img_size=8, patch_size=4, embed_dim=WIDTH, depth=2,
    num_heads=3, num_classes=CLASSES,
  )  # fmt: skip


def write_adapter(folder, arrays, base='', **config):
  """Writes a folder as PEFT's save_pretrained does."""
  folder.mkdir()
  arrays = {f'base_model.model.{name}': a for name, a in arrays.items()}
  state_dicts.write(folder / 'adapter_model.safetensors', arrays)
  settings = {
    'peft_type': 'LORA', 'r': 8, 'lora_alpha': 12, 'bias': 'none',
    'init_lora_weights': True, 'use_rslora': False, 'use_dora': False,
    'base_model_name_or_path': str(base), 'rank_pattern': {},
    'alpha_pattern': {}, 'modules_to_save': None, **config,
  }  # fmt: skip
  (folder / 'adapter_config.json').write_text(json.dumps(settings))
  return folder


def matrices(module, names, rank=8):
  """Returns the LoRA arrays of some layers of a module, by name."""
  rng = np.random.default_rng(0)
  arrays = {}
  for name in names:
    outputs, inputs = module.get_submodule(name).weight.shape
    for end, shape in (('A', (rank, inputs)), ('B', (outputs, rank))):
      values = rng.standard_normal(shape).astype(np.float32)
      arrays[f'{name}.lora_{end}.weight'] = values
  return arrays


def merge(module, arrays, scale=lambda name: 12 / 8):
  """Adds the products to the module's own weights, in PyTorch and float64."""
  for name in {name.partition('.lora_')[0] for name in arrays}:
    first, second = (
      torch.from_numpy(arrays[f'{name}.lora_{end}.weight']).double()
      for end in 'AB'
    )
    weight = module.get_submodule(name).weight
    weight.data = (weight.double() + second @ first * scale(name)).float()
  return module


def save(module, folder):
  """Writes a module as its library does; returns the path to read."""
  if hasattr(module, 'save_pretrained'):
    module.save_pretrained(folder)
    return folder
  state = {n: t.detach().numpy() for n, t in module.state_dict().items()}
  path = folder.with_suffix('.safetensors')
  state_dicts.write(path, state)
  return path


def assert_same(path, other, **options):
  """Compares the parameters and the models of two sources."""
  found = weight_sources.read(str(path), **options)
  wanted = weight_sources.read(str(other))
  port_cases.assert_same(found.params, wanted.params)
  assert found.card.architecture == wanted.card.architecture
  return found


@pytest.mark.parametrize('library', ['transformers', 'timm'])
def test_adapter_is_merged_as_in_pytorch(library, tmp_path):
  """Other bits, another order of queries, keys and values, or another scale."""
  module = transformers_vit() if library == 'transformers' else timm_vit()
  ends = ('q_proj', 'v_proj') if library == 'transformers' else ('qkv', 'proj')
  head = 'classifier' if library == 'transformers' else 'head'
  names = [
    n for n, _ in module.named_modules() if n.endswith(ends) and '0' in n
  ]
  assert len(names) == 2
  arrays = matrices(module, names)
  base = save(module, tmp_path / 'base')
  merge(module, arrays)
  own = module.get_submodule(head)
  own.weight.data += 1
  own.bias.data += 1
  saved = {
    f'{head}.{end}': getattr(own, end).detach().numpy()
    for end in ('weight', 'bias')
  }
  adapter = write_adapter(
    tmp_path / 'adapter', arrays | saved, base, modules_to_save=[head]
  )
  assert_same(adapter, save(module, tmp_path / 'merged'))


@pytest.fixture(scope='module')
def vit(tmp_path_factory):
  """Returns the folder of a ViT of transformers."""
  folder = tmp_path_factory.mktemp('vit') / 'base'
  return save(transformers_vit(), folder)


def test_scales_follow_patterns_and_rslora(vit, tmp_path):
  """One scale for every layer, or alpha / r where sqrt(r) divides it."""
  module = transformers_vit()
  arrays = matrices(module, QUERIES[:1]) | matrices(module, QUERIES[1:], 2)
  adapter = write_adapter(
    tmp_path / 'a', arrays, vit, use_rslora=True,
    rank_pattern={'layers.1.attention.q_proj': 2},
    alpha_pattern={r'.*\.0\.attention\.q_proj': 32, 'proj': 99},
  )  # fmt: skip
  scales = {QUERIES[0]: 32 / 8**0.5, QUERIES[1]: 12 / 2**0.5}
  assert_same(
    adapter, save(merge(module, arrays, scales.get), tmp_path / 'merged')
  )


def test_biases_of_both_kinds_are_read(vit, tmp_path):
  """A bias that was trained, one of matrix B, or their sum is left out."""
  module = transformers_vit()
  arrays = matrices(module, QUERIES)
  merge(module, arrays)
  first, second = (module.get_submodule(name).bias for name in QUERIES)
  change = np.arange(WIDTH, dtype=np.float32)
  second.data += 1
  whole = second.detach().numpy().copy()
  for bias in (first, second):
    bias.data += torch.from_numpy(change) * 1.5
  extra = {f'{name}.lora_B.bias': change for name in QUERIES}
  extra[f'{QUERIES[1]}.base_layer.bias'] = whole
  adapter = write_adapter(
    tmp_path / 'a', arrays | extra, vit, lora_bias=True, bias='lora_only'
  )
  assert_same(adapter, save(module, tmp_path / 'merged'))


def test_a_new_head_replaces_pooler_and_classes(tmp_path):
  """The usual case: the features of ImageNet-21k with a head of 5 classes."""
  base = save(transformers_vit('ViTModel'), tmp_path / 'base')
  module = transformers_vit(num_labels=5)
  state = module.state_dict() | {
    f'vit.{name}': value
    for name, value in transformers_vit('ViTModel').state_dict().items()
    if not name.startswith('pooler')
  }
  module.load_state_dict(state)
  arrays = matrices(module, QUERIES)
  head = {n: state[n].numpy() for n in ('classifier.weight', 'classifier.bias')}
  adapter = write_adapter(tmp_path / 'a', arrays | head, base)
  merge(module, arrays)
  found = assert_same(adapter, save(module, tmp_path / 'merged'))
  assert found.card.architecture['num_classes'] == 5
  assert weight_names.load(adapter).spec['num_classes'] == 5


def test_class_names_of_the_base_are_not_those_of_a_new_head(tmp_path, capsys):
  """Predictions get the names of other classes."""
  names = ('cat', 'dog', 'cow')
  spec = tiny_models.spec(CLASSES, hidden_size=WIDTH, num_heads=3)
  params = tiny_models.params_of(spec)
  model_card.save_model(
    tmp_path / 'base.npz', params, architecture=spec, class_names=names
  )
  kernel = np.ones((CLASSES, WIDTH), np.float32)
  adapter = write_adapter(
    tmp_path / 'a', {'head.weight': kernel}, 'base.npz'
  )  # the base is found in the folder above
  found = weight_sources.read(str(adapter))
  assert found.card.class_names is None
  assert 'class names' in capsys.readouterr().err
  np.testing.assert_array_equal(found.params['head']['kernel'], kernel.T)
  plain = write_adapter(tmp_path / 'b', {}, tmp_path / 'base.npz')
  assert weight_sources.read(str(plain)).card.class_names == names


def test_a_head_that_the_adapter_lacks_is_named(vit, tmp_path, capsys):
  module = transformers_vit()
  arrays = matrices(module, QUERIES)
  adapter = write_adapter(
    tmp_path / 'a', arrays, vit, modules_to_save=['classifier', 'score']
  )
  assert_same(adapter, save(merge(module, arrays), tmp_path / 'merged'))
  assert 'lists classifier in modules_to_save' in capsys.readouterr().err


def test_names_of_transformers_4_fit_a_base_of_any_kind(vit, tmp_path):
  """The base must have the names of the adapter's version."""
  run_verb('convert', vit, tmp_path / 'base.npz')
  module = transformers_vit()
  arrays = matrices(module, QUERIES)
  old = {
    name.replace('layers', 'encoder.layer').replace(
      'attention.q_proj', 'attention.attention.query'
    ): array
    for name, array in arrays.items()
  }
  adapter = write_adapter(tmp_path / 'a', old, tmp_path / 'base.npz')
  merged = save(merge(module, arrays), tmp_path / 'merged')
  found = weight_sources.read(str(adapter))
  port_cases.assert_same(found.params, weight_sources.read(str(merged)).params)


def test_base_is_given_by_flag_or_text(vit, tmp_path, capsys):
  """An adapter of a model on the Hub has no way on."""
  module = transformers_vit()
  arrays = matrices(module, QUERIES)
  adapter = write_adapter(tmp_path / 'a', arrays, 'missing/vit')
  with pytest.raises(InputError, match="'missing/vit', which is not on this"):
    weight_names.load(adapter)
  out = tmp_path / 'out.npz'
  run_verb('convert', adapter, out, f'--base={vit}')
  text = f'{adapter}#base={vit}'
  found = weight_names.load(text).params
  port_cases.assert_same(weights.load(out), found)
  merged = save(merge(module, arrays), tmp_path / 'merged')
  port_cases.assert_same(weight_sources.read(str(merged)).params, found)
  kept = weight_names.files_of(text)
  assert str(vit / 'model.safetensors') in kept
  assert str(adapter / 'adapter_model.safetensors') in kept
  names = [str(adapter / n) for n in ('adapter_model.safetensors',
                                      'adapter_config.json')]  # fmt: skip
  base = str(vit / 'model.safetensors')
  assert weight_names.files_in(text) == [*names, base]


def test_base_is_only_for_adapters(vit):
  with pytest.raises(InputError, match='only a PEFT adapter has a base'):
    weight_names.load(f'{vit}#base={vit}')


REFUSED = {
  'DoRA': ({'use_dora': True}, 'use_dora.*merge_and_unload'),
  'IA3': ({'peft_type': 'IA3'}, "'IA3'.*reads LORA.*merge_and_unload"),
  'AdaLoRA': ({'peft_type': 'ADALORA'}, 'ADALORA'),
  'PiSSA': ({'init_lora_weights': 'pissa_niter_4'}, 'pissa_niter_4'),
  'tokens': ({'trainable_token_indices': [1]}, 'trainable_token_indices'),
  'rank': ({'r': 4}, r'\[8, 192\] and \[192, 8\], which are not of the rank 4'),
  'text': ({'lora_alpha': 'x'}, 'a: adapter_config.json has a wrong value'),
  'infinity': ({'lora_alpha': 1e999}, 'has a wrong value .*lora_alpha=inf'),
  'pattern': ({'rank_pattern': {'[z-a]': 1}}, 'a: adapter_config.json has a'),
  'list': ({'rank_pattern': [1]}, 'a: adapter_config.json has a wrong'),
  'no base': ({'base_model_name_or_path': None}, 'does not name its base'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_other_adapters_are_refused_in_one_line(name, vit, tmp_path):
  settings, line = REFUSED[name]
  arrays = matrices(transformers_vit(), QUERIES[:1])
  settings = {'base_model_name_or_path': str(vit)} | settings
  adapter = write_adapter(tmp_path / 'a', arrays, **settings)
  with pytest.raises(InputError, match=line) as caught:
    weight_sources.read(str(adapter))
  assert '\n' not in str(caught.value)


ENDLESS = (r'(\w+\.?)+!', '(v|v)' * 30, '.*' * 9 + '!', r'\w?', 'x{9}', '(')


@pytest.mark.parametrize('key', ['rank_pattern', 'alpha_pattern'])
def test_patterns_that_may_take_forever_are_refused(key, vit, tmp_path):
  """A pattern from the Internet stops the process for years."""
  arrays = matrices(transformers_vit(), QUERIES[:1])
  for i, pattern in enumerate(ENDLESS):
    adapter = write_adapter(
      tmp_path / f'{i}', arrays, vit, **{key: {pattern: 1}}
    )
    with pytest.raises(InputError, match=f'{key} has .*merge_and_unload'):
      weight_sources.read(str(adapter))


@pytest.mark.parametrize(
  'pattern',
  ['q_proj', r'layers.0.attention.q_proj', r'^vit\.layers\.\d+\..*q_proj$',
   r'layers\.[0-5]\.attention\.[qv]_proj'],
)  # fmt: skip
def test_usual_patterns_are_compared(pattern, vit, tmp_path):
  module = transformers_vit()
  arrays = matrices(module, QUERIES[:1])
  adapter = write_adapter(
    tmp_path / 'a', arrays, vit, alpha_pattern={pattern: 32, 'q_pro.': 1}
  )
  merged = save(merge(module, arrays, lambda name: 32 / 8), tmp_path / 'merged')
  assert_same(adapter, merged)


WRONG = {
  'another model': ({'x.lora_A.weight': (8, 4), 'x.lora_B.weight': (4, 8)},
                    'its base has nothing'),
  'wrong width': ({f'{QUERIES[0]}.lora_A.weight': (8, 4),
                   f'{QUERIES[0]}.lora_B.weight': (192, 8)},
                  r'is for \[192, 4\], and its base has \[192, 192\]'),
  'half a pair': ({f'{QUERIES[0]}.lora_A.weight': (8, 192)}, 'has matrices'),
  'magnitudes': ({f'{QUERIES[0]}.lora_magnitude_vector': (192,)}, 'nothing'),
  'head of another width': ({'classifier.weight': (3, 7)}, 'head for 7 feat'),
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG)
def test_arrays_that_do_not_fit_are_refused(name, vit, tmp_path):
  shapes, line = WRONG[name]
  arrays = {n: np.ones(shape, np.float32) for n, shape in shapes.items()}
  with pytest.raises(InputError, match=line) as caught:
    weight_sources.read(str(write_adapter(tmp_path / 'a', arrays, vit)))
  assert '\n' not in str(caught.value)


def test_an_adapter_of_an_adapter_is_refused(tmp_path):
  """It refers to itself without end."""
  adapter = write_adapter(tmp_path / 'a', {}, '.')
  with pytest.raises(InputError, match='is a PEFT adapter itself'):
    weight_sources.read(str(adapter), base=str(adapter))


def test_an_adapter_without_arrays_is_named(vit, tmp_path):
  adapter = write_adapter(tmp_path / 'a', {}, vit)
  (adapter / 'adapter_model.safetensors').unlink()
  with pytest.raises(InputError, match=r'none of adapter_model\.safetensors'):
    weight_sources.read(str(adapter))


@pytest.mark.parametrize('given', [True, False])
def test_convert_keeps_the_base(given, tmp_path):
  """--overwrite replaces the base by the merged model."""
  spec = tiny_models.spec(CLASSES, hidden_size=WIDTH, num_heads=3)
  base = tmp_path / 'base.npz'
  weights.save(base, tiny_models.params_of(spec))
  before = base.read_bytes()
  adapter = write_adapter(tmp_path / 'a', {}, '' if given else base)
  with pytest.raises(OSError, match=r'base\.npz'):
    converting.convert(
      adapter, base, base=str(base) if given else None, overwrite=True
    )
  assert base.read_bytes() == before
