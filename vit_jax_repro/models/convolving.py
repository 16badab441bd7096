"""A convolution whose gradients are fast in a loop on a CPU.

XLA's CPU compiler hands a convolution to a library if its axes are in the order
of `_ORDER`. JAX's gradients have them in another order. The compiler puts these
right outside loops only, but an update with `accum_steps` is a loop.
docs/performance.md has the times of both.

Shapes: B batch, H W pixels, C channels; kernels are [kh, kw, C_in, C_out].
"""

import contextlib
import contextvars
from collections.abc import Generator, Sequence

import jax
from jax import lax

_ORDER = ('NHWC', 'HWIO', 'NHWC')
_is_in_loop = contextvars.ContextVar('is_in_loop', default=False)


@contextlib.contextmanager
def in_loop_on_cpu() -> Generator[None]:
  """Computes the gradients of convolutions that are traced inside in order.

  Elsewhere they are JAX's own, which also have derivatives in forward mode
  (`jax.jvp`) and run in any `jax.shard_map` and on meshes with explicit axes.
  """
  token = _is_in_loop.set(True)
  try:
    yield
  finally:
    _is_in_loop.reset(token)


def convolve(
  x: jax.Array,  # [B, H, W, C_in]
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  feature_group_count: int = 1,
  **unused,
) -> jax.Array:  # [B, h, w, C_out]
  """Returns the convolution of images; `nn.Conv` takes this function.

  Inside `in_loop_on_cpu` the sums of its gradients may be rounded in another
  order.

  Args:
    x: the images.
    kernel: the kernel.
    strides: pixels from one result to the next along H and W.
    padding: 'SAME', 'VALID', or pixels before and after H and W.
    feature_group_count: 1, or C_in for a depthwise convolution.
    **unused: `nn.Conv` also passes the order of the axes and dilations of 1.
  """
  if not _is_in_loop.get():
    return _usual(x, kernel, strides, padding, feature_group_count)
  assert feature_group_count in (1, x.shape[3])
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      x.shape[1:3], kernel.shape[:2], strides, padding
    )
  pads = tuple(map(tuple, padding))
  return _convolve(x, kernel, tuple(strides), pads, feature_group_count)


def _usual(x, kernel, strides, pads, groups):
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    pads,
    dimension_numbers=_ORDER,
    feature_group_count=groups,
  )


def _forward(x, kernel, *options):
  return _usual(x, kernel, *options), (x, kernel)


def _backward(strides, pads, groups, saved, gradient):
  """Returns the gradients of the images and of the kernel."""
  x, kernel = saved
  # Along H and W: pixels, those of a kernel and those that the results span.
  sizes = [
    (x.shape[i + 1], kernel.shape[i], (gradient.shape[i + 1] - 1) * stride + 1)
    for i, stride in enumerate(strides)
  ]

  if groups == 1:
    edges = []
    for (pixels, length, span), (before, _) in zip(sizes, pads, strict=True):
      first = length - 1 - before
      edges.append((first, pixels + length - 1 - span - first))
    of_x = lax.conv_general_dilated(
      gradient,
      kernel[::-1, ::-1].swapaxes(2, 3),
      (1, 1),
      edges,
      lhs_dilation=strides,
      dimension_numbers=_ORDER,
    )
    channels = x.transpose(3, 1, 2, 0)  # each is an image of B channels
  else:
    # JAX's gradient of a depthwise convolution's images is fast in loops.
    (of_x,) = jax.linear_transpose(
      lambda x: _usual(x, kernel, strides, pads, groups), x
    )(gradient)
    channels = x.transpose(1, 2, 3, 0).reshape(1, *x.shape[1:3], -1)

  edges = [
    (before, length + span - 1 - pixels - before)
    for (pixels, length, span), (before, _) in zip(sizes, pads, strict=True)
  ]
  of_kernel = lax.conv_general_dilated(
    channels,
    gradient.transpose(1, 2, 0, 3),
    (1, 1),
    edges,
    rhs_dilation=strides,
    dimension_numbers=_ORDER,
    feature_group_count=groups,
  )
  return of_x, of_kernel.transpose(1, 2, 0, 3)


_convolve = jax.custom_vjp(_usual, nondiff_argnums=(2, 3, 4))
_convolve.defvjp(_forward, _backward)
