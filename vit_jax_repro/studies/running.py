"""Running a study: trains every side, chooses rates, judges the claims."""

import copy
import dataclasses
import os
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, locations
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs.settings import to_plain
from vit_jax_repro.studies import claims, outcome, report
from vit_jax_repro.studies.trainings import Trainings, keep_compiled

_KEYS = (
  'name',
  'size',
  'stages',
  'sides',
  'order',
  'seeds',
  'held_out',
  'base_lrs',
  'once',
)


def run(
  config: Mapping[str, Any], workdir: str | os.PathLike
) -> report.StudyResult:
  """Runs a study or continues one.

  Each side is a chain of trainings, the stages. A stage starts from the model
  of the previous one. If there are several learning rates, the last stage is
  trained with each of them and with every seed. The rate with the best mean
  accuracy on the held-out split is chosen, and only its runs are evaluated on
  the test split. A study runs in one process, on all devices of its machine.

  Args:
    config:
      name: a key of `claims.STUDIES`.
      size: name of the size in the report.
      stages: {name: settings of `jobs.train`}.
      sides: {name: {stage: changed settings}}, nested like the settings. None
        in place of the settings leaves the stage out. A model with a key
        `model` replaces the stage's model completely. A side may also have
        `base_lrs` of its own, or `rate_of`, an earlier side whose learning rate
        it takes.
      order: dict(stages=..., sides=...) with the names in order, because a
        ConfigDict has no order. Sides that are missing here are left out.
      seeds: for all stages; the seed replaces '{seed}' in pp.train.
      held_out: the split on which the learning rate is chosen; None: no choice.
      base_lrs: learning rates of the last stage; (): the stage's own.
      once: names of stages that are trained only with their own seed.
    workdir: folder for the runs, the result (study.json and study.md) and
      begun.json, which records the study and its size.

  Returns:
    The result, as in study.json.

  Raises:
    InputError: a key or side is unknown or missing; the folder holds another
      study, another size or a training run; as `jobs.train`.
    OSError: as `jobs.train`.
  """
  config = checked(to_plain(config))
  if locations.is_address(workdir):
    raise InputError(
      f'workdir={os.fspath(workdir)!r} must be a folder on this machine for a '
      'study; name one'
    )
  workdir = os.path.abspath(os.path.expanduser(os.fspath(workdir)))
  _begin(config, workdir)
  study = claims.STUDIES[config['name']]
  trainings = Trainings(workdir, _count(config))
  sides = []
  keep_compiled()
  for name in config['sides']:
    sides.append(_side(name, config, trainings, study.measures, sides))
  last = list(config['stages'].values())[-1]
  result = report.StudyResult(
    name=config['name'],
    title=study.title,
    size=config['size'],
    num_seeds=len(config['seeds']),
    sides=tuple(sides),
    judgements=tuple(
      judged
      for claim in study.claims
      if (judged := outcome.judge(claim, sides))
    ),
    published=study.published_values(),
    dataset=last['dataset'],
    test=last['pp']['test'],
    published_on=study.published_on(),
  )
  files.write_json(
    os.path.join(workdir, 'study.json'), dataclasses.asdict(result)
  )
  files.write_text(os.path.join(workdir, 'study.md'), report.markdown(result))
  note(f'wrote the result to {os.path.join(workdir, "study.md")}')
  return result


def _begin(config, workdir):
  """Records the study in its folder; refuses the folder of another study."""
  mine = {key: config[key] for key in ('name', 'size')}
  for name in ('begun.json', 'study.json', 'config.json'):
    found = _read(os.path.join(workdir, name))
    if found is None:
      continue
    if name == 'config.json':
      raise InputError(
        f'{workdir} holds a training run; choose another workdir for a study'
      )
    if {key: found.get(key) for key in mine} != mine:
      raise InputError(
        f'{workdir} holds the study {found.get("name")!r} of size '
        f'{found.get("size")!r}, not {mine["name"]!r} of {mine["size"]!r}; '
        'choose another workdir'
      )
  begun = os.path.join(workdir, 'begun.json')
  if not os.path.exists(begun):
    os.makedirs(workdir, exist_ok=True)
    files.write_json(begun, mine)


def _read(path):
  """Reads a JSON file of a workdir; returns None if it does not exist."""
  if not os.path.exists(path):
    return None
  return files.read_json(
    path, 'file of a study', 'choose another workdir', finite=True
  )


def checked(config: dict[str, Any]) -> dict[str, Any]:
  """Returns the configuration with its stages and sides in order.

  Args:
    config: see `run`; a plain dict.

  Raises:
    InputError: see `run`.
  """
  if sorted(config) != sorted(_KEYS):
    raise InputError(f'config.study has {sorted(config)}, not {sorted(_KEYS)}')
  if config['name'] not in claims.STUDIES:
    raise InputError(
      f'unknown study {config["name"]!r}; choose from {sorted(claims.STUDIES)}'
    )
  config = dict(config)
  for what in ('stages', 'sides'):
    known, order = config[what], config['order'][what]
    if unknown := [name for name in order if name not in known]:
      raise InputError(
        f'config.study.order.{what} has {unknown}; choose from {sorted(known)}'
      )
    config[what] = {name: known[name] for name in order}
  for what in ('stages', 'sides', 'seeds'):
    if not config[what]:
      raise InputError(f'config.study has no {what}; give at least one')
  before = []
  for name, changes in config['sides'].items():
    _check_side(name, changes, config, before)
    before.append(name)
  return config


def _check_side(name, changes, config, before):
  known = [*config['stages'], 'base_lrs', 'rate_of']
  if unknown := sorted(changes.keys() - set(known)):
    raise InputError(f'side {name!r} has {unknown}; choose from {known}')
  if changes.get('rate_of', None) not in [None, *before]:
    raise InputError(
      f'side {name!r} takes the rate of {changes["rate_of"]!r}, which is not '
      f'an earlier side; choose from {before}'
    )
  if len(rates_of(changes, config, {})) > 1 and not config['held_out']:
    raise InputError(
      f'side {name!r} has several learning rates and config.study.held_out is '
      'not set; name the split to choose on'
    )


def rates_of(
  changes: Mapping[str, Any],
  config: Mapping[str, Any],
  chosen: Mapping[str, Any],
) -> list[Any]:
  """Returns the learning rates with which a side is trained.

  Args:
    changes: the changes of the side.
    config: from `checked`.
    chosen: {earlier side: its learning rate}.
  """
  if 'rate_of' in changes:
    return [chosen.get(changes['rate_of'])]
  rates = changes.get('base_lrs') or config['base_lrs']
  if rates:
    return rates
  last = list(config['stages'])[-1]
  own = (changes.get(last) or {}).get('base_lr')
  return [own or config['stages'][last]['base_lr']]


def _count(config):
  """Returns how many runs all sides name; some may be the same run."""
  return sum(
    len(rates_of(changes, config, {}))
    * len(config['seeds'])
    * sum(changes.get(stage, {}) is not None for stage in config['stages'])
    for changes in config['sides'].values()
  )


def _side(name, config, trainings, measures, before):
  """Trains one side of a study; `before` are the earlier sides."""
  changes = config['sides'][name]
  chosen = {side.name: side.base_lr for side in before}
  rates = rates_of(changes, config, chosen)
  runs = {
    rate: [
      _chain(config, changes, rate, seed, trainings, name)
      for seed in config['seeds']
    ]
    for rate in rates
  }
  held_out: dict[float, float] = {}
  if len(rates) > 1:
    held_out = {
      rate: statistics.mean(map(trainings.held_out, names))
      for rate, names in runs.items()
    }
  best = max(held_out, key=held_out.__getitem__) if held_out else rates[0]
  *_, (_, settings) = stages(config, changes, best, config['seeds'][0])
  test = list(config['stages'].values())[-1]['pp']['test']
  localities = ()
  if outcome.LOCALITY in measures:
    localities = tuple(map(trainings.locality, runs[best]))
  return outcome.side(
    name,
    best,
    [trainings.accuracy(run, settings, test) for run in runs[best]],
    localities=localities,
    held_out={f'{rate:g}': mean for rate, mean in held_out.items()},
    runs=tuple(runs[best]),
  )


def _chain(config, changes, rate, seed, trainings, side):
  """Trains the stages of a side; returns the name of the last run."""
  run = None
  for stage, settings in stages(config, changes, rate, seed):
    about = f'{side}, learning rate {settings["base_lr"]:g}, seed {seed}'
    if len(config['stages']) > 1:
      about = f'{about}, {stage}'
    run = trainings.train(stage, settings, run, about)
  return run


def stages(
  config: Mapping[str, Any], changes: Mapping[str, Any], rate: float, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (name, settings) of the trainings of one side.

  Args:
    config: from `checked`.
    changes: the changes of the side.
    rate: learning rate of the last stage.
    seed: seed of all stages but those in `once`.
  """
  *_, last = config['stages']
  for stage, own in config['stages'].items():
    if changes.get(stage, {}) is None:
      continue
    settings = _merged(own, changes.get(stage, {}))
    if stage not in config['once']:
      settings['seed'] = seed
    pp = settings['pp']
    pp['train'] = pp['train'].replace('{seed}', str(seed))
    if stage == last:
      settings['base_lr'] = rate
      pp['test'] = config['held_out'] or pp['test']
    yield stage, settings


def _merged(settings, changes):
  """Returns a copy of nested settings, updated by nested changes."""
  settings = copy.deepcopy(settings)
  for key, value in changes.items():
    part = isinstance(value, dict) and not (key == 'model' and key in value)
    settings[key] = _merged(settings[key], value) if part else value
  return settings
