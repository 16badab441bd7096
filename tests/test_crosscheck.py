import json
import os

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
  assert (code, err) == (0, ''), err
  report = (tmp_path / 'report.md').read_text()
  for text in (out, report):
    assert 'Cause: GELU form: erf, not tanh.' in text
    assert '56 of 56 arrays are equal bit for bit' in text
  assert report.startswith('# transformers:')
  assert '| layer | max abs | relative | cosine | tolerance |' in report
  row = next(
    x for x in report.splitlines() if '| Transformer/encoderblock_0' in x
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
    "'--port=transformers:anything'])"
  )
  assert_one_line(
    child_processes.run_script(code),
    'crosscheck: a port needs PyTorch',
    "pip install -e '.[torch]'",
  )


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
  assert out == f'{path}: images and 7 activations\n'
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
    (['--export={}/x.npz', '--weights={}'], 1, 'with the command convert'),
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
