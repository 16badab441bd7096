"""What the processes of a run must have in common, compared before it trains.

Places of files may differ, because machines may see them under other names.
Their contents are compared instead.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro.parallel import processes
from vit_jax_repro.runs import identity
from vit_jax_repro.runs.parts import Parts
from vit_jax_repro.training import agreement

# Settings of a machine; they change no result.
_OF_A_MACHINE = (
  'memory_limit_gb',
  'prefetch',
  'tfds_data_dir',
  'tfds_manual_dir',
)


def require_same_settings(config: Mapping[str, Any]) -> None:
  """Compares versions, code, options of JAX and settings of all processes.

  All processes must call this together.

  Args:
    config: plain mapping of settings.

  Raises:
    InputError: processes differ; raised in every process.
  """
  if not processes.is_alone():
    agreement.require(agreement.software() | _keys(config))


def require_same_data(
  parts: Parts, data: Mapping[str, Any], saved_steps: Sequence[int]
) -> None:
  """Compares the data, the weights and the start of all processes.

  All processes must call this together.

  Args:
    parts: the parts of the run.
    data: the manifest's description of the data. A resumed run need not have
      the weights that it began with; then it has their old fingerprint.
    saved_steps: the steps of the checkpoints that this process sees.

  Raises:
    InputError: processes differ; raised in every process.
  """
  if processes.is_alone():
    return
  settings = parts.settings
  facts = {}
  for which in ('train', 'test', 'validation'):
    split = getattr(parts.input, which)
    if split is not None:
      digest, sample = data[f'{which}_fingerprint'], split.sample_hash()
      facts[f'the {which} split'] = (
        digest + sample,
        f'{split.num_examples} images of {split.num_classes} classes in '
        f'{settings.dataset} (fingerprint {digest[: agreement.HEX]}, SHA-256 '
        f'of a sample of the contents {sample[: agreement.HEX]})',
      )
  facts['orientation'] = data['orientation'], data['orientation']
  for key, name in (('pretrained_dir', 'pretrained'), ('teacher', 'teacher')):
    digest = data.get(f'{name}_fingerprint')
    if digest:
      facts[f'config.{key}'] = (
        digest,
        f'{getattr(settings, key)} (SHA-256 {digest[: agreement.HEX]})',
      )
  newest = json.dumps(max(saved_steps, default=None))
  facts['the newest checkpoint'] = newest, newest
  agreement.require(facts)


def _keys(config):
  """Returns the settings, but those that may differ between processes."""
  found = {}
  for key, value in sorted(identity.complete(config).items()):
    if key not in (*identity.PLACES, *_OF_A_MACHINE):
      text = json.dumps(value)
      found[f'config.{key}'] = text, repr(value)
  return found
