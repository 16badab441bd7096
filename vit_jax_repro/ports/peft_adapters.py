"""LoRA adapters of PEFT: a folder with changes to the weights of a base model.

A layer's weight W becomes W + s B A with the two matrices of the adapter and
its scale s, as in PEFT's `merge_and_unload`. The sum is computed in float64 and
rounded once. Modules that were trained as a whole (`modules_to_save`, and
biases) replace the base's (peft 0.21.2, tuners/lora/layer.py and
utils/save_and_load.py).
"""

import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro import ports
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.ports import file_kinds, state_dicts, unsupported
from vit_jax_repro.weights import trees

# The initialisations that leave the base's weights unchanged. Others (pissa,
# olora, corda, loftq, ...) subtract something from them.
_PLAIN_STARTS = (True, False, 'gaussian', 'eva', 'orthogonal')
# Settings of other functions than W + s B A.
_VARIANTS = (
  'use_dora', 'use_qalora', 'use_bdlora', 'kasa_config', 'arrow_config',
  'monteclora_config', 'alora_invocation_tokens', 'layer_replication',
  'target_parameters', 'trainable_token_indices',
)  # fmt: skip
_START = 'base_model.model.'  # of every name that PEFT writes
# The heads of the libraries' models, and the canonical ones.
_HEADS = {
  'classifier': 'head',
  'head': 'head',
  'cls_classifier': 'head',
  'head_dist': 'head_dist',
  'distillation_classifier': 'head_dist',
}
# Patterns of names that are compared. Groups and more repetitions may take
# forever: (a+)+ does.
_PATTERN = re.compile(r'\^?(([\w-]|\\?\.|\\d|\[[\w-]+\])[*+]?)*\$?')
_MOST_REPETITIONS = 2


def find_base(folder: str, given: str | None = None) -> str:
  """Returns the path of the base of an adapter.

  Args:
    folder: of the adapter.
    given: the base's path, if the user named it.

  Raises:
    InputError: the base is not on this machine, or is an adapter itself.
  """
  path = given or _named_base(folder)
  if file_kinds.kind_of(path) == 'peft':
    raise InputError(
      f'{path}, the base of {folder}, is a PEFT adapter itself; convert it '
      'first and give the result by --base'
    )
  return path


def _named_base(folder):
  name = _config(folder).get('base_model_name_or_path')
  if not name:
    raise InputError(
      f'{folder} is a PEFT adapter that does not name its base model; give the '
      'model that it was trained on by --base=PATH'
    )
  name = str(name)
  parent = os.path.dirname(os.path.abspath(folder))
  for path in (
    os.path.expanduser(name),
    os.path.join(folder, name),
    os.path.join(parent, name),
  ):
    if os.path.exists(path):
      return path
  raise InputError(
    f'{folder} is a PEFT adapter of {messages.quoted(name)}, which is not on '
    'this machine; give that model by --base, as a path, or as a name to '
    'fetch it'
  )


def merge(
  folder: str, params: Mapping[str, Any], num_heads: int | None
) -> tuple[dict[str, Any], bool]:
  """Returns the canonical tree of a base with an adapter merged into it.

  The second value is whether the adapter has a head of its own.

  Args:
    folder: of the adapter.
    params: canonical tree of the base; not changed.
    num_heads: of the base's attention; None if it has none.

  Raises:
    InputError: the adapter is none of LoRA, or does not fit the base.
    OSError: a file cannot be read.
  """
  config, changes = _config(folder), _arrays(folder)
  _check_config(folder, config)
  flat = trees.unstack(trees.flatten(params))
  heads = _heads(changes)
  whole = config.get('modules_to_save')
  listed = [m for m in _HEADS if isinstance(whole, list) and m in whole]
  if listed and not heads:
    messages.note(
      f'{folder} lists {", ".join(listed)} in modules_to_save and has '
      'no such arrays; the head of its base is kept'
    )
  if heads:  # they were trained without pre_logits, and may be new
    old = (*heads, 'pre_logits')
    flat = {n: a for n, a in flat.items() if n.partition('/')[0] not in old}
  for head, (inputs, classes) in heads.items():
    if (
      'embedding/kernel' in flat and inputs % flat['embedding/kernel'].shape[3]
    ):
      raise InputError(
        f'{folder} has a head for {inputs} features, and its base has '
        f'{flat["embedding/kernel"].shape[3]}; give the model that it was '
        'trained on by --base'
      )
    flat[f'{head}/kernel'] = np.zeros((inputs, classes), np.float32)
    flat[f'{head}/bias'] = np.zeros(classes, np.float32)
  library, state, names = _in_library(folder, flat, changes)
  try:
    changed = _changed(config, changes, state, names)
  except InputError as error:
    raise InputError(f'{folder}: {error}') from None
  except (
    TypeError, ValueError, AttributeError, ArithmeticError, re.error
  ) as error:  # fmt: skip
    raise InputError(
      f'{folder}: {file_kinds.ADAPTER} has a wrong value '
      f'({messages.short(error)}); download it again'
    ) from None
  merged = trees.flatten(
    ports.from_state_dict(
      state | changed,
      num_heads=num_heads,
      library=library,
      token_slots=ports.has_token_slots(flat),
    )
  )
  if merged.keys() - flat.keys() and any('pos' in name for name in changed):
    raise InputError(
      f'{folder} has position embeddings in another form than those of its '
      f'base; {unsupported.MERGE}'
    )
  # What the library's model lacks or has in another form stays as it was.
  merged = {name: merged.get(name, flat[name]) for name in flat}
  return trees.nest(merged), bool(heads)


def _heads(changes):
  """Returns the heads in an adapter, {canonical name: (inputs, classes)}."""
  shapes = {m: np.shape(changes.get(f'{m}.weight')) for m in _HEADS}
  return {
    _HEADS[m]: shape[::-1] for m, shape in shapes.items() if len(shape) == 2
  }


def _config(folder):
  path = os.path.join(folder, file_kinds.ADAPTER)
  return files.read_json(path, 'configuration of a PEFT adapter')


def _check_config(folder, config):
  kind = config.get('peft_type')
  if kind != 'LORA':
    raise InputError(
      f'{folder} is a PEFT adapter of the kind {messages.quoted(str(kind))}, '
      f'and this package reads LORA; {unsupported.MERGE}'
    )
  start = config.get('init_lora_weights', True)
  used = [name for name in _VARIANTS if config.get(name)]
  if start not in _PLAIN_STARTS:
    used.append(f'init_lora_weights={start}')
  if used:
    raise InputError(
      f'{folder} is a PEFT adapter with {messages.listed(used)}, which this '
      f'package does not merge; {unsupported.MERGE}'
    )


def _arrays(folder):
  """Returns the arrays of an adapter by name, without PEFT's own parts."""
  path = file_kinds.weights_in(folder, file_kinds.ADAPTER_FILES)
  if path is None:
    raise InputError(
      f'{folder} has {file_kinds.ADAPTER} but none of '
      f'{", ".join(file_kinds.ADAPTER_FILES)}; put it there'
    )
  return {
    re.sub(r'\.(base_layer|modules_to_save)\b', '', name).removeprefix(
      _START
    ): a
    for name, a in state_dicts.arrays(pathlib.Path(path)).items()
    if '.original_module.' not in name
  }


def _in_library(folder, flat, changes):
  """Returns the library of an adapter, with its state dict of the base.

  The third value has the name in the state dict for each array of the adapter:
  models with and without a head have different prefixes.
  """
  wanted = {_target(name) for name in changes}
  fewest, refusal = wanted, None
  for library in ports.LIBRARIES:
    for drop in ((), *ports.DROPS):  # parts that the library's model lacks
      try:
        state = ports.to_state_dict(flat, library, drop=drop)
      except InputError as error:
        refusal = refusal or error
        continue
      known = {_bare(name): name for name in state}
      unknown = {name for name in wanted if _bare(name) not in known}
      if not unknown:
        return library, state, {name: known[_bare(name)] for name in wanted}
      fewest = min(fewest, unknown, key=len)
      break
  raise InputError(
    f'{folder} changes {messages.listed(fewest)}, of which its base has '
    'nothing; give the model that it was trained on by --base'
  )


def _bare(name):
  """Returns a name without the prefix of transformers' models with a head."""
  return re.sub(r'^(vit|deit|bit|dinov2\w*)\.', '', name)


def _target(name):
  """Returns the name of the array that an array of an adapter changes."""
  return re.sub(r'\.lora_[AB]\.(weight|bias)$', r'.\1', name)


def _changed(config, changes, state, names):
  """Returns the arrays of the base that differ, {name in `state`: array}."""
  changed = {}
  for target in {_target(name) for name in changes}:
    old = state[names[target]]
    new = changes.get(target, old)  # if it was trained as a whole
    module, _, end = target.rpartition('.')
    pair = [changes.get(f'{module}.lora_{x}.{end}') for x in 'AB']
    shape = new.shape
    if any(array is not None for array in pair):
      change = _change(config, module, end, *pair)
      shape = change.shape
      if shape == new.shape:
        new = (np.float64(new) + change).astype(new.dtype)
    if shape != old.shape:
      raise InputError(
        f'{target} is for {list(shape)}, and its base has {list(old.shape)}; '
        'give the model that it was trained on by --base'
      )
    changed[names[target]] = new
  return changed


def _change(config, module, end, first, second):
  """Returns what is added to a module's weight or bias, in float64."""
  rank, scale = _scale(config, module)
  second = np.asarray(second, np.float64)
  if end == 'bias':
    return scale * second
  first = np.asarray(first, np.float64)
  if first.shape[:1] != (rank,) or second.shape[1:2] != (rank,):
    raise InputError(
      f'{module} has matrices {list(first.shape)} and {list(second.shape)}, '
      f'which are not of the rank {rank} in {file_kinds.ADAPTER}'
    )
  product = second.reshape(-1, rank) @ first.reshape(rank, -1)
  return scale * product.reshape(second.shape[0], *first.shape[1:])


def _scale(config, module):
  """Returns (rank, scale) of a module's matrices."""
  rank = _of_pattern(config, 'rank_pattern', module, config.get('r', 8))
  alpha = config.get('lora_alpha', 8)
  alpha = _of_pattern(config, 'alpha_pattern', module, alpha)
  root = math.sqrt if config.get('use_rslora') else float
  scale = alpha / root(rank)
  if not math.isfinite(scale):
    raise ValueError(f'lora_alpha={alpha}')
  return rank, scale


def _of_pattern(config, key, module, default):
  """Returns the value of the first pattern that the end of a name matches."""
  for pattern, value in (config.get(key) or {}).items():
    repetitions = len(re.findall('[*+]', pattern))
    if not _PATTERN.fullmatch(pattern) or repetitions > _MOST_REPETITIONS:
      raise InputError(
        f'{key} has {messages.quoted(pattern)}; patterns of letters, digits, '
        f'. \\. \\d [0-9] ^ $ and at most {_MOST_REPETITIONS} of * and + are '
        f'compared here; {unsupported.MERGE}'
      )
    if re.fullmatch(rf'(.*\.)?({pattern})', module):
      return value
  return default
