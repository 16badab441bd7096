"""Repositories of the Hub, served by a server in this process."""

import hashlib
import json
import pathlib
import socket
import time

import child_processes
import jax
import numpy as np
import pytest
import tiny_models
from file_server import PIECE, Served, serving
from hub_files import COMMIT, repository
from run_verb import run_verb

from vit_jax_repro import jobs, weights
from vit_jax_repro.published import hub
from vit_jax_repro.weights import model_card

pytestmark = pytest.mark.quick

pytest.importorskip('huggingface_hub')


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  """Sets an empty cache and a proxy that does not exist."""
  for name in ('HF_TOKEN', 'HTTP_PROXY', 'http_proxy'):
    monkeypatch.delenv(name, raising=False)
  for name in ('https_proxy', 'HTTPS_PROXY'):
    monkeypatch.setenv(name, 'http://127.0.0.1:9')
  monkeypatch.setenv('VIT_JAX_REPRO_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


@pytest.fixture(scope='module')
def port(tmp_path_factory):
  """A folder of transformers."""
  folder = tmp_path_factory.mktemp('port')
  tiny_models.save_run(folder / 'model.npz')
  jobs.convert(folder / 'model.npz', folder / 'port', to='transformers')
  return folder / 'port'


@pytest.fixture
def served(port, monkeypatch):
  """The base address, files and requests of a Hub with ann/flowers."""
  with serving(**repository('ann/flowers', port)) as (base, files, seen):
    monkeypatch.setenv('HF_ENDPOINT', base)
    yield base, files, seen


def requested(seen):
  return [path for path, _ in seen if '/resolve/' in path]


def test_download_repository_requests_each_file_once(served, port, cache):
  """Fault: a model is downloaded each time that it is used."""
  _, _, seen = served
  folder = pathlib.Path(hub.download_repository('ann/flowers'))
  assert folder.is_relative_to(cache / 'hub')
  assert hub.download_repository('ann/flowers') == str(folder)
  paths = requested(seen)
  assert len(paths) == len(set(paths)) == 3
  for name in ('config.json', 'preprocessor_config.json', 'model.safetensors'):
    assert (folder / name).read_bytes() == (port / name).read_bytes()


@pytest.mark.slow
def test_download_repository_continues_after_a_kill(served, tmp_path, cache):
  """Fault: a gigabyte begins again after a killed process."""
  _, files, seen = served
  architecture = tiny_models.spec(3, hidden_size=128, mlp_dim=512)
  params = tiny_models.params_of(architecture)
  path = tmp_path / 'model.npz'
  model_card.save_model(path, params, architecture=architecture)
  jobs.convert(path, tmp_path / 'port', to='transformers')
  answers = repository('ann/wide', tmp_path / 'port')
  files |= {f'/{name}': each for name, each in answers.items()}
  slow = answers[f'ann/wide/resolve/{COMMIT}/model.safetensors']
  slow.pause = 0.05
  command = 'ann/wide', f'--dir={tmp_path / "w"}'
  child = child_processes.Child(child_processes.verb, 'fetch', command)
  part = cache / 'hub/ann/wide' / COMMIT / 'model.safetensors.part'
  while not part.exists() or part.stat().st_size < 3 * PIECE:
    assert child.is_running(), child.stderr
    time.sleep(0.01)
  child.kill()
  size, slow.pause = part.stat().st_size, 0
  assert size < len(slow.content)
  code, _, err = run_verb('fetch', *command)
  assert code == 0, err
  asked = [headers.get('Range') for path, headers in seen if 'safe' in path]
  assert asked == [None, f'bytes={size}-']
  fetched = weights.load(tmp_path / 'w' / 'wide.npz')
  jax.tree.map(np.testing.assert_array_equal, fetched, params)


def test_download_repository_rejects_wrong_bytes(served, cache):
  """Fault: damaged weights are used."""
  _, files, _ = served
  weights_file = files[f'/ann/flowers/resolve/{COMMIT}/model.safetensors']
  right = weights_file.content
  weights_file.content = right[:-1] + bytes([right[-1] ^ 1])
  digits = hashlib.sha256(right).hexdigest()
  with pytest.raises(OSError, match=f'wrong bytes: their sha256 .* {digits}'):
    hub.download_repository('ann/flowers')
  assert not list(cache.rglob('model.safetensors*'))
  weights_file.content = right
  folder = pathlib.Path(hub.download_repository('ann/flowers'))
  assert (folder / 'model.safetensors').read_bytes() == right


def test_download_repository_takes_the_cache_without_a_connection(
  served, monkeypatch, capsys
):
  """Fault: files that are on this machine need the internet."""
  folder = hub.download_repository('ann/flowers')
  monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
  assert hub.download_repository('ann/flowers') == folder
  assert 'the copy in the cache is taken' in capsys.readouterr().err


@pytest.fixture
def mute():
  """A server that takes connections and never answers."""
  with socket.create_server(('127.0.0.1', 0)) as server:
    yield f'http://127.0.0.1:{server.getsockname()[1]}'


@pytest.mark.parametrize(
  ('address', 'reason'),
  [
    ('http://127.0.0.1:9', 'connection refused'),
    ('http://hub.invalid', 'its host name is not found (offline?)'),
    pytest.param(None, 'no answer in time', marks=pytest.mark.slow),
  ],
)
def test_download_repository_reports_an_unreachable_hub_at_once(
  address, reason, mute, monkeypatch, capsys
):
  """Fault: half a minute of silence, then a line of 700 characters."""
  address = address or mute
  monkeypatch.setenv('HF_ENDPOINT', address)
  started = time.monotonic()
  with pytest.raises(OSError, match=r'^ann/flowers: the cache has no') as error:
    hub.download_repository('ann/flowers')
  assert time.monotonic() - started < 20
  lines = capsys.readouterr().err.splitlines()
  assert lines[-1] == f'note: {address}: {reason}'
  assert all(len(line) < 150 for line in [*lines, str(error.value)])


def test_download_repository_knows_an_address_that_is_no_hub(served):
  """Fault: the page of a hotel's network is taken for a configuration."""
  _, files, _ = served
  files['/ann/page/resolve/main/config.json'] = Served(b'<html>')
  with pytest.raises(OSError, match='ann/page: the cache has no copy'):
    hub.download_repository('ann/page')


def test_download_repository_names_what_the_hub_lacks(served):
  """Fault: a misspelt repository is reported as a missing weights file."""
  _, files, _ = served
  missing = Served(b'', 404, {'X-Error-Code': 'RepoNotFound'})
  files['/google/vit-base-patch16-244/resolve/main/config.json'] = missing
  with pytest.raises(
    ValueError, match=r"no public repository .* mean 'google/vit-base-patch16-"
  ):
    hub.download_repository('google/vit-base-patch16-244')
  with pytest.raises(ValueError, match=r'ann/empty has no weights of'):
    hub.download_repository('ann/empty')
  gated = Served(b'', 403, {'X-Error-Code': 'GatedRepo'})
  files['/ann/gated/resolve/main/config.json'] = gated
  with pytest.raises(ValueError, match='ann/gated is gated; ask for access'):
    hub.download_repository('ann/gated')


def test_download_repository_refuses_another_architecture_early(
  served, tmp_path
):
  """Fault: gigabytes are fetched before the model is refused."""
  _, files, seen = served
  (tmp_path / 'swin').mkdir()
  (tmp_path / 'swin/config.json').write_text(json.dumps({'model_type': 'swin'}))
  (tmp_path / 'swin/model.safetensors').write_bytes(b'x')
  answers = repository('ann/swin', tmp_path / 'swin')
  files |= {f'/{name}': each for name, each in answers.items()}
  with pytest.raises(
    ValueError, match="unknown model_type 'swin'; choose from"
  ):
    hub.download_repository('ann/swin')
  assert len(requested(seen)) == 1


@pytest.mark.parametrize(
  ('text', 'name'),
  [
    ('hf://ann/flowers', 'ann/flowers'),
    ('https://huggingface.co/ann/flowers/', 'ann/flowers'),
    ('ann/flowers', 'ann/flowers'),
    ('flowers', None),
    ('a/b/c', None),
    ('../x', None),
  ],
)
def test_repository_of_knows_names_and_addresses(text, name):
  """Fault: a path is taken for a repository."""
  assert hub.repository_of(text) == name
