"""Tests that training depends on neither the mesh nor the processes."""

import dataclasses
import functools
import json
import re
import shutil

import child_processes
import jax
import numpy as np
import pytest
import tiny_models
from training_sets import write_folder

from vit_jax_repro import jobs, models, weights
from vit_jax_repro.parallel import mesh as meshes
from vit_jax_repro.parallel import processes
from vit_jax_repro.training import averaging, mixing, objectives, optim, steps

BATCH, SIZE, CLASSES, STEPS = 24, 8, 10, 10
DATA, FSDP, MIXED = dict(), dict(fsdp=8), dict(data=2, fsdp=2, model=2)
VIT = dict(tiny_models.VIT, num_heads=4, num_layers=1)
RANDOM = dict(dropout_rate=0.1, stochastic_depth_rate=0.2)
FAMILIES = {  # the model, and arguments of the update
  'vit': (dict(VIT, **RANDOM), dict(optim='adamw', mixup=0.8)),
  'three heads': (dict(VIT, num_heads=3, hidden_size=24), {}),
  'scanned': (
    dict(VIT, num_layers=2, scan=True, remat=True, classifier='map'),
    {},
  ),
  'mixer': (tiny_models.MIXER, dict(accum_steps=3)),
  'bit': (tiny_models.BIT, {}),
}


@dataclasses.dataclass(frozen=True)
class Trained:
  losses: list
  params: dict  # on the mesh
  text: str  # of the compiled update
  bytes: int  # of the state, on each device


def batch_of(number):
  generator = np.random.default_rng(number)
  labels = generator.integers(0, CLASSES, BATCH)
  images = generator.uniform(-1, 1, (BATCH, SIZE, SIZE, 3))
  images += labels[:, None, None, None] / CLASSES  # something to learn
  return {'image': images.astype(np.float32), 'label': labels.astype(np.int32)}


def optimizer(name):
  adam = name == 'adamw'
  schedule = optim.create_schedule(
    base_lr=3e-3 if adam else 0.03, total_steps=STEPS
  )
  decay = dict(weight_decay=0.1) if adam else {}
  tx = optim.create_optimizer(name, schedule, grad_clip_norm=1.0, **decay)
  return averaging.averaged(tx, 0.9)


def train(family, sizes, num_devices=8, accum_steps=None):
  """Trains from the same parameters on the same global batches."""
  base, how = FAMILIES[family]
  architecture = tiny_models.spec(CLASSES, base)
  params = tiny_models.params_of(architecture, (SIZE, SIZE))
  mesh = meshes.create_mesh(**sizes, devices=jax.devices()[:num_devices])
  tx = optimizer(how.get('optim', 'sgd'))
  create = functools.partial(steps.create_state, tx=tx, seed=1)
  shardings = meshes.parameter_sharding(jax.eval_shape(create, params), mesh)
  state = jax.jit(create, out_shardings=shardings)(
    meshes.put(params, shardings.params)
  )
  objective = objectives.classification(
    models.create(architecture), loss='softmax'
  )
  mixup = functools.partial(
    mixing.mixup, alpha=how.get('mixup'), num_classes=CLASSES
  )
  update = jax.jit(
    functools.partial(
      steps.train_step,
      objective=objective,
      tx=tx,
      mesh=mesh,
      accum_steps=accum_steps or how.get('accum_steps', 1),
      augment=mixup if 'mixup' in how else None,
    ),
    donate_argnums=0,
    out_shardings=(shardings, meshes.replicated(mesh)),
  )
  update = update.lower(state, put(0, mesh)).compile()
  num_bytes = meshes.bytes_per_device(state)
  losses = []
  for number in range(STEPS):
    old = state
    state, metrics = update(state, put(number, mesh))
    losses.append(float(metrics['loss']))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
  params = averaging.evaluated(state)
  return Trained(losses, params, update.as_text(), num_bytes)


def put(number, mesh):
  """Puts the part of this process of a global batch on its devices."""
  size = BATCH // jax.process_count()
  rows = slice(jax.process_index() * size, (jax.process_index() + 1) * size)
  part = {key: value[rows] for key, value in batch_of(number).items()}
  return meshes.to_global(part, mesh)


@functools.cache
def alone(family):
  """Trains on one device, without gradient accumulation."""
  return train(family, DATA, num_devices=1, accum_steps=1)


def check_alike(family, losses, params):
  whole = alone(family)
  assert whole.losses[-1] < whole.losses[0]
  np.testing.assert_allclose(losses, whole.losses, rtol=1e-5)

  def check(path, value, wanted):
    # The gradient of a key's bias is only rounding error, and Adam divides it
    # by its own size.
    if 'key/bias' not in jax.tree_util.keystr(path, simple=True, separator='/'):
      np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=2e-5)

  jax.tree.map_with_path(check, params, jax.device_get(whole.params))


def gathered(text):
  """Returns shapes with a row per example that devices gather or sum."""
  found = re.findall(
    r'= \(?(\w+\[[\d,]*\]).* (?:all-gather|all-reduce|all-to-all)', text
  )
  return [shape for shape in found if re.search(rf'[\[,]{BATCH}[,\]]', shape)]


@pytest.mark.parametrize(
  'family, sizes',
  [
    ('vit', DATA),
    ('vit', FSDP),
    ('vit', MIXED),
    ('three heads', MIXED),
    ('scanned', FSDP),
    ('mixer', MIXED),
    ('bit', FSDP),
  ],
)
def test_train_step_gives_the_same_parameters_on_every_mesh(family, sizes):
  trained = train(family, sizes)
  check_alike(family, trained.losses, jax.device_get(trained.params))
  if family in ('vit', 'scanned'):  # no dimension equals the batch size
    assert not gathered(trained.text)
  if 'fsdp' in sizes:
    assert trained.bytes < alone(family).bytes / 2


def whole(params):
  """Gathers parameters in every process, by one program."""
  mesh = jax.tree.leaves(params)[0].sharding.mesh
  gather = jax.jit(lambda tree: tree, out_shardings=meshes.replicated(mesh))
  return jax.device_get(gather(params))


def one_of_two(port, index, path):
  """Trains on four of eight devices."""
  processes.initialize(f'localhost:{port}', 2, index, timeout=60)
  assert jax.local_device_count() == 4 and jax.device_count() == 8
  for name, sizes in {'fsdp': FSDP, 'mixed': MIXED}.items():
    trained = train('vit', sizes)
    params = whole(trained.params)
    if processes.is_first():
      weights.save(path / f'{name}.npz', params)
    print('LOSSES', json.dumps(trained.losses))


def in_two_processes(function, *arguments, **keys):
  """Starts a function in two processes and returns the Children."""
  port = child_processes.free_port()
  return [
    child_processes.Child(function, port, index, *arguments, devices=4, **keys)
    for index in range(2)
  ]


def test_train_step_gives_the_same_parameters_in_two_processes(tmp_path):
  children = in_two_processes(one_of_two, tmp_path)
  codes = [child.wait() for child in children]
  assert codes == [0, 0], [child.stderr for child in children]
  lines = [re.findall('LOSSES (.*)', child.stdout) for child in children]
  assert lines[0] == lines[1] and len(lines[0]) == 2
  for name, losses in zip(('fsdp', 'mixed'), lines[0], strict=True):
    params = weights.load(tmp_path / f'{name}.npz')
    check_alike('vit', json.loads(losses), params)


def settings(folder, **mesh):
  return dict(
    dataset=str(folder),
    model=tiny_models.VIT | dict(num_heads=4, dropout_rate=0.1, num_layers=1),
    optim='adamw',
    base_lr=3e-3,
    total_steps=8,
    batch=16,
    mixup_alpha=0.5,
    batch_eval=40,
    progress_every=1,
    checkpoint_every=4,
    pp=dict(train='train', test='train', crop=8),
    mesh=mesh,
  )


def losses_of(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line)['train_loss'] for line in lines]


def test_train_resumes_on_one_two_and_four_devices(tmp_path):
  folder = write_folder(tmp_path / 'digits', 40)
  whole = tmp_path / 'whole'
  jobs.train(settings(folder, fsdp=8), whole, show=False)
  losses, params = losses_of(whole), weights.load(whole / 'model.npz')
  # Leaves the checkpoint of the fourth update.
  shutil.rmtree(whole / 'checkpoints' / '8')
  sizes = {1: {}, 2: dict(fsdp=2), 4: dict(data=2, model=2)}
  for number, mesh in sizes.items():
    run = tmp_path / f'on {number}'
    shutil.copytree(whole, run)
    (run / 'model.npz').unlink()
    child = child_processes.Child(
      functools.partial(jobs.train, show=False),
      settings(folder, **mesh),
      str(run),
      devices=number,
    )
    assert not child.wait(), child.stderr
    assert len(losses) == 8
    np.testing.assert_allclose(losses_of(run), losses, rtol=1e-5)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
      {
        k: v
        for k, v in weights.load(run / 'model.npz').items()
        if 'key/' not in k
      },
      params,
    )
