"""Learning rates that fall from layer to layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.training import layer_decay, objectives, optim, steps
from vit_jax_repro.weights import trees

pytestmark = pytest.mark.quick

# 0.75 ** (13 - n) for the layers n of a model with 12 blocks.
BASE = {
  '': 0.0237572640,  # everything else
  'Transformer/encoderblock_0/': 0.0316763520,
  'Transformer/encoderblock_1/': 0.0422351360,
  'Transformer/encoderblock_2/': 0.0563135147,
  'Transformer/encoderblock_3/': 0.0750846863,
  'Transformer/encoderblock_4/': 0.1001129150,
  'Transformer/encoderblock_5/': 0.1334838867,
  'Transformer/encoderblock_6/': 0.1779785156,
  'Transformer/encoderblock_7/': 0.2373046875,
  'Transformer/encoderblock_8/': 0.3164062500,
  'Transformer/encoderblock_9/': 0.4218750000,
  'Transformer/encoderblock_10/': 0.5625,
  'Transformer/encoderblock_11/': 0.75,
  'Transformer/encoder_norm/': 1.0,
  'head/': 1.0,
  'pre_logits/': 1.0,
}
# 0.5 ** (3 - n) for models with 2 blocks.
TABLES = {
  'distilled': {
    '': 0.125,  # embedding, positions, cls, dist
    'Transformer/encoderblock_0/': 0.25,
    'Transformer/encoderblock_1/': 0.5,
    'Transformer/encoder_norm/': 1.0,
    'head/': 1.0,
    'head_dist/': 1.0,
  },
  'registers': {
    '': 0.125,  # registers too
    'Transformer/encoderblock_0/': 0.25,
    'Transformer/encoderblock_1/': 0.5,
    'fc_norm/': 1.0,
    'head/': 1.0,
  },
  'hybrid': {
    '': 0.125,  # the stem too, whose block1 is no block of the encoder
    'Transformer/encoderblock_0/': 0.25,
    'Transformer/encoderblock_1/': 0.5,
    'Transformer/encoder_norm/': 1.0,
    'MAPHead_0/': 1.0,
    'head/': 1.0,
  },
  'mixer': {
    'stem/': 0.125,
    'MixerBlock_0/': 0.25,
    'MixerBlock_1/': 0.5,
    'pre_head_layer_norm/': 1.0,
    'head/': 1.0,
  },
  'bit': {
    'root_block/': 0.125,
    'block1/': 0.25,
    'block2/': 0.5,
    'group_norm/': 1.0,
    'head/': 1.0,
  },
}
FAMILIES = {
  'distilled': dict(tiny_models.VIT, distilled=True),
  'registers': dict(
    tiny_models.VIT,
    layer_scale_init=0.5,
    num_registers=2,
    classifier='gap',
    fc_norm=True,
  ),
  'hybrid': dict(
    tiny_models.VIT, patch_size=[1, 1], stem_num_layers=[1], classifier='map'
  ),
  'mixer': dict(tiny_models.MIXER, num_blocks=2),
  'bit': dict(tiny_models.BIT, block_units=[1, 1]),
}


def check(model, image_size, decay, table):
  """Compares the update of every parameter with the table."""
  images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  tx = layer_decay.scaled_by_layer(optax.sgd(1.0), decay, model)
  # One number for each parameter.
  gradients = jax.tree.map(lambda x: jnp.ones((1,) * len(x.shape)), shapes)
  updates, _ = tx.update(gradients, tx.init(gradients), gradients)
  used = set()
  for name, update in trees.flatten(updates).items():
    start = max((x for x in table if name.startswith(x)), key=len)
    used.add(start)
    np.testing.assert_allclose(update, -table[start], rtol=1e-6, err_msg=name)
  assert used == table.keys()


def test_rates_of_a_base_model_equal_the_table():
  model = models.create('ViT-B_16', num_classes=10, representation_size=768)
  check(model, (224, 224), 0.75, BASE)


@pytest.mark.parametrize('family', TABLES)
def test_rates_of_families_equal_the_table(family):
  model = models.create(tiny_models.spec(10, FAMILIES[family]))
  check(model, (8, 8), 0.5, TABLES[family])


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_twenty_updates_equal_an_optimiser_for_each_layer(name):
  """Weight decay has the layer's rate, too, and blocks may be stacked."""
  rates = {0: 0.125, 1: 0.25, 2: 0.5, 3: 1.0}
  table = TABLES['distilled']
  unrolled, stacked = (
    models.create(tiny_models.spec(10, scan=scan)) for scan in (False, True)
  )
  params = tiny_models.params_of(tiny_models.spec(10))

  def made(rate=1.0):
    return optim.create_optimizer(
      name, lambda step: rate * 0.01 * (step + 1), weight_decay=0.1
    )

  flat = trees.flatten(params)
  labels = {
    key: table[max((x for x in table if key.startswith(x)), key=len)]
    for key in flat
  }
  by_hand = optax.multi_transform(
    {rate: made(rate) for rate in rates.values()}, trees.nest(labels)
  )

  def trained(model, tx, params):
    objective = objectives.classification(model)
    step = jax.jit(
      lambda state, batch: steps.train_step(
        state, batch, objective=objective, tx=tx
      )
    )
    state = steps.create_state(params, tx)
    generator = np.random.default_rng(0)
    for _ in range(20):
      images = generator.uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
      labels = generator.integers(0, 10, 4).astype(np.int32)
      state, _ = step(state, {'image': images, 'label': labels})
    return trees.unstack(trees.flatten(jax.device_get(state.params)))

  wanted = trained(unrolled, by_hand, params)
  start = trees.nest(trees.stack(flat))
  for model, begin in ((unrolled, params), (stacked, start)):
    tx = layer_decay.scaled_by_layer(made(), 0.5, model)
    found = trained(model, tx, begin)
    assert found.keys() == wanted.keys()
    for key, value in found.items():
      # The gradient of a key's bias is rounding noise, which Adam follows.
      if 'key/bias' not in key:
        np.testing.assert_allclose(
          value, wanted[key], rtol=1e-4, atol=1e-5, err_msg=key
        )


@pytest.mark.parametrize('decay', [0, -0.5, 1.01])
def test_scaled_by_layer_rejects_other_factors(decay):
  model = models.create(tiny_models.spec(10))
  with pytest.raises(ValueError, match='must be above 0 and at most 1'):
    layer_decay.scaled_by_layer(optax.sgd(1.0), decay, model)
