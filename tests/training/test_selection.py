"""Training a part of a model: what is selected, and what it saves."""

import functools

import efficientnets
import jax
import numpy as np
import optax
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.analysis import collectives, hlo
from vit_jax_repro.parallel import mesh as meshes
from vit_jax_repro.training import (
  averaging,
  objectives,
  optim,
  selection,
  steps,
)
from vit_jax_repro.weights import trees

BATCH, SIZE, CLASSES = 16, 8, 10
FAMILIES = {
  'vit': tiny_models.VIT,
  'scanned': dict(tiny_models.VIT, scan=True),
  'remat': dict(tiny_models.VIT, remat=True),
  'hybrid': dict(tiny_models.VIT, patch_size=[1, 1], stem_num_layers=[1]),
  'map': dict(tiny_models.VIT, classifier='map', representation_size=8),
  'distilled': dict(tiny_models.VIT, distilled=True),
  'registers': dict(
    tiny_models.VIT, num_registers=2, fc_norm=True, classifier='gap'
  ),
  'masked': dict(
    tiny_models.VIT, corruptible=True, classifier='token_unpooled'
  ),
  'mixer': dict(tiny_models.MIXER, num_blocks=2),
  # The norm of a single value would amplify rounding noise.
  'bit': dict(tiny_models.BIT, block_units=[1, 1], groups=8),
}


@functools.cache
def built(family):
  """Returns a model of a family and its parameters."""
  architecture = tiny_models.spec(CLASSES, FAMILIES[family])
  params = tiny_models.params_of(architecture, (SIZE, SIZE))
  return models.create(architecture), params


def chosen(family, train):
  """Returns the names that are trained, without their last part."""
  model, params = built(family)
  names = selection.select(params, model, train)
  return names and {name.rpartition('/')[0] or name for name in names}


def tops(family, train):
  """Returns the trained blocks and layers."""
  return {
    '/'.join(name.split('/')[: 2 if name.startswith('Tr') else 1])
    for name in chosen(family, train)
  }


VIT_LAST = {'Transformer/encoderblock_1', 'Transformer/encoder_norm', 'head'}


@pytest.mark.parametrize(
  ('family', 'train', 'wanted'),
  [
    ('vit', 'head', {'head'}),
    ('scanned', 'head', {'head'}),
    ('mixer', 'head', {'head'}),
    ('bit', 'head', {'head'}),
    ('distilled', 'head', {'head', 'head_dist'}),
    ('vit', 'last:1', VIT_LAST),
    ('vit', 'last:2', VIT_LAST | {'Transformer/encoderblock_0'}),
    ('hybrid', 'last:1', VIT_LAST),
    ('map', 'last:1', VIT_LAST | {'MAPHead_0', 'pre_logits'}),
    ('distilled', 'last:1', VIT_LAST | {'head_dist'}),
    ('masked', 'last:1', VIT_LAST),
    (
      'registers',
      'last:1',
      {'Transformer/encoderblock_1', 'fc_norm', 'head'},
    ),
    ('registers', '^registers$', {'registers'}),
    ('mixer', 'last:1', {'MixerBlock_1', 'pre_head_layer_norm', 'head'}),
    ('bit', 'last:1', {'block2', 'group_norm', 'head'}),
    ('vit', 'block_1/Mlp|^cls$', {'Transformer/encoderblock_1', 'cls'}),
    ('scanned', 'encoderblock', {'Transformer/encoderblock'}),
  ],
)
def test_select_names_whole_layers(family, train, wanted):
  assert tops(family, train) == wanted


def test_select_searches_an_expression_in_paths():
  model, params = built('vit')
  found = selection.select(params, model, 'Dense_1/bias')
  assert found == {
    f'Transformer/encoderblock_{i}/MlpBlock_0/Dense_1/bias' for i in (0, 1)
  }


@pytest.mark.parametrize('train', ['all', '', '.', 'kernel|bias|scale|cls|pos'])
def test_select_is_none_for_all_parameters(train):
  assert chosen('vit', train) is None


@pytest.mark.parametrize(
  ('family', 'train', 'text'),
  [
    ('vit', 'last:3', 'the model has 2 blocks; choose last:1 to last:2'),
    ('vit', 'last:0', 'choose last:1 to last:2'),
    ('vit', 'last:x', 'choose last:1 to last:2'),
    ('bit', 'last:4', 'the model has 2 blocks'),
    ('scanned', 'last:1', 'set --config.model.scan=False'),
    ('vit', '(', 'is no regular expression (missing ), unterminated subp'),
    ('vit', 'Block_x', 'Transformer/encoderblock_0/LayerNorm_0'),
  ],
)
def test_select_refuses_what_the_model_lacks(family, train, text):
  with pytest.raises(ValueError) as error:
    chosen(family, train)
  line = str(error.value)
  assert text in line and '\n' not in line
  assert line.startswith(f'config.train={train!r}')


def update_of(family, train=None, mask=None, accum_steps=1, mesh=None):
  """Returns a compiled update and its initial state.

  Args:
    family: a key of `FAMILIES`.
    train: what is trained, by `selection`.
    mask: what is trained, as a function of a name, by a mask of optax.
    accum_steps: as for `steps.train_step`.
    mesh: the devices; one by default.
  """
  model, params = built(family)
  tx = optim.create_optimizer(
    'sgd' if family == 'bit' else 'adamw',
    lambda step: 1e-3 * (step + 1),
    weight_decay=0.1,
    decay='kernels',
    grad_clip_norm=0.5,
  )
  trained = train and selection.select(params, model, train)
  if mask:
    flat = trees.flatten(params)
    labels = trees.nest({name: mask(name) for name in flat})
    tx = optax.multi_transform({True: tx, False: optax.set_to_zero()}, labels)
  tx = averaging.averaged(tx, 0.9)
  mesh = mesh or meshes.create_mesh(devices=jax.devices()[:1])
  create = functools.partial(steps.create_state, tx=tx, trained=trained)
  shardings = meshes.parameter_sharding(jax.eval_shape(create, params), mesh)
  state = jax.jit(create, out_shardings=shardings)(
    meshes.put(params, shardings.params)
  )
  step = functools.partial(
    steps.train_step,
    objective=objectives.classification(model),
    tx=tx,
    mesh=mesh,
    accum_steps=accum_steps,
    trained=trained,
  )
  step = jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(shardings, meshes.replicated(mesh)),
  )
  return step.lower(state, batch_of(0, mesh)).compile(), state


def batch_of(number, mesh):
  generator = np.random.default_rng(number)
  batch = {
    'image': generator.uniform(-1, 1, (BATCH, SIZE, SIZE, 3)),
    'label': generator.integers(0, CLASSES, BATCH),
  }
  batch = {
    k: v.astype('f4' if k == 'image' else 'i4') for k, v in batch.items()
  }
  return meshes.to_global(batch, mesh)


def after_20_updates(update, state):
  """Returns parameters and averages after 20 updates, and the metrics."""
  mesh = meshes.create_mesh(devices=jax.devices()[:1])
  metrics = []
  for number in range(20):
    state, found = update(state, batch_of(number, mesh))
    metrics.append(jax.device_get(found))
  trained = trees.flatten(jax.device_get(state.params))
  return trained, trees.flatten(averaging.evaluated(state)), metrics


@pytest.mark.parametrize(
  ('family', 'train', 'wanted', 'accum_steps'),
  [
    ('distilled', 'head', ('head/', 'head_dist/'), 1),
    ('remat', 'last:1', tuple(f'{name}/' for name in VIT_LAST), 2),
    ('mixer', 'token_mixing', ('MixerBlock_0/to', 'MixerBlock_1/to'), 1),
    ('bit', 'last:1', ('block2/', 'group_norm/', 'head/'), 1),
  ],
)
def test_training_a_part_equals_a_mask_of_optax(
  family, train, wanted, accum_steps
):
  """Compares 20 updates with clipping, weight decay and averages."""
  params, averages, metrics = after_20_updates(
    *update_of(family, train, accum_steps=accum_steps)
  )
  others, other_averages, other_metrics = after_20_updates(
    *update_of(
      family, mask=lambda n: n.startswith(wanted), accum_steps=accum_steps
    )
  )
  start = trees.flatten(built(family)[1])
  assert params.keys() == others.keys() == averages.keys() == start.keys()
  for name, value in params.items():
    close = functools.partial(
      np.testing.assert_allclose, rtol=1e-6, atol=1e-7, err_msg=name
    )
    close(value, others[name])
    close(averages[name], other_averages[name])
    is_trained = name.startswith(wanted)
    assert (value != start[name]).any() == is_trained, name
    assert (averages[name] != start[name]).any() == is_trained, name
  for found, other in zip(metrics, other_metrics, strict=True):
    np.testing.assert_allclose(found['loss'], other['loss'], rtol=1e-6)
  assert metrics[0]['grad_norm'] < other_metrics[0]['grad_norm']


def test_optimiser_has_moments_of_the_trained_parameters_only():
  _, state = update_of('vit', 'head')
  assert set(trees.flatten(state.opt_state.average)) == {
    'head/kernel', 'head/bias'
  }  # fmt: skip
  moments = jax.tree.leaves(state.opt_state.inner)
  assert sum(leaf.size for leaf in moments if leaf.ndim) == 2 * (16 + 1) * 10


@pytest.fixture(scope='module')
def programs():
  """Compiled updates of a ViT on 8 devices, by what they train."""
  mesh = meshes.create_mesh()
  return {
    train: update_of('vit', train, mesh=mesh)[0]
    for train in ('last:1', 'head', '^embedding')
  }


def test_frozen_blocks_have_no_product_in_the_backward_pass(programs):
  """Counts the products of two blocks and a head.

  A block has 6 products with parameters and 2 without. Each has two gradients,
  of which one is that of a parameter.
  """
  forward = 2 * 8 + 1
  backward = {'head': 1, 'last:1': 2 + 16, '^embedding': 1 + 2 * (6 + 2 * 2)}
  for train, program in programs.items():
    products = program.as_text().count(' dot(')
    assert products == forward + backward[train], train


def test_devices_sum_gradients_of_trained_parameters_only(programs):
  """Sums hold one number for each trained parameter, and two metrics."""
  model, params = built('vit')
  flat = trees.flatten(params)
  for train, program in programs.items():
    module = hlo.HloModule(program.as_text())
    found = collectives.find(module, dict(meshes.create_mesh().shape))
    summed = sum(array.size for each in found for array in each.arrays)
    names = selection.select(params, model, train)
    assert summed == sum(flat[name].size for name in names) + 2, train


@functools.cache
def efficientnet():
  """Returns a small EfficientNet and its parameters."""
  fields = efficientnets.tiny(top_channels=8)
  return models.create(fields), efficientnets.params_of(fields)


@pytest.mark.parametrize('train', ['all', 'last:1', 'block2|norm', 'head'])
def test_select_leaves_statistics_out(train):
  model, params = efficientnet()
  names = selection.select(params, model, train)
  trained = trees.flatten(selection.part(params, names))
  assert trained
  assert not any(name.endswith(('/mean', '/var')) for name in trained)
  if train == 'all':
    assert len(trained) == len(trees.flatten(params)) - 2 * 10


@pytest.mark.parametrize('trained', [None, frozenset(['head/kernel'])])
def test_update_leaves_statistics_alone(trained):
  """Weight decay and averages would change them, were they parameters."""
  model, params = efficientnet()
  schedule = optim.create_schedule(base_lr=0.1, total_steps=9)
  tx = optim.create_optimizer('sgd', schedule, weight_decay=0.1)
  tx = averaging.averaged(tx, 0.9)
  state = steps.create_state(params, tx, trained=trained)
  batch = {
    'image': np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype('f4'),
    'label': np.arange(4),
  }
  new, metrics = jax.jit(
    functools.partial(
      steps.train_step,
      objective=objectives.classification(model),
      tx=tx,
      trained=trained,
    )
  )(state, batch)
  assert metrics['grad_norm'] > 0
  averages = trees.flatten(new.opt_state.average)
  assert not any(map(trees.is_statistic, averages))
  before, after = trees.flatten(params), trees.flatten(new.params)
  evaluated = trees.flatten(averaging.evaluated(new))
  assert before.keys() == after.keys() == evaluated.keys()
  changed = {n for n in before if not np.array_equal(before[n], after[n])}
  assert 'head/kernel' in changed
  for name in filter(trees.is_statistic, before):
    np.testing.assert_array_equal(before[name], after[name])
    np.testing.assert_array_equal(before[name], evaluated[name])
  if trained is None:
    assert {n for n in before if not trees.is_statistic(n)} - changed == set()
