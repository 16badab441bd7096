import itertools
import json
import os
import subprocess
import sys
import time

import child_processes
import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS
from run_verb import assert_one_line, run_verb

from vit_jax_repro import weights

quick = pytest.mark.quick


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('crosscheck')
  weights.save(folder / 'model.npz', tiny_models.params_of(tiny_models.spec(3)))
  return folder


def test_crosscheck_names_the_cause_of_a_difference(tmp_path):
  import torch_ports

  params = torch_ports.save(tmp_path / 'vit.npz', 'vit_token')
  torch_ports.vit(params, 'vit_token', act='gelu').save_pretrained(
    tmp_path / 'port'
  )
  image = PHOTOGRAPHS['china']
  code, out, err = run_verb(
    'crosscheck',
    f'--weights={tmp_path / "vit.npz"}',
    f'--port=transformers:{tmp_path / "port"}',
    f'--images={image}',
    f'--report={tmp_path / "report.md"}',
    f'--json={tmp_path / "report.json"}',
  )
  assert code == 0, err
  assert all(line.startswith('crosscheck: ') for line in err.splitlines()), err
  report = (tmp_path / 'report.md').read_text()
  for text in (out, report):
    assert 'Cause: GELU form: erf, not tanh.' in text
    assert '56 of 56 arrays are equal bit for bit' in text
  assert report.startswith('# transformers:')
  assert (
    '| layer | in the port | max abs | relative | cosine | tolerance |'
    in report
  )
  row = next(
    x
    for x in report.splitlines()
    if '| Transformer/encoderblock_0/MlpBlock_0' in x
  )
  assert row.endswith('| first |')
  # The port has no preprocessor_config.json.
  assert 'Reading images' not in report
  found = json.loads((tmp_path / 'report.json').read_text())
  assert found['causes'] == ['GELU form: erf, not tanh']
  assert found['images'] is None and found['files'] == [str(image)]


@quick
def test_crosscheck_names_pytorch_if_it_is_missing(folder):
  code = (
    "import sys; sys.modules['torch'] = None; "
    'from vit_jax_repro import crosscheck; '
    f"crosscheck.main(['crosscheck', '--weights={folder}/model.npz', "
    "'--port=transformers:any/thing'])"
  )
  code, out, err = child_processes.run_script(code)
  assert code == 1 and not out
  *progress, line = err.splitlines()
  assert progress[0] == 'crosscheck: comparing transformers:any/thing'
  assert line.startswith('crosscheck: a port needs PyTorch')
  assert "pip install -e '.[torch]'" in line


PORT_FILE = """
import torch
import plain_vit
from vit_jax_repro import weights

def make(**planted):
  return plain_vit.vit(weights.load({path!r}), 2, **planted)

def same():
  return make()

def biased():
  return make(head_bias=False)

def frozen():
  return make(frozen=True)

def small():
  port = make()
  port.tower = port.tower[:1]
  port.classify = torch.nn.Linear(16, 7)
  return port

def failing():
  raise RuntimeError('no weights')

def exiting():
  raise SystemExit(0)

def buggy():
  import vit_jax_repro.comparison.differences as broken
  broken.compare = None
  return make()
"""


@pytest.fixture(scope='module')
def ports_file(folder):
  path = folder / 'plain_ports.py'
  path.write_text(PORT_FILE.format(path=str(folder / 'model.npz')))
  return path


@pytest.mark.parametrize(
  ('flags', 'code', 'text'),
  [
    (['--port={}:same', '--gradients'], 0, 'Gradients agree'),
    (['--port={}:frozen', '--gradients'], 1, 'No gradient reaches: to_patch'),
    (['--port={}:frozen'], 0, 'Agrees: every layer that was compared'),
    (['--port={}:biased'], 1, 'Cause: head: without bias, not with a bias.'),
    (['--port={}:small'], 2, '1 blocks, not 2; 7 classes, not 3; give'),
    (['--port={}:failing'], 2, 'RuntimeError: no weights'),
    (['--port={}:exiting'], 2, 'SystemExit: 0'),
    (['--port={}:absent'], 2, 'there is no function'),
    (['--port=absent.py:make'], 2, "there is no file 'absent.py'"),
    (['--port={}:same', '--images=absent.jpg'], 2, 'no such image'),
    (['--port={}:same', '--weights=absent.npz'], 2, 'absent.npz'),
    (['--port={}:same', '--image_size=x'], 2, '--image_size=x must be'),
    (['--port={}:same', '--dtype=int8'], 2, 'dtype'),
    (['--port={}:buggy'], 2, 'TypeError'),
    (['--export=x.npz'], 2, '--check does not go with --export'),
  ],
)
def test_check_sets_the_exit_code(folder, ports_file, flags, code, text):
  """Whatever ends before a comparison must not look like a difference."""
  found = run_verb(
    'crosscheck',
    f'--weights={folder / "model.npz"}',
    '--image_size=8',
    '--check',
    *(flag.format(ports_file) for flag in flags),
  )
  assert found[0] == code, found
  assert text in found[1] + found[2]
  if code == 2 and 'buggy' not in flags[0]:
    assert not found[1] and 'Traceback' not in found[2]
    assert text in found[2].splitlines()[-1]


def test_exit_code_without_check(folder, ports_file):
  common = f'--weights={folder / "model.npz"}', '--image_size=8'
  code, out, _ = run_verb('crosscheck', *common, f'--port={ports_file}:biased')
  assert code == 0 and 'Differs: first difference between pre_logits' in out
  code, _, err = run_verb('crosscheck', *common, f'--port={ports_file}:small')
  assert code == 1 and '1 blocks, not 2' in err


@quick
def test_help_names_the_exit_codes():
  code, out, _ = run_verb('crosscheck', '--help')
  assert code == 0
  text = ' '.join(out.split())
  assert '0 if the port agrees, 1 if it differs, and 2 if' in text
  assert 'a missing file' in text


@pytest.mark.slow
def test_crosscheck_is_never_silent_for_long(folder, ports_file):
  """A process of its own, as a user starts it, with all its imports."""
  command = [
    sys.executable,
    '-m',
    'vit_jax_repro.crosscheck',
    f'--weights={folder / "model.npz"}',
    f'--port={ports_file}:same',
    '--image_size=8',
  ]
  env = os.environ | {
    'PYTHONPATH': os.pathsep.join(sys.path),
    'VIT_JAX_REPRO_PATIENCE': '2',
  }
  start = time.monotonic()
  with subprocess.Popen(
    command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE
  ) as process:
    assert process.stderr is not None and process.stdout is not None
    times = []
    for line in process.stderr:
      times.append(time.monotonic() - start)
      assert line.startswith((b'crosscheck: ', b'note: ')), line
    out = process.stdout.read()
    times.append(time.monotonic() - start)
  assert process.returncode == 0 and b'Agrees: every layer' in out
  # Other processes may keep this one from running: it takes 1 s on an idle
  # machine, and is silent for 2 s.
  assert times[0] < 8
  assert max(b - a for a, b in itertools.pairwise(times)) < 8


def test_export_works_without_pytorch(folder, tmp_path):
  path = tmp_path / 'reference.npz'
  code = (
    "import sys; sys.modules['torch'] = None; "
    'from vit_jax_repro import crosscheck; '
    f"crosscheck.main(['crosscheck', '--weights={folder}/model.npz', "
    f"'--export={path}', '--images={PHOTOGRAPHS['flower']}', "
    "'--image_size=8'])"
  )
  code, out, err = child_processes.run_script(code)
  assert (code, err) == (0, '')
  assert out == f'{path}: images and 15 activations\n'
  with np.load(path) as archive:
    about = json.loads(archive['about'].tobytes())
    assert archive['images'].shape == (1, 8, 8, 3)
  assert about['files'] == ['flower.jpg']
  assert about['preprocessing'] == 'vit_jax'
  assert os.listdir(tmp_path) == ['reference.npz']


@quick
def test_export_replaces_earlier_exports_only(folder, tmp_path):
  from vit_jax_repro.comparison import export

  images = np.zeros((1, 8, 8, 3), np.float32)
  path = tmp_path / 'export.npz'
  for _ in range(2):
    export.write(path, images, {'logits': images}, {'logits': 1.0}, {})
  other = tmp_path / 'other.npz'
  other.write_bytes((folder / 'model.npz').read_bytes())
  with pytest.raises(ValueError, match='exists and was not written') as error:
    export.check_path(other)
  assert '\n' not in str(error.value)
  assert other.read_bytes() == (folder / 'model.npz').read_bytes()


@quick
@pytest.mark.parametrize(
  ('flags', 'code', 'text'),
  [
    ([], 2, 'one of --port and --export must be given'),
    (['--port=a:b', '--export=b.npz'], 2, 'not both'),
    (['--export={}/x.npz', '--json={}/x.json'], 2, '--json does not go'),
    (['--export={}/model.npz'], 1, 'it would replace'),
    (['--export={}/other.npz'], 1, 'was not written by this command'),
    (['--port=a:b', '--json={}/x', '--report={}/./x'], 2, 'give different'),
    (['--export={}/x.txt'], 1, 'must end in .npz'),
    (['--export={}/x.npz', '--images={}/a.jpg'], 1, 'no such image'),
    (['--port=x:y', '--dtype=bfloat16'], 2, 'dtype'),
  ],
)
def test_crosscheck_refuses_wrong_command_lines_in_one_line(
  folder, flags, code, text
):
  (folder / 'other.npz').write_bytes(b'weights of another model')
  before = sorted(os.listdir(folder))
  answer = run_verb(
    'crosscheck',
    f'--weights={folder / "model.npz"}',
    *(flag.format(folder) for flag in flags),
  )
  assert_one_line(answer, text)
  assert answer[0] == code
  assert sorted(os.listdir(folder)) == before
