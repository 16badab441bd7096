"""Tests the verb `fetch` in a process of its own."""

import socket

import augreg_index
import jax
import numpy as np
import pytest
import tiny_models
from file_server import FORBIDDEN, Served, serving
from hub_files import safetensors_of
from run_verb import assert_one_line, run_verb

from vit_jax_repro import models, weights

TI = augreg_index.LINES[5].split(',')[-2]  # the pre-trained Ti/16


@pytest.fixture(autouse=True)
def offline(monkeypatch):
  """Sends requests to other machines to a proxy that does not exist."""
  with socket.socket() as unused:
    unused.bind(('127.0.0.1', 0))
    proxy = f'http://127.0.0.1:{unused.getsockname()[1]}'
  for name in (
    'HF_ENDPOINT', 'HF_TOKEN', 'HTTP_PROXY', 'http_proxy',
    'VIT_JAX_REPRO_RELEASES', 'VIT_JAX_REPRO_STORAGE',
  ):  # fmt: skip
    monkeypatch.delenv(name, raising=False)
  for name in ('https_proxy', 'HTTPS_PROXY'):
    monkeypatch.setenv(name, proxy)


def test_fetch_downloads_the_best_file_of_the_index(tmp_path):
  spec = models.variant('ViT-Ti_16') | {'num_classes': 21_843}
  weights.save(tmp_path / 'x.npz', tiny_models.params_of(spec, (224, 224)))
  content = (tmp_path / 'x.npz').read_bytes()
  index = '\n'.join([augreg_index.HEADER, *augreg_index.LINES]) + '\n'
  files = {
    'vit_models/augreg/index.csv': Served(index.encode()),
    f'vit_models/augreg/{TI}.npz': Served(content, cuts=[2**20]),
  }
  command = ('--augreg', '--model=Ti_16', '--best', f'--dir={tmp_path / "w"}')
  with serving(**files) as (base, _, seen):
    code, out, err = run_verb('fetch', *command, f'--mirror={base}')
    assert code == 0 and not err, err
    assert f'augreg/{TI}' in out and '35.00%' in out and '2870' in out
    assert f'{tmp_path / "w"}/{TI}.npz (39.0 MB, sha256 ' in out
    assert len(seen) == 3
    code, out, err = run_verb('fetch', TI, f'--dir={tmp_path / "w"}')
    assert code == 0 and out.startswith('already there: ') and not err
  assert (tmp_path / 'w' / f'{TI}.npz').read_bytes() == content


def test_fetch_names_the_addresses_without_a_network(tmp_path):
  code, out, err = run_verb('fetch', 'BiT-S-R50x1', f'--dir={tmp_path}')
  answer, end = err.splitlines()
  assert code == 1 and not out
  assert (
    answer == 'note: https://storage.googleapis.com: the proxy does not answer'
  )
  assert end.startswith(
    'fetch: the only source of BiT-S-R50x1 does not give it; connect to the '
    f'internet, or put the file at {tmp_path}/BiT-S-R50x1.npz'
  )
  assert not list(tmp_path.iterdir())


def test_fetch_best_of_augreg_needs_nothing_of_the_bucket(
  tmp_path, monkeypatch
):
  """Fault: the authors' bucket answers 403 to anonymous readers."""
  spec = models.variant('ViT-Ti_16') | {'num_classes': 21_843}
  params = tiny_models.params_of(spec, (224, 224))
  name = 'Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'
  copy = 'timm/vit_tiny_patch16_224.augreg_in21k/resolve/main/model.safetensors'
  files = {
    'vit_models/augreg/index.csv': FORBIDDEN,
    f'vit_models/augreg/{name}.npz': FORBIDDEN,
    copy: Served(safetensors_of(params, 'timm')),
  }
  command = ('--augreg', '--model=Ti_16', '--best', f'--dir={tmp_path}')
  with serving(**files) as (base, *_):
    monkeypatch.setenv('VIT_JAX_REPRO_STORAGE', base)
    monkeypatch.setenv('HF_ENDPOINT', base)
    code, out, err = run_verb('fetch', *command)
  assert code == 0, err
  bucket = f'note: {base}/vit_models/augreg'
  lines = err.splitlines()
  assert lines[0] == f'{bucket}/index.csv: 403 Forbidden'
  assert lines[1].startswith('note: without index.csv, 10 AugReg files')
  assert lines[2] == f'{bucket}/{name}.npz: 403 Forbidden'
  assert 'fine-tuned' in out and 'upstream' not in out and '75.45%' in out
  assert f'{tmp_path / name}.npz (39.0 MB, sha256 ' in out
  jax.tree.map(
    np.testing.assert_array_equal,
    weights.load(tmp_path / f'{name}.npz'),
    params,
  )


@pytest.mark.quick
def test_list_marks_files_without_a_copy():
  code, out, _ = run_verb('fetch', '--list', 'sam/ViT')
  rows = [line for line in out.splitlines() if '/ViT' in line]
  missing = [line.split()[1] for line in rows if 'no copy' in line]
  assert code == 0 and len(rows) == 9
  assert missing == [
    'gsam/ViT-B_16', 'gsam/ViT-B_32', 'gsam/ViT-S_16', 'gsam/ViT-S_32',
    'sam/ViT-L_16', 'sam/ViT-L_32', 'sam/ViT-S_16',
  ]  # fmt: skip
  assert 'no copy: 7 of 9 files are only in' in out and '403 (issue 321' in out


@pytest.mark.quick
def test_list_shows_files_sizes_and_sources():
  code, out, err = run_verb('fetch', '--list')
  assert code == 0 and not err
  assert out.count('\n') > 106 and '…' not in out
  code, out, err = run_verb('fetch', '--list', 'h_14')
  assert code == 0 and not err and out.count('imagenet21k/ViT-H_14') == 1
  cells = [cell.strip() for cell in out.splitlines()[3].strip('│').split('│')]
  assert cells == [
    'imagenet21k/ViT-H_14',
    '21843',
    '224',
    '2642',
    '',
    'official, timm/vit_huge_patch14_224.orig_in21k, '
    'google/vit-huge-patch14-224-in21k',
  ]


def test_augreg_ranks_the_files_of_an_index(tmp_path):
  (tmp_path / 'i.csv').write_text(
    '\n'.join([augreg_index.HEADER, *augreg_index.LINES])
  )
  code, out, err = run_verb(
    'fetch',
    '--augreg',
    f'--index={tmp_path / "i.csv"}',
    '--adapted_to=pets',
    '--max_params=40e6',
    '--min_images_per_sec=1000',
    '--resolution=224',
  )
  assert code == 0 and not err
  rows = [line for line in out.splitlines() if 'augreg/' in line]
  assert ['R26_S_32' in rows[0], 'Ti_16' in rows[1], len(rows)] == [1, 1, 3]
  assert '44.00%' in rows[0] and '94.00%' in rows[0] and '36.0 M' in rows[0]


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], '0 names given; give one name'),
    (['a', 'b'], '2 names given; give one name'),
    (['--list', 'a', 'b'], '2 names'),
    (['--list', '--augreg'], 'give one of them'),
    (['b16', '--best', '--max_params=1'], '--max_params, --best only with'),
    (['--augreg', 'Ti_16'], '1 names'),
    (['--augreg', '--resolution=many'], '--resolution'),
    (['--augreg', '--index=/nowhere.csv'], 'No such file'),
    (['ViT-B_16'], 'imagenet21k/ViT-B_16, '),
    (['BiT-M-R50x1', '--sha256=1'], '64 hexadecimal digits'),
    (['BiT-M-R50x1', '--dir=gs://a/b'], 'must be a folder on this machine'),
    (['BiT-M-R50x1', '--dir=/dev/null/x'], 'Not a directory'),
    (['BiT-M-R50x1', '--dir=/dev/null'], 'is a file; give the name of a fold'),
    (['BiT-M-R50x1', '--mirror=foo'], 'begins with http:// or https://'),
    (['BiT-M-R50x1', '--mirror=ftp://a/b'], 'begins with http:// or https://'),
    (['BiT-M-R50x1', '--mirror=file:///a'], 'begins with http:// or https://'),
    (['--augreg', '--mirror=http://'], 'begins with http:// or https://'),
  ],
)
def test_fetch_refuses_wrong_command_lines_in_one_line(arguments, message):
  answer = run_verb('fetch', *arguments)
  assert_one_line(answer, message)
  assert '--mirror' not in message or answer[0] == 2
