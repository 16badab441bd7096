"""EfficientNet against timm and Keras, and its own properties."""

import dataclasses

import efficientnets
import jax
import numpy as np
import pytest

from vit_jax_repro import models, ports
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import efficientnet
from vit_jax_repro.models.layers import INTERMEDIATES
from vit_jax_repro.weights import trees
from vit_jax_repro.weights.adapt import parameter_shapes

torch = pytest.importorskip('torch')

SIZE = 33  # odd, so that paddings differ at several strides
# {case: (size, blocks, name in timm)}.
CASES = {
  'B0': ('B0', 7, 'tf_efficientnet_b0'),
  'B3': ('B3', 7, 'tf_efficientnet_b3'),
  'L2, two blocks': ('L2', 2, None),
}
# Trainable parameters, as timm and Keras count them (L2: timm).
COUNTS = {
  'B0': 5_288_548,
  'B1': 7_794_184,
  'B2': 9_109_994,
  'B3': 12_233_232,
  'B4': 19_341_616,
  'B5': 30_389_784,
  'B6': 43_040_704,
  'B7': 66_347_960,
  'L2': 480_309_308,
}


@dataclasses.dataclass
class Case:
  """An EfficientNet with random arrays, and timm's logits in two precisions."""

  size: str
  blocks: int
  fields: dict
  params: dict
  images: np.ndarray  # [2, H, W, 3]
  exact: np.ndarray  # logits of timm in float64
  noise: float  # of timm in float32


@pytest.fixture(scope='module', params=CASES)
def case(request):
  size, blocks, name = CASES[request.param]
  fields = efficientnets.cut(size, blocks)
  params = efficientnets.params_of(fields)
  images = np.random.default_rng(1).normal(size=(2, SIZE, SIZE, 3))
  images = images.astype(np.float32)
  model = efficientnets.in_timm(fields, params, name)
  pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
  with torch.no_grad():
    noisy = model(pixels).numpy()
    exact = model.double()(pixels.double()).numpy()
  noise = np.abs(noisy - exact).max()
  return Case(size, blocks, fields, params, images, exact, noise)


def test_logits_equal_timm_and_keras_within_ten_times_noise(case):
  model = models.create(case.fields)
  ours = jax.jit(model.apply)({'params': case.params}, case.images)
  assert ours.dtype == np.float32
  assert np.abs(ours - case.exact).max() < 10 * case.noise
  keras, _ = efficientnets.in_keras(case.size, case.blocks, case.params, SIZE)
  theirs = keras(case.images).numpy()
  assert np.abs(theirs - case.exact).max() < 10 * case.noise
  assert np.abs(case.exact).max() > 1e4 * case.noise


@pytest.mark.parametrize('size', COUNTS)
def test_number_of_parameters_is_the_published_one(size):
  shapes = parameter_shapes(models.create(f'EfficientNet-{size}'), (32, 32))
  assert trees.num_parameters(shapes) == COUNTS[size]


@pytest.mark.parametrize('size', ['B0', 'B7'])
def test_timm_and_keras_count_as_many_parameters(size):
  import keras
  import timm_stub

  timm = timm_stub.import_timm()
  with torch.device('meta'):
    model = timm.create_model(f'tf_efficientnet_{size.lower()}')
  assert sum(p.numel() for p in model.parameters()) == COUNTS[size]
  make = getattr(keras.applications, f'EfficientNet{size}')
  found = make(weights=None).trainable_weights
  assert sum(np.prod(w.shape) for w in found) == COUNTS[size]


# {changed field of ours: value}. Each is planted in timm, so each must differ.
@pytest.mark.parametrize(
  'change',
  [
    dict(padding='symmetric'),
    dict(batch_norm_eps=1e-5),
    dict(activation='relu'),
    dict(block_strides=(1, 1)),
  ],
)
def test_logits_depend_on_every_constant(change):
  fields = efficientnets.tiny()
  params = efficientnets.params_of(fields)
  images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype('f4')
  right, wrong = (
    jax.jit(models.create(fields | more).apply)({'params': params}, images)
    for more in ({}, change)
  )
  assert np.abs(right - wrong).max() > 1e-4 * np.abs(right).max()


def test_even_images_equal_timm_at_every_unit():
  """Covers even sizes, where SAME pads one side only."""
  fields = efficientnets.tiny()
  params = efficientnets.params_of(fields)
  images = np.random.default_rng(2).normal(size=(2, 32, 40, 3)).astype('f4')
  port = efficientnets.in_timm(fields, params).double()
  outputs = {}
  for name, module in port.named_modules():
    if name.count('.') == 2 and name.startswith('blocks.'):
      stage, unit = map(int, name.split('.')[1:])
      module.register_forward_hook(
        lambda _, __, y, key=f'block{stage + 1}/unit{unit + 1:02d}': (
          outputs.update({key: y.detach().numpy().transpose(0, 2, 3, 1)})
        )
      )
  port(torch.from_numpy(images.transpose(0, 3, 1, 2)).double())
  apply = jax.jit(models.create(fields).apply, static_argnames='mutable')
  _, state = apply({'params': params}, images, mutable=INTERMEDIATES)
  named = state[INTERMEDIATES]
  assert set(named) == {*outputs, 'stem', 'top', 'pre_logits'}
  for name, theirs in outputs.items():
    scale = np.abs(theirs).max()
    assert np.abs(named[name][0] - theirs).max() < 2e-6 * scale, name


def test_drop_rates_rise_from_zero_and_drop_whole_branches():
  fields = efficientnets.tiny(stochastic_depth_rate=0.6, dropout_rate=0.0)
  params = efficientnets.params_of(fields)
  image = np.random.default_rng(3).normal(size=(1, 32, 32, 3)).astype('f4')
  images = np.repeat(image, 64, axis=0)
  apply = jax.jit(
    models.create(fields).apply, static_argnames=('train', 'mutable')
  )

  def units(train):
    _, state = apply(
      {'params': params},
      images,
      train=train,
      rngs={'dropout': jax.random.key(0)},
      mutable=INTERMEDIATES,
    )
    return {k: np.asarray(v[0]) for k, v in state[INTERMEDIATES].items()}

  trained, evaluated = units(True), units(False)
  # Only the last unit of the two blocks adds its input: unit 2 of 0, 1, 2.
  inputs = trained['block2/unit01']
  np.testing.assert_array_equal(inputs, evaluated['block2/unit01'])
  kept = np.abs(trained['block2/unit02'] - inputs).max(axis=(1, 2, 3)) > 0
  rate = 0.6 * 2 / 3
  assert abs(1 - kept.mean() - rate) < 0.15
  branch = evaluated['block2/unit02'] - evaluated['block2/unit01']
  np.testing.assert_allclose(
    trained['block2/unit02'][kept],
    (inputs + branch / (1 - rate))[kept],
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.parametrize(
  ('channels', 'width', 'rounded'),
  # The second would lose more than 10 % if it were rounded to 8.
  [(32, 4.3, 136), (16, 0.7, 16), (24, 1.1, 24), (1280, 1.2, 1536), (2, 1, 8)],
)
def test_round_channels(channels, width, rounded):
  assert efficientnet.round_channels(channels, width) == rounded


def test_round_units_rounds_up():
  assert efficientnet.round_units(4, 5.3) == 22
  assert efficientnet.round_units(2, 1.0) == 2


def test_create_rejects_blocks_of_several_numbers():
  model = models.create(efficientnets.tiny(kernel_sizes=(3, 3, 5)))
  with pytest.raises(InputError, match='each has a number for each block'):
    parameter_shapes(model, (32, 32))


def test_state_dict_round_trip_is_exact():
  fields = efficientnets.tiny()
  params = efficientnets.params_of(fields)
  state = efficientnets.in_timm(fields, params).state_dict()
  counters = [name for name in state if name.endswith('num_batches_tracked')]
  arrays = {name: tensor.numpy() for name, tensor in state.items()}
  back = trees.flatten(ports.from_state_dict(arrays))
  flat = trees.flatten(params)
  assert back.keys() == flat.keys()
  assert all(np.array_equal(back[name], flat[name]) for name in flat)
  again = ports.to_state_dict(ports.from_state_dict(arrays), 'timm')
  assert again.keys() == state.keys() - set(counters)
  assert all(np.array_equal(again[name], arrays[name]) for name in again)
