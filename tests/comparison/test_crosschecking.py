"""The whole job, on typical ports."""

import json
import shutil

import jax
import numpy as np
import pytest
import reference
import tiny_models
from photographs import PHOTOGRAPHS

from vit_jax_repro import ports, weights
from vit_jax_repro.comparison import (
  activations,
  causes,
  crosschecking,
  diagnosis,
  parameters,
  report,
  torch_models,
  torch_sources,
)
from vit_jax_repro.inference import prediction
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.weights import model_card

CASE = 'vit_token'


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
  """Returns a folder with a weights file and ports by save_pretrained."""
  import torch_ports
  import transformers

  folder = tmp_path_factory.mktemp('hub')
  params = torch_ports.save(folder / 'vit.npz', CASE)
  for name, fields in {
    'same': {},
    'defaults': {'act': 'gelu', 'eps': 1e-12},
  }.items():
    torch_ports.vit(params, CASE, **fields).save_pretrained(folder / name)
    transformers.ViTImageProcessorPil(
      size={'height': 32, 'width': 32}
    ).save_pretrained(folder / name)
  return folder


def crosscheck(hub, port, **options):
  return crosschecking.crosscheck(
    hub / 'vit.npz', f'transformers:{hub / port}', **options
  )


def test_faithful_port_with_its_own_preprocessing(hub):
  found = crosscheck(hub, 'same', images=list(PHOTOGRAPHS.values()))
  assert found.diagnosis.agrees
  assert found.parameters.equal and found.parameters.num_arrays == 56
  assert found.library == 'transformers'
  assert found.reading.named == ('decoder', 'antialias')
  assert len(found.top) == len(found.end_to_end) == 2
  for ours, theirs in found.top:
    assert [entry[0] for entry in ours] == [entry[0] for entry in theirs]
  # Another preprocessing changes the logits; on one tensor they are equal.
  gap = [abs(a[0][2] - b[0][2]) for a, b in found.end_to_end]
  assert max(gap) > 0.01
  text = ' '.join(report.sections(found)[0].text)
  assert 'Agrees: every layer' in text
  assert 'JPEG decoder: the accurate DCT' in text
  assert 'antialiasing: on, not off' in text


def test_crosscheck_compares_the_numbers_of_a_regression(hub, tmp_path):
  """Other commands refuse them as classes; here they are only outputs."""
  folder = shutil.copytree(hub / 'same', tmp_path / 'numbers')
  config = json.loads((folder / 'config.json').read_text())
  config['problem_type'] = 'regression'
  (folder / 'config.json').write_text(json.dumps(config))
  found = crosschecking.crosscheck(folder, f'transformers:{folder}')
  assert found.diagnosis.agrees
  image = PHOTOGRAPHS['china']
  with pytest.raises(ValueError, match='was trained for regression'):
    prediction.predict(folder, [image])


def test_crosscheck_reads_the_reference_once(hub, capsys):
  """A file that is read twice, so that its notes appear twice."""
  found = crosschecking.crosscheck(hub / 'same', f'transformers:{hub / "same"}')
  assert found.diagnosis.agrees and found.parameters.equal
  err = capsys.readouterr().err
  assert err.count('read as vit from ') == 1


def test_crosscheck_names_the_defaults_of_transformers(hub):
  # In float32 the effect of LayerNorm's epsilon is below the noise.
  found = crosscheck(hub, 'defaults', dtype='float64')
  assert found.diagnosis.explained and not found.diagnosis.agrees
  named = {cause.topic: cause.port for cause in found.diagnosis.named}
  assert named == {'GELU form': 'erf', 'LayerNorm epsilon': '1e-12'}
  assert found.reading is None and found.files == ()
  json = report.as_json(found)
  assert json['agrees'] is False and json['explained'] is True
  assert len(json['causes']) == 2 and json['weights_equal'] is True
  assert json['layers'][-1]['name'] == 'logits'


def test_crosscheck_distinguishes_weights_from_code(hub):
  import torch_ports

  params = reference.canonical(CASE)
  params['Transformer']['encoder_norm']['scale'] += np.float32(0.01)
  torch_ports.vit(params, CASE, act='gelu').save_pretrained(hub / 'tuned')
  found = crosscheck(hub, 'tuned')
  assert [name for name, _ in found.parameters.different] == [
    'Transformer/encoder_norm/scale'
  ]
  topics = [cause.topic for cause in found.diagnosis.named]
  assert sorted(topics) == ['GELU form', 'weights']
  assert found.diagnosis.explained
  # With the weights of the file, only the code differs.
  found = crosscheck(hub, 'tuned', port_weights='reference')
  assert found.parameters.equal
  assert [cause.topic for cause in found.diagnosis.named] == ['GELU form']


def test_weights_of_a_port_in_bfloat16(hub, tmp_path):
  import torch
  import torch_ports

  params = reference.canonical(CASE)
  module = torch_ports.vit(params, CASE).to(torch.bfloat16)
  module.save_pretrained(tmp_path / 'bfloat16')
  other = torch_sources.make(f'transformers:{tmp_path / "bfloat16"}', (32, 32))
  assert {v.dtype for v in other.module.state_dict().values()} == {
    torch.bfloat16
  }
  restored = restore(hub / 'vit.npz')
  library, tree = parameters.canonical(other, restored)
  source = weights.load(hub / 'vit.npz')
  found = parameters.compare(source, tree)
  assert library == 'transformers' and not found.unmatched and found.different
  assert found.different[0][1] < 0.02
  # With the weights of the file it still has the same rounding.
  parameters.give(other, source)
  assert (
    parameters.compare(
      source, parameters.canonical(other, restored)[1]
    ).different[0]
    == found.different[0]
  )


def test_give_accepts_a_file_in_bfloat16():
  import ml_dtypes
  import torch_ports

  params = reference.canonical(CASE)
  small = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16), params)
  port = torch_models.Port('port', torch_ports.vit(params, CASE))
  parameters.give(port, small)
  found = port.module.classifier.bias.detach().numpy()
  np.testing.assert_array_equal(found, small['head']['bias'].astype(np.float32))


def test_canonical_and_give_accept_a_wrapped_port(hub):
  import torch
  import torch_ports

  params = reference.canonical(CASE)
  wrapped = torch.nn.ModuleDict({'module': torch_ports.vit(params, CASE)})
  port = torch_models.Port('wrapped', wrapped)
  changed = jax.tree.map(lambda array: array + 1, params)
  parameters.give(port, changed)
  _, tree = parameters.canonical(port, restore(hub / 'vit.npz'))
  assert parameters.compare(changed, tree).equal


def test_as_cause_replaces_a_head_with_other_classes(hub):
  params = reference.canonical(CASE)
  params['Transformer']['encoder_norm']['scale'] += np.float32(0.01)
  head = params['head']
  params['head'] = {n: np.concatenate([a, a], -1) for n, a in head.items()}
  source = weights.load(hub / 'vit.npz')
  restored = restore(hub / 'vit.npz')
  cause = parameters.as_cause(params, source, restored)
  assert cause.topic == 'weights' and 'but for its head' in cause.port
  start = activations.Variant(restored.model, restored.params, np.zeros(0))
  fitted = cause.substitute(start).params
  np.testing.assert_array_equal(
    fitted['Transformer']['encoder_norm']['scale'],
    params['Transformer']['encoder_norm']['scale'],
  )
  np.testing.assert_array_equal(fitted['head']['bias'], head['bias'])
  del params['Transformer']['encoderblock_0']
  assert parameters.as_cause(params, source, restored) is None


def test_crosscheck_names_the_resizing_rule_of_transformers(hub):
  found = crosscheck(hub, 'same', image_size=48)
  assert found.parameters.equal
  assert [str(cause) for cause in found.diagnosis.named] == [
    'position embeddings resized: bicubic, half-pixel centres, not bilinear, '
    'corners aligned'
  ]
  assert found.diagnosis.explained


def test_crosscheck_of_a_distilled_deit(tmp_path):
  import torch_ports
  import transformers

  case = 'deit_distilled_tiny'
  params = torch_ports.deit_params(case)
  weights.save(tmp_path / 'deit.npz', params)
  fields = torch_ports.vit_config(case, act='gelu').to_dict()
  del fields['model_type']
  config = transformers.DeiTConfig(**fields)
  module = transformers.DeiTForImageClassificationWithTeacher(config)
  torch_ports.fill(module, params).save_pretrained(tmp_path / 'deit')
  found = crosschecking.crosscheck(
    tmp_path / 'deit.npz', f'transformers:{tmp_path / "deit"}', image_size=32
  )
  assert found.diagnosis.agrees and found.parameters.equal
  assert found.diagnosis.layers[-1].name == 'logits'


def test_crosscheck_of_a_timm_name(tmp_path):
  import timm_stub

  module = timm_stub.import_timm().create_model('test_vit')
  state = {name: value.numpy() for name, value in module.state_dict().items()}
  generator = np.random.default_rng(0)
  state = {  # fresh norms are 1 and fresh biases are 0
    name: value + 0.1 * generator.standard_normal(value.shape).astype('f4')
    for name, value in state.items()
  }
  num_heads = module.blocks[0].attn.num_heads
  params = ports.from_state_dict(state, num_heads=num_heads)
  architecture = dict(weights.describe(params), num_heads=num_heads)
  model_card.save_model(
    tmp_path / 'test.npz',
    params,
    architecture=architecture,
    image_size=(160, 160),
  )
  found = crosschecking.crosscheck(
    tmp_path / 'test.npz', 'timm:test_vit', port_weights='reference'
  )
  assert found.parameters.equal and found.library == 'timm'
  assert [str(cause) for cause in found.diagnosis.named] == [
    'GELU form: erf, not tanh'
  ]
  assert found.diagnosis.explained


def test_diagnosis_of_timms_hybrid():
  import torch_ports

  model, params, spec = torch_ports.small_hybrid()
  images = activations.random_images((32, 32))
  examiner = diagnosis.Examiner(model, params, images)
  known = causes.known(model, params)

  def examined(**planted):
    module = torch_ports.timm_hybrid(params, spec, **planted)
    port = torch_models.Port('hybrid', module)
    outputs = torch_models.run(port, images, examiner.reference)
    return examiner.diagnose(outputs, known)

  assert examined().agrees
  found = examined(act='gelu', norm_eps=1e-5, conv='timm')
  assert found.explained
  assert {cause.topic: cause.port for cause in found.named} == {
    'weight standardisation': 'w / sqrt(var + 1e-08)',
    'GroupNorm epsilon': '1e-05',
    'GELU form': 'erf',
  }
  first = next(layer for layer in found.layers if not layer.within)
  assert first.name == 'conv_root'


SCANNED_PORT = """
import plain_vit
from vit_jax_repro import weights

def make():
  return plain_vit.vit(weights.load({path!r}), 2)
"""


def test_crosscheck_of_a_scanned_model_compares_each_block(tmp_path):
  """A card may ask for stacked blocks, which have no parts of their own."""
  architecture = tiny_models.spec(3)
  path = tmp_path / 'scanned.npz'
  model_card.save_model(
    path,
    tiny_models.params_of(architecture),
    architecture=architecture | {'scan': True},
    image_size=(8, 8),
  )
  (tmp_path / 'scanned_port.py').write_text(SCANNED_PORT.format(path=str(path)))
  steps = []
  found = crosschecking.crosscheck(
    path,
    f'{tmp_path}/scanned_port.py:make',
    with_gradients=True,
    show=steps.append,
  )
  assert found.agrees and found.gradients.agrees
  assert not found.diagnosis.not_compared
  assert len(found.diagnosis.layers) == len(found.gradients.layers) == 15
  assert found.modules['Transformer/encoderblock_1'] == 'tower.1'
  assert found.facts[0].startswith('eval() was called; before, all ')
  assert 'all 5 LayerNorms have eps=1e-06.' in found.facts
  assert steps[0] == 'loading PyTorch' and 'gradients' in steps
  record = report.as_json(found)
  assert record['gradients']['agrees'] and record['first_difference'] is None
  titles = [part.title for part in report.sections(found)]
  assert titles[1:4] == [
    'Layers, same tensor',
    'Read off the port',
    'Gradients by the activations',
  ]


def test_crosscheck_compares_gradients_of_a_known_library(hub):
  found = crosscheck(hub, 'same', with_gradients=True)
  assert found.agrees and len(found.gradients.parameters) == 56
  found = crosscheck(hub, 'defaults', with_gradients=True)
  assert not found.agrees
  assert found.diagnosis.explained and found.gradients.agrees


@pytest.mark.parametrize(
  ('options', 'text'),
  [
    ({'image_size': 16, 'port_weights': 'neither'}, "port_weights='neither'"),
    ({'dtype': 'float16'}, "dtype='float16' must be one of float32, float64"),
    ({'images': ['a.jpg'] * 9}, '9 images are more than the 8'),
    ({'images': ['absent.jpg']}, 'no such image: absent.jpg'),
  ],
)
def test_crosscheck_rejects_wrong_arguments_in_one_line(hub, options, text):
  with pytest.raises((ValueError, OSError), match=text) as error:
    crosscheck(hub, 'same', **options)
  assert '\n' not in str(error.value)
