"""Repositories of the Hub, served by a server in this process."""

import json
import pathlib
import time

import pytest
import tiny_models
from file_server import Served, serving
from hub_files import repository, safetensors_of

from vit_jax_repro import jobs, models
from vit_jax_repro.published import hub

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


def test_download_requests_each_file_once(served, port, cache):
  """Fault: a model is downloaded each time that it is used."""
  _, _, seen = served
  folder = pathlib.Path(hub.download('ann/flowers'))
  assert folder.is_relative_to(cache / 'hub')
  assert hub.download('ann/flowers') == str(folder)
  paths = requested(seen)
  assert len(paths) == len(set(paths)) == 3
  for name in ('config.json', 'preprocessor_config.json', 'model.safetensors'):
    assert (folder / name).read_bytes() == (port / name).read_bytes()


@pytest.mark.slow
def test_download_resumes_and_rejects_wrong_bytes(served, tmp_path):
  """Fault: a broken download begins again; damaged weights are used."""
  _, files, seen = served
  (tmp_path / 'ti').mkdir()
  params = tiny_models.params_of(models.variant('ViT-Ti_16'), (224, 224))
  right = safetensors_of(
    params, 'timm'
  )  # huggingface_hub keeps pieces of 10 MB
  (tmp_path / 'ti' / 'model.safetensors').write_bytes(right)
  answers = repository('ann/ti', tmp_path / 'ti')
  files |= {f'/{name}': each for name, each in answers.items()}
  for each in answers.values():
    each.content = right[:-1] + bytes([right[-1] ^ 1])
  with pytest.raises(OSError, match='SHA-256 of the bytes is not'):
    hub.download('ann/ti')
  for each in answers.values():
    each.content, each.cuts, each.if_range = right, [len(right) - 9], False
  folder = hub.download('ann/ti')
  assert (pathlib.Path(folder) / 'model.safetensors').read_bytes() == right
  ranges = [headers.get('Range') for path, headers in seen if '/ti/' in path]
  assert ranges[:2] == [None, None]
  # huggingface_hub writes pieces of 10 MB.
  assert ranges[2] == 'bytes=20971520-' and len(ranges) == 3


def test_download_takes_the_cache_without_a_connection(
  served, monkeypatch, capsys
):
  """Fault: files that are on this machine need the internet."""
  folder = hub.download('ann/flowers')
  monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
  assert hub.download('ann/flowers') == folder
  assert 'takes the copy in the cache' in capsys.readouterr().err


def test_download_reports_an_unreachable_hub_at_once(monkeypatch, capsys):
  """Fault: half a minute of silence, then a line of 700 characters."""
  monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
  started = time.monotonic()
  with pytest.raises(OSError, match=r'^ann/flowers cannot be fetched; ') as at:
    hub.download('ann/flowers')
  assert time.monotonic() - started < 5
  first, second = capsys.readouterr().err.splitlines()
  assert first.startswith('note: http://127.0.0.1:9: no connection (')
  assert second.startswith('note: the cache ') and 'HF_ENDPOINT' in second
  assert all(len(line) < 200 for line in (first, second, str(at.value)))


def test_download_names_what_the_hub_lacks(served):
  """Fault: a misspelt repository is reported as a missing weights file."""
  _, files, _ = served
  missing = Served(b'', 404, {'X-Error-Code': 'RepoNotFound'})
  files['/google/vit-base-patch16-244/resolve/main/config.json'] = missing
  with pytest.raises(
    ValueError, match=r"no public repository .* mean 'google/vit-base-patch16-"
  ):
    hub.download('google/vit-base-patch16-244')
  with pytest.raises(
    ValueError, match=r'ann/empty has none of model\.safetens'
  ):
    hub.download('ann/empty')
  gated = Served(b'', 403, {'X-Error-Code': 'GatedRepo'})
  files['/ann/gated/resolve/main/config.json'] = gated
  with pytest.raises(ValueError, match='ann/gated is gated; ask for access'):
    hub.download('ann/gated')


def test_download_reads_no_weights_of_another_architecture(served, tmp_path):
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
    hub.download('ann/swin')
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
