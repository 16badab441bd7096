"""Makes small states to save, and lists the checkpoints of a folder."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro.parallel import mesh
from vit_jax_repro.training import optim, steps


def make_state(device_mesh, value=1.0, step=3, classes=4):
  noise = np.random.default_rng(step).normal(size=(64, 64))
  params = {
    'block': {'kernel': noise.astype(np.float32)},
    'embedding': {'kernel': np.full((2, 2, 3, 8), value, np.float32)},
    'head': {'kernel': np.full((8, classes), value, np.float32)},
  }
  tx = optim.create_optimizer(
    'sgd', lambda _: 0.1, accumulator_dtype='bfloat16', grad_clip_norm=1.0
  )
  state = steps.create_state(params, tx, seed=5)
  state = state.replace(step=jnp.int32(step))
  return mesh.put(state, mesh.parameter_sharding(state, device_mesh))


def devices(count):
  return mesh.create_mesh(count, devices=jax.devices()[:count])


def largest(folder):
  files = [p for p in (folder / 'state').glob('*/d/*') if p.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def steps_in(folder):
  if not folder.exists():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
