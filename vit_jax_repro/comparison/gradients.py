"""Gradients of a classification loss, of the reference and of a port.

The loss is the mean cross-entropy of fixed labels: image i has the class i
modulo the number of classes. Compared are its gradients by the activations,
which need no names of parameters, in the order of the backward pass, and by the
parameters where their names are known: the conversion to the canonical tree is
linear, so it converts gradients exactly. Dropout is off.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro.comparison import activations, differences
from vit_jax_repro.comparison.activations import LOGITS, Variant
from vit_jax_repro.weights import trees

LOSS = 'mean cross-entropy; image i has the class i modulo the classes'
_POSITIONS, _FIRST = (
  'Transformer/posembed_input',
  ('Transformer', 'encoderblock_0'),
)
# Activations that are the input of the head.
_HEAD_INPUTS = ('pre_logits_tanh', 'pre_logits')


@dataclasses.dataclass(frozen=True)
class Gradients:
  """The comparison of gradients."""

  # By the activations, in the order of the backward pass.
  layers: tuple[differences.LayerDifference, ...]
  # By the parameters, the worst first; empty if their names are unknown.
  parameters: tuple[differences.LayerDifference, ...]
  without: tuple[str, ...]  # the port's parameters that get no gradient

  @property
  def agrees(self) -> bool:
    """Returns whether all are within tolerance and every parameter gets one."""
    both = (*self.layers, *self.parameters)
    return differences.first_outside(both) is None and not self.without


def labels(batch: int, num_classes: int) -> np.ndarray:
  """Returns the labels of the loss, [B] integers."""
  return np.arange(batch) % num_classes


def of_reference(
  variant: Variant, shapes: Mapping[str, tuple[int, ...]], dtype: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Returns gradients of the reference.

  Args:
    variant: the reference, or a change of it.
    shapes: {name: shape} of the activations wanted. Those that are neither the
      output of a module nor the input of the head or of the first block are
      left out.
    dtype: dtype of the computation.

  Returns:
    {name: gradient by the activation}, logits first, and {flat name: gradient
    by the parameter}.
  """
  names = sorted(shapes, key=activations.position, reverse=True)
  head = next((name for name in _HEAD_INPUTS if name in names), None)
  seen = set()

  def interceptor(call, args, kwargs, context, added):
    path = context.module.path
    name = '/'.join(path)
    if context.method_name != '__call__' or not path:
      return call(*args, **kwargs)
    for own, is_here in ((_POSITIONS, path == _FIRST), (head, name == 'head')):
      if is_here and own and own in added and added[own].shape == args[0].shape:
        args = (args[0] + added[own], *args[1:])
        seen.add(own)
    out = call(*args, **kwargs)
    if name not in added or name == _POSITIONS:
      return out
    seen.add(name)
    if isinstance(out, tuple):
      return (out[0] + added[name], *out[1:])
    return out + added[name]

  with activations.computing(variant, dtype) as (apply, params, images):
    added = {name: np.zeros(shapes[name], dtype) for name in names}

    def loss(params, added):
      def around(call, args, kwargs, context):
        return interceptor(call, args, kwargs, context, added)

      with nn.intercept_methods(around):
        logits = apply(params, images) + added[LOGITS]
      wanted = labels(*logits.shape)
      chosen = jnp.take_along_axis(
        jax.nn.log_softmax(logits), wanted[:, None], axis=1
      )
      return -chosen.mean()

    by_params, by_added = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, added)
    seen.add(LOGITS)
    return (
      {name: np.asarray(by_added[name]) for name in names if name in seen},
      {n: np.asarray(a) for n, a in _trained(by_params).items()},
    )


def _trained(params):
  """Returns the flat parameters without statistics, as ports give them."""
  flat = trees.flatten(params)
  return {name: a for name, a in flat.items() if not trees.is_statistic(name)}


def compare(
  variant: Variant,
  port: Mapping[str, np.ndarray],
  port_parameters: Mapping[str, np.ndarray] | None,
  without: Sequence[str],
  shapes: Mapping[str, tuple[int, ...]],
  dtype: str,
) -> Gradients:
  """Compares a port's gradients with the reference's.

  Args:
    variant: the reference, with the causes substituted that the port has.
    port: {name: gradient by the activation}.
    port_parameters: {flat canonical name: gradient}, or None if unknown.
    without: names of the port's parameters that get no gradient.
    shapes: {name: shape} of the reference's activations.
    dtype: dtype of both computations.
  """
  shapes = {name: shapes[name] for name in port if name in shapes}
  if variant.seen:  # the port may have the patches in another order
    shapes.pop('embedding', None)
  by_name, by_parameter = of_reference(variant, shapes, dtype)
  exact = by_name, by_parameter
  if dtype != 'float64':
    exact = of_reference(variant, shapes, 'float64')
  found = [
    differences.compare(
      ours, theirs, activations.noise_tolerances(ours, other, dtype)
    )
    for ours, other, theirs in zip(
      (by_name, by_parameter), exact, (port, port_parameters or {}), strict=True
    )
  ]
  worst = sorted(found[1], key=lambda layer: -layer.excess)
  return Gradients(tuple(found[0]), tuple(worst), tuple(without))
