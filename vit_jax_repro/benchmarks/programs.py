"""Programs to measure: an update or a forward pass of a named model.

The update is the one of `runs.train` on synthetic images: softmax loss,
gradients clipped to norm 1, AdamW. Dropout is off, as in the released
fine-tuning.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro import models
from vit_jax_repro.analysis import cost
from vit_jax_repro.data import batches
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import attention
from vit_jax_repro.parallel import mesh as mesh_lib
from vit_jax_repro.parallel import targets
from vit_jax_repro.training import dividing, objectives, optim, steps

NUM_CLASSES = 1000
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 0.1, 1.0
# Fields of the model that do not change its results.
VARIANTS: dict[str, dict[str, Any]] = {
  'plain': {},
  'scan': {'scan': True},
  'remat': {'remat': True},
  'scan+remat': {'scan': True, 'remat': True},
  'remat:dots': {'remat': True, 'remat_policy': 'dots'},
  'scan+remat:dots': {'scan': True, 'remat': True, 'remat_policy': 'dots'},
}
_NO_DROPOUT = ('dropout_rate', 'attention_dropout_rate')


@dataclasses.dataclass(frozen=True)
class Case:
  """A program to measure, in one row of a table.

  Attributes:
    kind: 'train' or 'infer'.
    model: name of the model.
    batch_size: images of a batch, over all devices.
    dtype: dtype of the computation, 'float32' or 'bfloat16'. Parameters and
      optimiser state are float32 in training. In inference, the parameters
      have this dtype.
    image_size: (H, W) pixels.
    scan, remat: fields of the model; False if it does not have them.
    remat_policy: field of the model; 'nothing' if it does not have it.
    mesh: sizes of the axes, the arguments of `mesh.create_mesh`.
    target: hardware to compile for, see `targets.parse`; None for this
      machine.
  """

  kind: str
  model: str
  batch_size: int
  dtype: str
  image_size: tuple[int, int]
  scan: bool = False
  remat: bool = False
  remat_policy: str = 'nothing'
  mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
  target: str | None = None


def variant(case: Case, name: str) -> Case:
  """Returns the case with the fields of a key of `VARIANTS`."""
  return dataclasses.replace(case, **VARIANTS[name])


def read_mesh(
  text: str | None, target: targets.Target | None = None
) -> dict[str, int]:
  """Returns {'data': 2, 'fsdp': 4} for 'data=2,fsdp=4'.

  Without a target, sets XLA_FLAGS so that a CPU shows that many devices, in
  this process and its children. This has no effect after JAX has looked for
  its devices.

  Args:
    text: value of `--mesh`, or None.
    target: the hardware whose number of devices replaces `all`.

  Raises:
    InputError: an axis or a size is unknown.
  """
  if text is None:
    return {}
  sizes = {}
  for part in text.split(','):
    axis, _, size = part.partition('=')
    if size == 'all' and target is not None:
      size = str(target.num_devices)
    if axis not in mesh_lib.AXES or not size.isdecimal() or not int(size):
      raise InputError(
        f'--mesh={text} must be sizes of {", ".join(mesh_lib.AXES)}, such as '
        'data=2,fsdp=4, or with a --target also fsdp=all'
      )
    sizes[axis] = int(size)
  # JAX reads the flag when it looks for CPU devices. GPUs and TPUs ignore it.
  number = math.prod(sizes.values())
  flag = '--xla_force_host_platform_device_count'
  before = os.environ.get('XLA_FLAGS', '')
  if number > 1 and target is None and flag not in before:
    os.environ['XLA_FLAGS'] = f'{before} {flag}={number}'.strip()
  return sizes


def devices(case: Case) -> list[Any]:
  """Returns the devices of a case, which need not exist with a target."""
  if case.target is None:
    return jax.devices()
  return targets.parse(case.target).devices()


def shards(case: Case) -> int:
  """Returns the number of parts that a batch is divided into."""
  mesh = mesh_lib.create_mesh(**case.mesh, devices=devices(case))
  return mesh_lib.batch_shards(mesh)


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function, not yet compiled, with the shapes of its arguments.

  Attributes:
    function: jitted; (state, batch) -> (state, metrics), or (params, batch)
      -> logits.
    arguments: shapes with shardings.
    create: () -> the arguments as arrays on the mesh.
    case: the case that it was created from.
    mesh: the devices.
    params: shapes of the parameters.
  """

  function: jax.stages.Wrapped
  arguments: tuple[Any, Any]
  create: Callable[[], tuple[Any, Any]]
  case: Case
  mesh: jax.sharding.Mesh
  params: Any


def create_model(case: Case) -> nn.Module:
  """Returns the linen module of a case.

  Raises:
    InputError: the model is unknown, has no blocks to scan, or has no
      remat_policy.
  """
  model = models.create(
    models.image_fields(case.model), num_classes=NUM_CLASSES, dtype=case.dtype
  )
  if case.scan and not hasattr(model, 'scan'):
    raise InputError(
      f'{case.model} has no equal blocks to scan; leave out the variant'
    )
  fields: dict[str, Any] = {
    name: 0.0 for name in _NO_DROPOUT if hasattr(model, name)
  }
  if hasattr(model, 'scan'):
    fields['scan'] = case.scan
  if hasattr(model, 'remat_policy'):
    fields['remat_policy'] = case.remat_policy
  elif case.remat_policy != 'nothing':
    raise InputError(f'{case.model} has no remat_policy; leave out the variant')
  return model.clone(**fields, remat=case.remat)


def create(case: Case) -> Program:
  """Returns the program of a case, before any computation or compilation.

  Raises:
    InputError: the model is unknown, or the image or batch size does not suit
      the model or the mesh.
  """
  mesh = mesh_lib.create_mesh(**case.mesh, devices=devices(case))
  model = attention.resolve(create_model(case), mesh.devices.flat[0])
  parts = mesh_lib.batch_shards(mesh)
  if case.batch_size % parts:
    raise InputError(
      f'a batch of {case.batch_size} does not divide over {parts} devices; '
      'choose a multiple'
    )
  create_state, function = _functions(case, model, mesh)
  shapes = jax.eval_shape(create_state)
  shardings = mesh_lib.parameter_sharding(shapes, mesh)
  batch_sharding = mesh_lib.batch_sharding(mesh)

  def arrays():
    state = jax.jit(create_state, out_shardings=shardings)()
    return state, mesh_lib.to_global(_batch(case), mesh)

  return Program(
    function=jax.jit(
      function,
      donate_argnums=(0,) if case.kind == 'train' else (),
      out_shardings=_result(case, shardings, mesh),
    ),
    arguments=(
      mesh_lib.with_shardings(shapes, shardings),
      jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=batch_sharding
        ),
        _batch_shapes(case),
      ),
    ),
    create=arrays,
    case=case,
    mesh=mesh,
    params=shapes.params if case.kind == 'train' else shapes,
  )


def compile(program: Program) -> jax.stages.Compiled:
  """Returns the program as compiled by XLA."""
  return program.function.lower(*program.arguments).compile()


def run(
  program: Program, compiled: jax.stages.Compiled | None = None
) -> Callable[[int], None]:
  """Returns a function that runs a given number of steps and waits for them.

  The program is compiled if necessary, its arrays are created and one step is
  run before this function returns.
  """
  compiled = compile(program) if compiled is None else compiled
  state, batch = program.create()

  def make_steps(number):
    nonlocal state
    result = None
    for _ in range(number):
      result = compiled(state, batch)
      if program.case.kind == 'train':
        state, result = result
    jax.block_until_ready(result)

  make_steps(1)
  return make_steps


def operations(case: Case) -> int:
  """Returns the floating-point operations of a step, for model utilisation.

  There are two for each multiply-add of the forward pass, and twice as many in
  the backward pass. Rematerialised operations do not count (PaLM,
  arXiv:2204.02311, appendix B).
  """
  plain = dataclasses.replace(
    case, scan=False, remat=False, remat_policy='nothing', dtype='float32'
  )
  model = create_model(plain)
  if hasattr(model, 'scan'):
    model = model.clone(scan=True)  # traces faster; the number is the same
  forward = 2 * cost.multiply_adds(model, case.image_size) * case.batch_size
  return forward * (3 if case.kind == 'train' else 1)


def _functions(case, model, mesh):
  """Returns () -> state or parameters, and the step or forward pass."""
  images = jnp.zeros((1, *case.image_size, 3), jnp.float32)

  def params():
    return model.init(jax.random.key(0), images)['params']

  if case.kind == 'infer':
    dtype = jnp.dtype(case.dtype)

    def forward(params, batch):
      return model.apply({'params': params}, batch['image'], train=False)

    return (
      lambda: jax.tree.map(lambda x: x.astype(dtype), params()),
      dividing.divide_work(forward, mesh),
    )
  tx = optim.create_optimizer(
    'adamw',
    optim.create_schedule(
      base_lr=LEARNING_RATE, total_steps=1_000_000, decay_type='constant'
    ),
    weight_decay=WEIGHT_DECAY,
    grad_clip_norm=CLIP,
  )
  step = functools.partial(
    steps.train_step,
    objective=objectives.classification(model),
    tx=tx,
    mesh=mesh,
  )
  return (lambda: steps.create_state(params(), tx)), step


def _result(case, shardings, mesh):
  if case.kind == 'train':
    return shardings, mesh_lib.replicated(mesh)
  return mesh_lib.batch_sharding(mesh)


def _batch(case):
  batch = next(
    batches.synthetic(
      image_size=case.image_size,
      num_classes=NUM_CLASSES,
      batch_size=case.batch_size,
    )
  )
  return {key: batch[key] for key in _batch_shapes(case)}


def _batch_shapes(case):
  batch = {
    'image': ((case.batch_size, *case.image_size, 3), jnp.float32),
    'label': ((case.batch_size,), jnp.int32),
  }
  if case.kind == 'infer':
    del batch['label']
  return {k: jax.ShapeDtypeStruct(*value) for k, value in batch.items()}
