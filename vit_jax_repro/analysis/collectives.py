"""Collectives of a compiled program: the exchanges between its devices."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from vit_jax_repro.analysis import hlo

KINDS = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between devices.

  Attributes:
    kind: a member of `KINDS`.
    axes: the axes of the mesh along which the devices of a group lie; () for a
      mesh whose axes all have the size 1.
    group: indices, in the mesh's order, of the devices of one group; for a
      permutation, a source and its target.
    arrays: the whole arrays: results of a gather, operands of a sum, or the
      arrays that one device receives in a `collective-permute`.
    times: number of its executions in one call of the program.
    origin: the operation of the traced program that it stems from.
  """

  kind: str
  axes: tuple[str, ...]
  group: tuple[int, ...]
  arrays: tuple[hlo.Array, ...]
  times: int
  origin: str

  @property
  def payload(self) -> int:
    """Returns the bytes of the whole arrays in one call of the program."""
    return self.times * sum(array.bytes for array in self.arrays)


def find(
  module: hlo.HloModule, mesh_shape: Mapping[str, int]
) -> list[Collective]:
  """Lists the collectives of a program; one that runs in pieces counts once.

  Args:
    module: the program.
    mesh_shape: {axis: size} of the mesh, in its order.
  """
  found: dict[str, Collective] = {}
  for instruction, times, computation in module.instructions():
    kind = _kind(instruction, computation)
    if kind is None:
      continue
    axes, group = _group(instruction, mesh_shape)
    if len(group) == 1:
      continue
    # On a TPU several fusions can hold a copy of one gather, to overlap it.
    channel = re.search(r'channel_id=(\d+)', instruction.attributes)
    in_fusion = channel and module.is_fused(computation)
    key = channel[1] if in_fusion else instruction.name
    origin = re.search(r'op_name="([^"]*)"', instruction.attributes)
    one = Collective(
      kind,
      axes,
      group,
      _whole(kind, instruction),
      times,
      origin[1] if origin else '',
    )
    if key not in found or found[key].payload < one.payload:
      found[key] = one
  return list(found.values())


def _kind(instruction, computation):
  name = instruction.opcode.removesuffix('-start')
  if name == 'all-reduce' and computation.startswith('all-reduce-scatter'):
    return 'reduce-scatter'  # a TPU's kernel, which keeps a part of the sum
  return name if name in KINDS else None


def _whole(kind, instruction):
  """Returns the whole arrays of a collective, see `Collective.arrays`."""
  operands = [array for arrays in instruction.inputs for array in arrays]
  results = list(instruction.arrays)
  if instruction.opcode.endswith('-start'):  # (operands, results, contexts)
    results = results[len(operands) : 2 * len(operands)]
  if kind not in ('all-reduce', 'reduce-scatter', 'all-to-all'):
    return tuple(results)
  if len(results) != len(operands):
    return tuple(operands)
  # The operands may be cast: a sum is computed in the dtype of its result.
  return tuple(
    dataclasses.replace(operand, dtype=result.dtype)
    for operand, result in zip(operands, results, strict=True)
  )


def _group(instruction, mesh_shape):
  """Returns the mesh axes along which a group lies, and its devices."""
  ids = np.arange(math.prod(mesh_shape.values())).reshape(
    tuple(mesh_shape.values())
  )
  group = _first_group(instruction.attributes, ids.size)
  places = np.stack(np.unravel_index(group, ids.shape))  # [axes, devices]
  axes = tuple(
    axis
    for axis, row in zip(mesh_shape, places, strict=True)
    if len(set(row.tolist())) > 1
  )
  return axes, tuple(group)


def _first_group(attributes, num_devices) -> Sequence[int]:
  """Returns the devices of the first group; [source, target] of a permutation.

  XLA writes groups as axes of a mesh, as a reshaped and transposed range, or
  as lists.
  """
  pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', attributes)
  if pairs:
    for source, target in re.findall(r'(\d+),(\d+)', pairs[1]):
      if source != target:
        return [int(source), int(target)]
    return [0]
  mesh = re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:[^{,]*)? ?\{([^}]*)\}', attributes
  )
  if mesh:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    taken = re.findall(r"'(\w+)'", mesh[2])
    ids = np.arange(num_devices).reshape([int(size) for size in sizes.values()])
    kept = tuple(slice(None) if axis in taken else 0 for axis in sizes)
    return ids[kept].ravel().tolist()
  reshaped = re.search(
    r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', attributes
  )
  if reshaped:
    groups, dims = _integers(reshaped[1]), _integers(reshaped[2])
    ids = np.arange(math.prod(dims)).reshape(dims)
    ids = ids.transpose(_integers(reshaped[3])) if reshaped[3] else ids
    return ids.reshape(groups)[0].tolist()
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', attributes)
  if listed:
    return _integers(listed[1])
  return list(range(num_devices))


def _integers(text):
  return [int(number) for number in text.split(',')]
