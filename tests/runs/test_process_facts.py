"""Two processes that would train differently end before the first update."""

import json
import re
import shutil
import time

import child_processes
import jax
import other_software
import student_runs
import tiny_models
from training_sets import write_folder

from vit_jax_repro import jobs, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.parallel import processes

SECONDS = 30  # of a machine that other tests use, too
ENDS = 'start all of them with the same command, code and data'
KEYS = {  # keys of process 1, and what both say
  'seed': (dict(seed=1), 'config.seed is 0 in process 0 and 1 in process 1'),
  'base_lr': (dict(base_lr=0.1), 'config.base_lr is 0.05 in process 0 and 0.1'),
  'total_steps': (dict(total_steps=2), 'config.total_steps is 3 in process 0'),
  'model': (
    dict(model=tiny_models.VIT),
    'config.model.num_layers is 1 in process 0 and 2 in process 1',
  ),
  'checkpoint_every': (dict(checkpoint_every=1), 'config.checkpoint_every is'),
}


def settings(folder, **changes):
  model = dict(tiny_models.VIT, num_layers=1)
  return student_runs.settings(folder, model=model, total_steps=3, **changes)


def write_weights(path, seed):
  spec = tiny_models.spec(10, num_layers=1)
  weights.save(path, tiny_models.params_of(spec, seed=seed))
  return str(path)


def one_of_two(port, number, root):
  """Tries runs in which process 1 differs; prints a line for each."""
  processes.initialize(f'localhost:{port}', 2, number, timeout=60)
  ours, copy, fewer = (str(root / name) for name in ('data', 'copy', 'fewer'))

  def attempt(name, workdir, first, second):
    started = time.monotonic()
    said = 'trained'
    try:
      jobs.train((first, second)[number], root / workdir, show=False)
    except InputError as error:
      said = str(error)
    print('RUN', json.dumps((name, said, time.monotonic() - started)))

  paths = (root / f'{name}.npz' for name in ('one', 'two', 'three'))
  one, two, three = map(str, paths)
  new = settings(ours)
  attempt('data', 'new', new, settings(fewer))
  both = (settings(ours, pretrained_dir=path) for path in (one, two))
  attempt('weights', 'new', *both)
  shutil.copy(one, two)  # now only the places differ
  begun, there = settings(ours, pretrained_dir=one), dict(pretrained_dir=two)
  attempt('places', 'begun', begun, settings(copy, **there))
  for workdir, config in (('new', new), ('begun', begun)):
    for name, (changes, _) in KEYS.items():
      attempt(f'{workdir}: {name}', workdir, config, config | changes)
  attempt('begun: data', 'begun', begun, begun | dict(dataset=fewer))
  attempt('bytes', 'new', new, settings(str(root / 'changed')))
  attempt('begun: weights', 'begun', begun, begun | dict(pretrained_dir=three))
  if number:
    other_software.change_code(root)
  attempt('code', 'new', new, new)
  if number:
    other_software.change_version(root)
  attempt('version', 'new', new, new)


def test_processes_that_differ_all_refuse_to_train(tmp_path):
  for name, number in (('data', 12), ('fewer', 11)):
    write_folder(tmp_path / name, number)
  for name in ('copy', 'changed'):
    shutil.copytree(tmp_path / 'data', tmp_path / name)
  image = next((tmp_path / 'changed' / 'train').rglob('*.png'))
  image.write_bytes(image.read_bytes()[:-1] + b'x')  # of the same size
  for seed, name in enumerate(('one', 'two', 'three')):
    write_weights(tmp_path / f'{name}.npz', seed)
  port = child_processes.free_port()
  children = [
    child_processes.Child(one_of_two, port, number, tmp_path, devices=1)
    for number in range(2)
  ]
  assert [child.wait() for child in children] == [0, 0], children[0].stderr
  lines, others = (
    [json.loads(line) for line in re.findall('RUN (.*)', child.stdout)]
    for child in children
  )
  assert [line[:2] for line in lines] == [line[:2] for line in others]
  said = {name: text for name, text, _ in lines}
  assert said.pop('places') == 'trained'
  wanted = {
    **{name: text for name, (_, text) in KEYS.items()},
    'data': 'the train split is 12 images of 10 classes in ',
    'bytes': 'the train split is 12 images of 10 classes in ',
    'weights': f'config.pretrained_dir is {tmp_path}/one.npz (SHA-256 ',
    'code': 'the code in vit_jax_repro/training/optim.py is SHA-256 ',
    'version': f'the version of jax is {jax.__version__} in process 0 and 9.9',
  }
  assert {name.rpartition(' ')[2] for name in said} == wanted.keys()
  assert len(said) == len(lines) - 1 == len(wanted) + len(KEYS) + 2
  for name, text in said.items():
    start = f'the processes of this job differ: {wanted[name.split()[-1]]}'
    assert text.startswith(start) and text.endswith(ENDS), (name, text)
    assert 'process 0 and ' in text and '\n' not in text
  taken = [x for name, _, x in (*lines, *others) if name != 'places']
  assert max(taken) < SECONDS
  assert not (tmp_path / 'new').exists()
