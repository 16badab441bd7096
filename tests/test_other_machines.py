"""Commands on machines that lack what Linux has, with any names of files.

One process runs them. It and its children are without the modules and calls
that only Linux and macOS have, on a terminal that knows only ASCII, on files,
folders and classes whose names are not UTF-8.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import student_runs
import tiny_models
from file_server import serving
from hub_files import repository
from PIL import Image

from vit_jax_repro import jobs

NAME = os.fsdecode(b'caf\xe9')  # Latin 1
CLASSES = sorted([NAME, 'chat \u732b', 'dog'])
ENDS = (
  ('predict', 0),
  ('predict', 0),
  ('convert', 0),
  ('evaluate', 0),
  ('figures', 0),
  ('main', 0),
  ('main', 1),  # its workdir is not UTF-8
  ('fetch', 0),
  ('fetch', 0),
)
# Each process runs this first; `os.name` stays, on which Python itself builds.
_BLOCK = """
import os, signal, sys
for name in ('fcntl', 'resource', 'grp'):
  sys.modules[name] = None
for module, names in (
  (os, ('fork', 'forkpty', 'mkfifo', 'sched_getaffinity', 'sysconf')),
  (signal, ('SIGALRM', 'SIGHUP', 'SIGKILL', 'SIGUSR1')),
):
  for name in names:
    delattr(module, name)
with open(os.environ['BLOCKED'], 'a') as file:
  file.write(f'{os.getpid()} of {os.getppid()}\\n')
"""
_SCRIPT = """
import json, os, subprocess, sys
from vit_jax_repro import convert, evaluate, fetch, figures, main, predict
commands = dict(
  convert=convert, evaluate=evaluate, fetch=fetch, figures=figures, main=main,
  predict=predict,
)
for name, arguments in json.loads(sys.stdin.buffer.read()):
  sys.argv = [name, *map(os.fsdecode, map(bytes.fromhex, arguments))]
  code = 0
  try:
    commands[name].main()
  except SystemExit as error:
    code = error.code or 0
  print(f'{name} ended with {code}')
subprocess.run([sys.executable, '-c', 'import os; print(hasattr(os, "fork"))'])
"""
_CONFIG = """
import json, ml_collections
def get_config():
  return ml_collections.ConfigDict(json.loads({text!r}))
"""


@pytest.fixture(scope='module')
def answer(tmp_path_factory):
  """Returns the output of all commands."""
  root = tmp_path_factory.mktemp('other') / NAME
  root.mkdir()
  weights = tiny_models.save_run(root / 'model.npz', class_names=CLASSES)
  image = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
  for split in ('train', 'test'):
    for name in CLASSES:
      (root / 'data' / split / name).mkdir(parents=True)
      image.save(root / 'data' / split / name / f'{NAME}.png')
  settings = student_runs.settings('DATA', total_steps=1, batch=2, batch_eval=2)
  settings['model'] = tiny_models.VIT | {'num_layers': 1}
  text = json.dumps(settings)
  config = root.parent / 'config.py'
  config.write_text(_CONFIG.format(text=text))
  data = root / 'data'
  commands = [
    ('predict', f'--weights={weights}', '--preprocessing=timm', data / 'test'),
    ('predict', f'--weights={weights}', f'--csv={root / "a.csv"}', data),
    ('convert', weights, root / 'port', '--to=transformers'),
    (
      'evaluate', f'--weights={weights}', f'--dataset={data}', '--per_class',
      f'--confusion={root / "c.png"}', f'--wrong={root / "wrong.csv"}',
    ),
    ('figures', 'attention', f'--weights={weights}',
     f'--out={root / "f.png"}', data / 'test' / NAME / f'{NAME}.png'),
    ('main', f'--config={config}', f'--config.dataset={data}',
     f'--workdir={root.parent / "run"}'),
    ('main', f'--config={config}', f'--workdir={root / "run"}'),
    ('fetch', '--list'),
    ('fetch', 'ann/flowers', f'--dir={root}'),
  ]  # fmt: skip
  encoded = [
    (name, [os.fsencode(each).hex() for each in arguments])
    for name, *arguments in commands
  ]
  blocking = root.parent / 'blocking'
  blocking.mkdir()
  (blocking / 'sitecustomize.py').write_text(_BLOCK)
  jobs.convert(
    tiny_models.save_run(root.parent / 'model.npz'),
    root.parent / 'flowers',
    to='timm',
  )
  with serving(**repository('ann/flowers', root.parent / 'flowers')) as (
    base,
    *_,
  ):
    found = subprocess.run(
      [sys.executable, '-c', _SCRIPT],
      check=False,
      input=json.dumps(encoded).encode(),
      env=os.environ
      | {
        'BLOCKED': str(root.parent / 'blocked'),
        'HF_ENDPOINT': base,
        'PYTHONIOENCODING': 'ascii',
        'PYTHONPATH': os.pathsep.join([str(blocking), *sys.path]),
        'XDG_CACHE_HOME': str(root.parent / 'cache'),
        'XLA_FLAGS': '',
      },
      capture_output=True,
      timeout=600,
    )
  return root, found.stdout.decode('ascii'), found.stderr.decode('ascii')


def test_commands_end_well(answer):
  _, out, err = answer
  ends = [line for line in out.splitlines() if ' ended with ' in line]
  assert ends == [f'{name} ended with {code}' for name, code in ENDS], err
  assert 'Traceback' not in err and 'Glyph' not in err
  (line,) = [line for line in err.splitlines() if line.startswith('main: ')]
  assert 'are not UTF-8' in line and r'caf\udce9' in line


def test_children_are_blocked_too(answer):
  root, out, _ = answer
  lines = (root.parent / 'blocked').read_text().splitlines()
  first, *children = [line.split(' of ') for line in lines]
  assert first[0] in [parent for _, parent in children]
  assert out.splitlines()[-1] == 'False'


def test_names_are_printed_with_replacements(answer):
  _, out, _ = answer
  assert r'caf\udce9' in out and r'chat \u732b' in out


def test_files_keep_the_bytes_of_names(answer):
  root, *_ = answer
  assert b'/caf\xe9.png' in (root / 'a.csv').read_bytes()
  card = json.loads((root.parent / 'run' / 'model.json').read_text())
  assert card['class_names'] == CLASSES
