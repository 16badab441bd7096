"""Memory that the convolutions of a CPU take on top of XLA's own figure.

XLA's library for convolutions (YNNPACK) pads and packs what it reads into
buffers of its own. XLA does not count them. Most belong to the gradient of a
kernel, which reads the images and the gradient of the output.
"""

import math
import re

from vit_jax_repro.analysis import hlo

# XLA computes that many convolutions at a time, also with more cores
# (measured with NPROC=4 and 8; NPROC=1 computes one).
_AT_A_TIME = 2


def copied_bytes(text: str) -> int:
  """Returns the bytes of the copies that exist at a time.

  Measured for chains of 3x3 convolutions: 2.13 times the images of a layer of
  32x32 pixels for one gradient of a kernel, which are the padded images and the
  gradient of the output, and twice that for several (docs/performance.md).

  Args:
    text: the text of a program that is compiled for a CPU.
  """
  found = map(_copied, hlo.instructions_of(text, 'convolution'))
  return sum(sorted(found)[-_AT_A_TIME:])


def _copied(convolution):
  """Returns the bytes of the padded images and of the kernel."""
  (images,), (kernel,) = convolution.inputs
  axes = re.findall(r'dim_labels=(\w+?)_', convolution.attributes)[0]
  padding = re.search(r'pad=([-\d_x]+)', convolution.attributes)
  pads = padding[1].split('x') if padding else []
  shape = [
    size + _padded(pads[int(axis)]) if pads and axis.isdigit() else size
    for size, axis in zip(images.shape, axes, strict=True)
  ]
  of_one = images.bytes // max(1, images.size)
  return math.prod(shape) * of_one + kernel.bytes


def _padded(pad):
  """Returns the rows that a pad adds; 'LOW_HIGH' may be negative."""
  return max(0, sum(int(number) for number in pad.split('_')))
