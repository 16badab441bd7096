"""Whether all processes of a run make the same updates.

Each process describes as facts what its updates depend on: versions, code,
settings, data. Processes that differ would wait for each other for ever, or
train to a result that no single one of them would give. `require` compares the
facts of all processes, so that all of them end with the same line.
"""

import hashlib
import json
import re
from collections.abc import Mapping

from vit_jax_repro.errors import InputError
from vit_jax_repro.parallel import installed, processes

_MISSING = 'missing'
_DUMPS = re.compile(r'--xla_dump_\S*')  # paths, which may differ by process
HEX = 8  # digits of a digest in a message

# {name: (identity, text)}. The identities of all processes must be equal. The
# text describes it to a person: identities may be digests.
Facts = Mapping[str, tuple[str, str]]


def require(facts: Facts) -> None:
  """Compares the facts of all processes, which must call this together.

  Args:
    facts: those of this process, the most important one first.

  Raises:
    InputError: processes differ; raised in every process, with the first fact
      that differs.
  """
  if processes.is_alone():
    return
  identities = {name: identity for name, (identity, _) in facts.items()}
  text = json.dumps(identities, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()
  if len(set(processes.texts_of_all(digest))) == 1:
    return
  texts = processes.texts_of_all(json.dumps(dict(facts)))
  raise InputError(
    f'the processes of this job differ: {difference(*map(json.loads, texts))}; '
    'start all of them with the same command, code and data'
  )


def software() -> dict[str, tuple[str, str]]:
  """Returns the facts on versions, code and options of JAX."""
  found = {
    f'the version of {package}': (version, version)
    for package, version in installed.versions().items()
  }
  for path, digest in installed.code().items():
    found[f'the code in {path}'] = digest, f'SHA-256 {digest[:HEX]}'
  for option, text in installed.numerics().items():
    words = ' '.join(_DUMPS.sub('', text).split())
    if not words.endswith('='):
      found[option] = words, text
  return found


def difference(*facts: Facts) -> str:
  """Describes the first fact that differs between processes.

  Args:
    *facts: the facts of each process. Some differ.

  Returns:
    Such as "config.seed is 0 in process 0 and 1 in process 1".
  """
  for name in dict.fromkeys(name for each in facts for name in each):
    values = [each.get(name, (None, _MISSING)) for each in facts]
    found = processes.difference(name, *zip(*values, strict=True))
    if found is not None:
      return found
  raise AssertionError('the facts of all processes are equal')
