"""Reproducibility cards: the facts needed to repeat a run or the project.

The variables are those by which Gundersen and Kjensmo score papers ("State of
the Art: Reproducibility in Artificial Intelligence", AAAI 2018), with its three
factors method, data and experiment. Two more come from the same group's scoring
of whole conferences: the type of research and the splits of the data. That
scoring also has the researchers' affiliation, which is left out here because it
does not affect the result. Random seeds are added.

A variable has an answer and the location of the answer, or it is missing. Only
variables that the author of a run can supply count in the score: a training has
no pseudocode of its own, and its prediction is part of its hypothesis.
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
NOT_SCORED = {
  'pseudocode': 'not scored: the source code is given',
  'prediction': 'not scored: part of the hypothesis',
}
_KEYS = {'research question': 'question', 'hypothesis': 'hypothesis'}

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
    """Returns the numbers of (documented, scored) variables of a factor."""
    found = [
      row.documented
      for row in self.variables
      if row.factor == factor and (row.documented or row.name not in NOT_SCORED)
    ]
    return sum(found), len(found)


def run_card(workdir: str | os.PathLike) -> ReproducibilityCard:
  """Returns the card of a training run, finished or not, or of a study.

  Args:
    workdir: the folder of the run, see `runs.workdir`, or of a finished study.

  Raises:
    InputError: the folder holds no training run, or a damaged file.
    OSError: a file cannot be read.
  """
  workdir = os.fspath(workdir)
  study = _read(workdir, 'study.json')
  if study is not None:
    try:
      return _study_card(workdir, study)
    except (AttributeError, IndexError, KeyError, TypeError):
      raise InputError(
        f'{os.path.join(workdir, "study.json")} is no result of a study; give '
        'the workdir of one'
      ) from None
  config, made = (
    _read(workdir, name) for name in ('config.json', 'manifest.json')
  )
  result = _read(workdir, 'result.json', 'accuracy', 'num_examples', 'step')
  if config is None or made is None:
    lacking = 'config.json' if config is None else 'manifest.json'
    if os.path.exists(os.path.join(workdir, 'begun.json')):
      raise InputError(
        f'{workdir!r} holds a study that is not finished; repeat the command '
        'of the study'
      )
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


def _study_card(workdir, study):
  """Returns the card of a finished study; its first run has the versions."""
  sides, claims = study['sides'], study['judgements']
  run = os.path.join('runs', sides[0]['runs'][0])
  config, made = (
    _read(os.path.join(workdir, run), name) or {}
    for name in ('config.json', 'manifest.json')
  )
  answers = {
    name: (answer, where and os.path.join(run, where))
    for name, (answer, where) in {
      **_of_config(config),
      **_of_manifest(made),
    }.items()
  }
  tested = 'study.json: dataset, test'
  commit = answers['method source code'][0]
  if commit is None or commit.endswith('-modified'):
    answers.pop('method source code')
  answers |= {
    'problem': (study['title'], 'study.json: title'),
    'research type': (
      f'experimental: compares {len(sides)} sides, each with '
      f'{study["num_seeds"]} seeds',
      'study.json: sides, num_seeds',
    ),
    'research question': (study['title'], 'study.json: title'),
    'hypothesis': (
      '; '.join(f'{each["claim"]} ({each["source"]})' for each in claims),
      'study.json: judgements',
    ),
    'prediction': (
      'each claim holds, by the 95 % interval of its difference',
      'study.json: judgements',
    ),
    # A run of a study is tested on the held-out images, a side on others.
    'objective': (_tested(study, 'accuracy on {test} of {dataset}'), tested),
    'test data': (_tested(study, '{dataset}, {test}'), tested),
    'data splits': (
      _tested(study, f'trained on {config["pp"]["train"]}, tested on {{test}}'),
      f'{tested}; {run}/config.json: pp.train',
    ),
    'validation data': (
      f'{config["pp"]["test"]}: chooses the learning rate of each side'
      if any(side['held_out'] for side in sides)
      else 'none: no side has several learning rates to choose from',
      'study.json: sides',
    ),
    'results': (
      '; '.join(f'{each["claim"]}: {each["verdict"]}' for each in claims),
      'study.json: judgements',
    ),
    'random seeds': (f'{study["num_seeds"]} seeds', 'study.json: num_seeds'),
  }
  return _card(f'study {workdir}', answers)


def _tested(study, text):
  """Fills in data set and split; None for a study of an earlier version."""
  keys = ('dataset', 'test')
  return text.format(**study) if all(map(study.get, keys)) else None


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
  text = [f'Variables documented: {", ".join(scores)}.']
  lacking = [v.name for v in card.variables if v.answer == MISSING]
  for name in filter(lacking.__contains__, _KEYS):
    text.append(f'Supply the {name} as --config.{_KEYS[name]}="...".')
  section = Section(
    f'Reproducibility card: {card.title}',
    tuple(text),
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
        answer, where = NOT_SCORED.get(name, MISSING), ''
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
  supplied = {
    name: (config[key], f'config.json: {key}')
    for name, key in _KEYS.items()
    if config.get(key)
  }
  if 'validation' in pp:
    none = 'none: this run chooses nothing by held-out images'
    if config.get('keep_best'):
      none = 'none: the best checkpoint is chosen on the test split'
    supplied['validation data'] = (
      pp['validation'] or none,
      'config.json: pp.validation',
    )
  return supplied | {
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
    lines, _ = run_files.metrics(path)
  return (
    f'logged up to step {lines[-1]["step"]}' if lines else 'no step is logged'
  )
