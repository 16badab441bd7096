"""What the processes of an evaluation must have in common."""

import hashlib
from typing import Any

import jax
import numpy as np

from vit_jax_repro.output import waiting
from vit_jax_repro.parallel import processes
from vit_jax_repro.training import agreement


def require_same(restored: Any, *sources: Any, **arguments: Any) -> None:
  """Compares versions, code, arguments, weights and images of all processes.

  All processes must call this together. Weights and images are compared by
  their contents, wherever they are.

  Args:
    restored: a `restoring.Restored`.
    *sources: each a data.datasets.Split, of different splits.
    **arguments: the other arguments of the evaluation.

  Raises:
    InputError: processes differ; raised in every process.
  """
  if processes.is_alone():
    return
  with waiting.doing('comparing what the processes evaluate'):
    for name in ('image_size', 'preprocessing', 'orientation'):
      arguments[name] = getattr(restored, name)
    facts = agreement.software()
    facts |= {name: (repr(x), repr(x)) for name, x in arguments.items()}
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(restored.params):
      digest.update(np.asarray(leaf).tobytes())
    weights = digest.hexdigest()
    facts['the SHA-256 of the weights'] = weights, weights[: agreement.HEX]
    for source in sources:
      images, sample = source.fingerprint(), source.sample_hash()
      facts[f'the split {source.split}'] = (
        images + sample,
        f'{source.num_examples} images of {source.num_classes} classes '
        f'(fingerprint {images}, SHA-256 of a sample of the contents {sample})',
      )
    model = restored.model, restored.class_names, restored.loss
    facts['the model'] = repr(model), restored.name
    agreement.require(facts)
