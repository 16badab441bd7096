"""Files of torchvision and jeonsworld/ViT-pytorch, read and written."""

import numpy as np
import pytest
from port_cases import assert_same

from vit_jax_repro import jobs, models, ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import restoring
from vit_jax_repro.ports import code_constants, weight_sources
from vit_jax_repro.weights import trees

torch = pytest.importorskip('torch')
torch_vits = pytest.importorskip('torch_vits')

MODULES = {
  'torchvision': torch_vits.Torchvision,
  'torchvision, tanh': lambda: torch_vits.Torchvision(pre_logits=16),
  'torchvision 0.12': lambda: torch_vits.Torchvision(
    names=('linear_1', 'linear_2')
  ),
  'jeonsworld': torch_vits.Jeonsworld,
}


@pytest.fixture(scope='module', params=MODULES)
def saved(request, tmp_path_factory):
  """The name of a library, a module of it, and the file of its state dict."""
  library = request.param.split()[0].rstrip(',')
  module = torch_vits.filled(MODULES[request.param]())
  path = tmp_path_factory.mktemp(library) / 'model_checkpoint.bin'
  torch.save(module.state_dict(), path)
  return library, module, path


def test_logits_of_a_file_are_those_of_its_library(saved):
  """A wrong axis of the fused attention, GELU or epsilon passes the names."""
  library, module, path = saved
  read = weight_sources.read(str(path), num_heads=torch_vits.HEADS)
  model = models.create(read.card.architecture)
  size = torch_vits.SIZE
  images = np.random.default_rng(0).normal(size=(4, size, size, 3))
  images = images.astype(np.float32)
  ours = np.asarray(model.apply({'params': read.params}, images, train=False))
  given = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    theirs = module(given).numpy()
    exact = module.double()(given.double()).numpy()
    module.float()
  noise = np.abs(theirs - exact).max()
  assert np.abs(exact).max() > 0.1
  assert np.abs(ours - exact).max() < 10 * noise
  assert read.card.image_size == (size, size)
  starts = {'torchvision': 'deit:', 'jeonsworld': 'vit_jax'}
  assert read.card.preprocessing.startswith(starts[library])


def test_a_file_round_trips_bit_for_bit(saved):
  """An array is left out, or comes back under the older name."""
  library, module, _ = saved
  state = {name: a.numpy() for name, a in module.state_dict().items()}
  assert ports.library_of(state) == library
  params = ports.from_state_dict(state, num_heads=torch_vits.HEADS)
  again = ports.to_state_dict(params, library)
  renamed = {
    name.replace('linear_1', '0').replace('linear_2', '3'): array
    for name, array in state.items()
  }
  assert_same(again, renamed)
  missing = {n: a for n, a in state.items() if not n.endswith('head.bias')}
  with pytest.raises(InputError, match=r'missing are .*head\.bias'):
    ports.from_state_dict(missing, num_heads=torch_vits.HEADS)


def test_restore_takes_the_constants_of_the_library(saved, tmp_path, capsys):
  """A port's file is evaluated with the authors' GELU or pixels."""
  library, _, path = saved
  jobs.convert(path, tmp_path / 'model.npz', num_heads=torch_vits.HEADS)
  restored = restoring.restore(tmp_path / 'model.npz')
  assert restored.model.gelu == 'erf'
  wanted = {'torchvision': 'deit:crop_pct=1', 'jeonsworld': 'vit_jax'}
  assert restored.preprocessing == wanted[library]
  printed = capsys.readouterr().err
  assert f'{library} files do not say how images are read' in printed
  assert f"{library}'s code has gelu=erf" in printed


def test_convert_writes_what_the_library_loads(saved, tiny_vit, tmp_path):
  """A name that the library does not have, or a shape that it refuses."""
  library, module, path = saved
  out = tmp_path / 'again.pth'
  model = tmp_path / 'model.npz'
  jobs.convert(path, model, num_heads=torch_vits.HEADS)
  jobs.convert(model, out, to=library)
  state = torch.load(out, weights_only=True)
  if 'linear_1' not in str(module.state_dict().keys()):
    module.load_state_dict(state, strict=True)
  assert {a.dtype for a in state.values()} == {torch.float32}


def test_convert_notes_constants_that_the_library_lacks(
  tiny_vit, tmp_path, capsys
):
  """Weights of the tanh form silently give other logits there."""
  jobs.convert(tiny_vit, tmp_path / 'a.pth', to='torchvision')
  assert 'gelu=erf, not tanh' in capsys.readouterr().err
  with pytest.raises(InputError, match='choose from timm, transformers'):
    jobs.convert(tiny_vit, tmp_path / 'folder', to='jeonsworld')


def test_224_pixels_are_read_as_torchvision_trained(capsys):
  """Its own weights are evaluated as those of SWAG, or the other way."""
  module = torch_vits.filled(torch_vits.Torchvision())
  state = {name: a.numpy() for name, a in module.state_dict().items()}
  state['encoder.pos_embedding'] = np.zeros((1, 56 * 56 + 1, 24), np.float32)
  params = ports.from_state_dict(state, num_heads=3)
  assert weights.describe(params)['image_size'] == (224, 224)
  config = code_constants.config('torchvision', (224, 224))
  assert config.preprocessing == 'deit:crop_pct=0.875,interpolation=bilinear'
  assert code_constants.config('timm', (224, 224)) is None


def test_models_that_no_field_describes_are_named():
  """A hybrid of jeonsworld is taken for the authors', which pads otherwise."""
  module = torch_vits.filled(torch_vits.Jeonsworld())
  state = {name: a.numpy() for name, a in module.state_dict().items()}
  name = 'transformer.embeddings.hybrid_model.root.conv.weight'
  with pytest.raises(InputError, match="jeonsworld's hybrids norm each"):
    ports.from_state_dict(state | {name: state['head.weight']}, num_heads=3)
  flat = trees.flatten(ports.from_state_dict(state, num_heads=3))
  del flat['cls']
  for library in ('torchvision', 'jeonsworld'):
    with pytest.raises(InputError, match=f"^{library}'s ViT has a class token"):
      ports.to_state_dict(trees.nest(flat), library)


@pytest.mark.parametrize(
  ('name', 'line'),
  [
    ('base_model.model.vit.layers.0.q_proj.lora_A.weight', 'give its folder'),
    ('module.momentum_encoder.cls_token', 'MoCo v3 .*--num_heads=12'),
    ('decoder_blocks.0.norm1.weight', r'without mask_token and decoder_\*'),
  ],
)
def test_training_checkpoints_are_named(name, line):
  """They are called unknown state dicts, without a way on."""
  with pytest.raises(InputError, match=line):
    ports.from_state_dict({name: np.ones((1, 1, 24), np.float32)})
