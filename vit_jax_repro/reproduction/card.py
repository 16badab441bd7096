"""Reproducibility cards: the facts needed to repeat a run or the project.

The variables are those by which Gundersen and Kjensmo score papers ("State of
the Art: Reproducibility in Artificial Intelligence", AAAI 2018), with its three
factors method, data and experiment. Two more come from the same group's scoring
of whole conferences: the type of research and the splits of the data. That
scoring also has the researchers' affiliation, which is left out here because it
does not affect the result. Random seeds are added.

A variable has an answer and the location of the answer, or it is missing.
"""

import dataclasses
import os
import pathlib

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import run_files
from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.runs import manifest

FACTORS = {  # and their variables
  'method': (
    'problem',
    'objective',
    'research type',
    'research question',
    'pseudocode',
  ),
  'data': (
    'training data',
    'validation data',
    'test data',
    'data splits',
    'results',
  ),
  'experiment': (
    'hypothesis',
    'prediction',
    'method source code',
    'experiment source code',
    'experiment setup',
    'random seeds',
    'hardware specification',
    'software dependencies',
  ),
}
MISSING = 'missing'

_CLONE = pathlib.Path(__file__).parents[2]

# The project's answers and the files that contain them. If a file does not
# exist, the variable is missing. The project has no pseudocode and no measured
# results; each user measures their own.
_PROJECT = {
  'problem': (
    'whether the published numbers of the Vision Transformer, and of the '
    'models that it is compared with, can be reproduced',
    'README.md',
  ),
  'objective': (
    'for each published number: paper, measured, verdict',
    'docs/paper.md',
  ),
  'research type': (
    'experimental: evaluates, fine-tunes and trains',
    'docs/architecture.md',
  ),
  'research question': (
    'for each published number: does a measurement agree with it',
    'vit_jax_repro/paper/numbers',
  ),
  'training data': (
    'public data sets by name and version',
    'vit_jax_repro/data/catalogue.py, docs/data.md',
  ),
  'validation data': (
    'minival, or val200 of VTAB-1k, of each data set',
    'vit_jax_repro/data/catalogue.py',
  ),
  'test data': (
    'the split of each data set that results are reported on',
    'vit_jax_repro/data/catalogue.py',
  ),
  'data splits': (
    'names and parts for each data set, subsets by class and seed',
    'vit_jax_repro/data/catalogue.py, vit_jax_repro/data/subsets.py',
  ),
  'hypothesis': (
    'the claim of the paper that each study tests',
    'vit_jax_repro/studies',
  ),
  'prediction': (
    'the published number, and the rule by which a measurement agrees',
    'vit_jax_repro/paper/verdict.py',
  ),
  'method source code': (
    'models, weights, training',
    'vit_jax_repro/models, vit_jax_repro/weights, vit_jax_repro/training',
  ),
  'experiment source code': (
    'recipes of the papers and of their released code',
    'vit_jax_repro/recipes, configs',
  ),
  'experiment setup': (
    'every setting with its default; the recipes set the others',
    'vit_jax_repro/runs/settings.py, vit_jax_repro/recipes',
  ),
  'random seeds': (
    'one seed a run, for order, augmentation, initialisation and dropout',
    'vit_jax_repro/runs/settings.py, docs/architecture.md',
  ),
}


@dataclasses.dataclass(frozen=True)
class Variable:
  """One variable of a reproducibility card."""

  factor: str
  name: str
  answer: str  # if not documented: MISSING, or what is wrong with the answer
  where: str  # files, and keys in them
  documented: bool


@dataclasses.dataclass(frozen=True)
class ReproducibilityCard:
  """The variables of a run or of the project."""

  title: str
  variables: tuple[Variable, ...]

  def score(self, factor: str) -> tuple[int, int]:
    """Returns the numbers of (documented, all) variables of a factor."""
    found = [row.documented for row in self.variables if row.factor == factor]
    return sum(found), len(found)


def run_card(workdir: str | os.PathLike) -> ReproducibilityCard:
  """Returns the card of a training run, finished or not.

  Args:
    workdir: the folder of the run, see `runs.workdir`.

  Raises:
    InputError: the folder holds no training run, or a damaged file.
    OSError: a file cannot be read.
  """
  workdir = os.fspath(workdir)
  config, made = (
    _read(workdir, name) for name in ('config.json', 'manifest.json')
  )
  result = _read(workdir, 'result.json', 'accuracy', 'num_examples', 'step')
  if config is None or made is None:
    lacking = 'config.json' if config is None else 'manifest.json'
    raise InputError(
      f'{workdir!r} has no {lacking}, so it holds no training run; give a '
      'workdir of vit_jax_repro.main'
    )
  answers = {**_of_config(config), **_of_manifest(made)}
  unsure = {}
  if result is None:
    state = f'the run is not finished; {_progress(workdir)}'
    unsure['results'] = state, 'metrics.jsonl'
  else:
    answers['results'] = _accuracy(result), 'result.json, metrics.jsonl'
  commit, where = answers.pop('method source code')
  if commit is not None:
    known = not commit.endswith('-modified')
    commit = commit.replace('-modified', ' with uncommitted changes')
    (answers if known else unsure)['method source code'] = commit, where
  return _card(f'training run {workdir}', answers, unsure)


def project_card() -> ReproducibilityCard:
  """Returns the card of this software, as it is installed here."""
  answers = {
    name: (answer, paths)
    for name, (answer, paths) in _PROJECT.items()
    if all((_CLONE / path).exists() for path in paths.split(', '))
  }
  software = manifest.software()
  answers['hardware specification'] = (
    _hardware(manifest.devices(), software['platform']),
    'this machine',
  )
  answers['software dependencies'] = (
    _listed(software['versions']),
    'requirements.txt, and as installed here',
  )
  return _card('vit_jax_repro', answers)


def view(card: ReproducibilityCard) -> View:
  """Returns a view of a card: its scores, then each variable."""
  counts = {factor: card.score(factor) for factor in FACTORS}
  scores = (f'{name} {found} of {n}' for name, (found, n) in counts.items())
  section = Section(
    f'Reproducibility card: {card.title}',
    (f'Variables documented: {", ".join(scores)}.',),
    ('variable', 'factor', 'answer', 'where'),
    tuple((v.name, v.factor, v.answer, v.where) for v in card.variables),
  )
  records = tuple(
    {
      'factor': v.factor,
      'variable': v.name,
      'answer': v.answer,
      'where': v.where,
      'documented': v.documented,
    }
    for v in card.variables
  )
  return View((section,), records)


def _card(title, answers, unsure=()):
  """Returns a card.

  Args:
    title: the subject of the card.
    answers: {variable: (answer, where)}; an answer None is missing.
    unsure: the same, for variables that are not documented well enough.
  """
  rows = []
  for factor, names in FACTORS.items():
    for name in names:
      answer, where = dict(unsure).get(name) or answers.get(name) or (None, '')
      documented = answer is not None and name not in unsure
      if answer is None:
        answer, where = MISSING, ''
      rows.append(Variable(factor, name, answer, where, documented))
  return ReproducibilityCard(title, tuple(rows))


def _of_config(config):
  pp = config.get('pp', {})
  starts = (config.get(key) for key in ('continue_from', 'pretrained_dir'))
  start = next(filter(None, starts), 'fresh parameters')
  shown = _listed(
    {
      key: config[key]
      for key in ('optim', 'base_lr', 'batch', 'total_steps')
      if config.get(key) is not None
    }
  )
  return {
    'problem': (
      f'{config.get("objective", "classification")} on {config.get("dataset")}',
      'config.json: dataset, objective',
    ),
    'objective': (f'accuracy on {pp.get("test")}', 'config.json: pp.test'),
    'research type': (
      f'experimental: one training from {start}',
      'config.json: continue_from, pretrained_dir',
    ),
    'data splits': (
      f'trained on {pp.get("train")}, tested on {pp.get("test")}',
      'config.json: pp.train, pp.test',
    ),
    'experiment source code': (
      'python -m vit_jax_repro.main with these settings',
      'config.json',
    ),
    'experiment setup': (f'{shown}, and all other settings', 'config.json'),
  }


def _of_manifest(made):
  data, devices = made.get('data', {}), made.get('devices')
  answers = {
    'method source code': (made.get('git_commit'), 'manifest.json: git_commit'),
    'software dependencies': (
      _listed(made.get('versions', {})) or None,
      'manifest.json: versions',
    ),
  }
  if 'seed' in made:
    answers['random seeds'] = str(made['seed']), 'manifest.json: seed'
  if devices:
    answers['hardware specification'] = (
      _hardware(devices, made.get('platform')),
      'manifest.json: devices' + (', platform' if 'platform' in made else ''),
    )
  for name, part in (('training data', 'train'), ('test data', 'test')):
    if f'{part}_fingerprint' in data:
      answers[name] = (
        f'{data.get("dataset")}, {data.get(part)}, fingerprint '
        f'{data[f"{part}_fingerprint"]}',
        f'manifest.json: data.{part}, data.{part}_fingerprint',
      )
  return answers


def _hardware(devices, platform=None):
  """Returns the hardware in words; manifests of old versions lack some keys."""
  number, kind = devices.get('count', '?'), devices.get('kind', 'unknown')
  found = f'{number} x {kind}, processes: {devices.get("processes", "?")}'
  return found if platform is None else f'{found}; {platform}'


def _accuracy(result):
  return (
    f'accuracy {result["accuracy"]:.2%} of {result["num_examples"]} images '
    f'after {result["step"]} steps'
  )


def _listed(mapping):
  return ', '.join(f'{name} {value}' for name, value in mapping.items())


def _read(workdir, name, *needed):
  """Reads a JSON file of a workdir; returns None if it does not exist."""
  path = os.path.join(workdir, name)
  if not os.path.exists(path):
    return None
  return run_files.read(path, 'give another workdir', needed=needed)


def _progress(workdir):
  """Returns the last step of metrics.jsonl in words.

  An incomplete last line does not count.
  """
  path = os.path.join(workdir, 'metrics.jsonl')
  lines = []
  if os.path.exists(path):
    lines, _ = run_files.metrics(pathlib.Path(path).read_bytes())
  return (
    f'logged up to step {lines[-1]["step"]}' if lines else 'no step is logged'
  )
