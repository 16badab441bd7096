"""Fetching of a published file: its sources, conversion and existing files.

The files have their real sizes and random weights. All addresses outside this
machine are behind a proxy that does not respond.
"""

import dataclasses
import hashlib
import json
import os
import socket
import time

import child_processes
import efficientnets
import jax
import numpy as np
import pytest
import tiny_models
from file_server import FORBIDDEN, Served, serving
from hub_files import hub_files, repository, safetensors_of

from vit_jax_repro import jobs, models, weights
from vit_jax_repro.inference import restoring
from vit_jax_repro.published import (
  catalogue,
  download,
  fetching,
  partial_download,
)
from vit_jax_repro.weights import layouts as weight_names
from vit_jax_repro.weights import model_card, trees

AUGREG = 'augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'
NAME = f'{AUGREG}--imagenet2012-steps_20k-lr_0.03-res_224'
ENTRY = catalogue.find(NAME)
TIMM = f'{ENTRY.timm}/resolve/main/model.safetensors'

FETCHING = """
import resource, sys
from vit_jax_repro.published import fetching
name, directory, mirror, limit = sys.argv[1:]
if int(limit):
  hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
  resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
try:
  fetching.fetch(name, directory, mirror=mirror, waits=())
  print('fetched')
except OSError as error:
  print(error)
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
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


@pytest.fixture(name='params', scope='module')
def random_params():
  return tiny_models.params_of(models.variant('ViT-Ti_16'), (224, 224))


@pytest.fixture(name='official', scope='module')
def official_file(params, tmp_path_factory):
  path = tmp_path_factory.mktemp('official') / 'x.npz'
  weights.save(path, params)
  return path.read_bytes()


def fetch(tmp_path, name=NAME, **settings):
  return fetching.fetch(name, tmp_path / 'w', waits=(), **settings)


def names(tmp_path):
  return sorted(path.name for path in (tmp_path / 'w').iterdir())


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def at(entry):
  return entry.path.replace('+', '%2B')


@pytest.mark.quick
def test_fetch_downloads_the_official_file_once(tmp_path, official, params):
  with serving(**{at(ENTRY): Served(official)}) as (base, _, seen):
    fetched = fetch(tmp_path, mirror=base)
    again = fetch(tmp_path, mirror=base)
    assert len(seen) == 1
  digits = hashlib.sha256(official).hexdigest()
  assert fetched == fetching.Fetched(
    path=ENTRY.path,
    file=str(tmp_path / 'w' / ENTRY.file_name),
    size=len(official),
    sha256=digits,
    source=f'{base}/{ENTRY.path}',
    source_sha256=digits,
    checked=(),
    notes=(),
    date=fetched.date,
  )
  assert again == dataclasses.replace(fetched, was_there=True)
  assert names(tmp_path) == [
    ENTRY.file_name, f'{ENTRY.file_name}.fetched.json',
  ]  # fmt: skip
  assert_equal(weights.load(fetched.file), params)


@pytest.mark.quick
def test_fetch_compares_a_given_hash(tmp_path, official):
  digits = hashlib.sha256(official).hexdigest()
  with serving(**{at(ENTRY): Served(official)}) as (base, *_):
    with pytest.raises(OSError, match='wrong bytes: their sha256 is'):
      fetch(tmp_path, mirror=base, sha256='0' * 64)
    assert names(tmp_path) == []
    fetched = fetch(tmp_path, mirror=base, sha256=digits.upper())
    assert fetched.checked == (f'sha256:{digits}',)
    assert fetch(tmp_path, sha256=digits).was_there
    with pytest.raises(ValueError, match='exists, but its SHA-256 was'):
      fetch(tmp_path, sha256='0' * 64)
  with pytest.raises(ValueError, match='64 hexadecimal digits'):
    fetch(tmp_path, sha256='abc')


@pytest.mark.quick
def test_fetch_checks_an_existing_file_without_a_record(tmp_path, official):
  (tmp_path / 'w').mkdir()
  path = tmp_path / 'w' / ENTRY.file_name
  path.write_bytes(official)
  fetched = fetch(tmp_path)
  assert fetched.was_there and fetched.source == ''
  assert fetched.notes == ('its source is not recorded',)
  for damaged, message in (
    (official[:-100], 'truncated .npz archive'),
    (official[:9999] + b'\0\0' + official[10_001:], 'damaged'),
    (b'<html>', 'HTML or XML page'),
  ):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='exists, but') as error:
      fetch(tmp_path)
    text = str(error.value)
    assert message in text and 'remove it to' in text
    assert 'download it again' not in text
    assert 'it:' not in text and text.count('/w/') == 1
    assert path.read_bytes() == damaged


@pytest.mark.quick
def test_fetch_rejects_a_file_as_its_folder(tmp_path):
  (tmp_path / 'w').write_text('mine')
  with pytest.raises(OSError, match='is a file; give the name of a folder'):
    fetch(tmp_path)
  assert (tmp_path / 'w').read_text() == 'mine'


def test_fetch_rejects_a_changed_or_different_file(tmp_path, official, params):
  with serving(**{at(ENTRY): Served(official)}) as (base, *_):
    fetched = fetch(tmp_path, mirror=base)
  with open(fetched.file, 'ab') as file:
    file.write(b'\0')
  with pytest.raises(ValueError, match='it has changed since it was fetched'):
    fetch(tmp_path)
  # Has the same name, but another folder in the bucket.
  record = f'{fetched.file}.fetched.json'
  with open(record) as file:
    content = json.load(file)
  with open(record, 'w') as file:
    json.dump({**content, 'path': 'vit_models/other.npz'}, file)
  with pytest.raises(ValueError, match='but it is vit_models/other'):
    fetch(tmp_path)
  os.remove(record)
  weights.save(fetched.file, tiny_models.with_head(params))
  assert fetch(tmp_path).was_there
  params = tiny_models.params_of(tiny_models.spec(1000))
  weights.save(fetched.file, params)
  with pytest.raises(ValueError, match='hidden_size 16 instead of'):
    fetch(tmp_path)


@pytest.mark.quick
def test_fetch_rejects_a_source_with_another_model(tmp_path):
  params = tiny_models.params_of(tiny_models.spec(1000))
  weights.save(tmp_path / 'x.npz', params)
  served = Served((tmp_path / 'x.npz').read_bytes())
  with (
    serving(**{at(ENTRY): served}) as (base, *_),
    pytest.raises(OSError, match=r'it is not augreg/Ti_16'),
  ):
    fetch(tmp_path, mirror=base)
  assert names(tmp_path) == []


def test_fetch_notes_an_unexpected_size(tmp_path, params):
  flat = weight_names.to_file(trees.flatten(params), 'official')
  np.savez_compressed(tmp_path / 'x.npz', **flat)
  served = Served((tmp_path / 'x.npz').read_bytes())
  with serving(**{at(ENTRY): served}) as (base, *_):
    fetched = fetch(tmp_path, mirror=base)
  assert fetched.notes == (
    f'{len(served.content)} bytes, not the computed 22934582 or 22938582; all '
    'arrays were read and are of the right shapes',
  )


@pytest.mark.quick
def test_fetch_lists_all_sources_if_none_has_the_file(
  tmp_path, monkeypatch, capsys
):
  with serving(**{at(ENTRY): FORBIDDEN}) as (base, _, seen):
    monkeypatch.setenv('HF_ENDPOINT', base)
    with pytest.raises(OSError) as error:
      fetch(tmp_path, mirror=base)
  text, answers = str(error.value), error.value.__notes__
  assert text.startswith(f'none of the 3 sources of {NAME} gives it; copy ')
  assert answers == [
    f'{base}/{ENTRY.path}: 403 Forbidden',
    'https://storage.googleapis.com: the proxy does not answer',
    f'{base}/{ENTRY.timm}/resolve/main/model.safetensors: 404 Not Found',
  ]
  assert capsys.readouterr().err.splitlines() == [
    f'note: {line}' for line in answers
  ]
  assert f'copy gs://{ENTRY.path} to {tmp_path}' in text
  assert 'python -m vit_jax_repro.convert model.safetensors' in text
  assert '\n' not in text and names(tmp_path) == []
  assert all(path.endswith(('.npz', '.safetensors')) for path, _ in seen)


@pytest.mark.quick
def test_fetch_asks_each_silent_host_once(tmp_path, monkeypatch):
  """Fault: one line for each file of a host that does not answer."""
  for name in ('STORAGE', 'RELEASES'):
    monkeypatch.setenv(
      f'VIT_JAX_REPRO_{name}', f'http://{name.lower()}.invalid'
    )
  for name in ('HTTP_PROXY', 'http_proxy'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('HF_ENDPOINT', 'http://hub.invalid')
  with pytest.raises(OSError) as error:
    fetch(tmp_path, 'imagenet21k/ViT-B_16')
  assert error.value.__notes__ == [
    f'http://{host}.invalid: its host name is not found (offline?)'
    for host in ('storage', 'releases', 'hub')
  ]
  assert str(error.value).endswith(
    f'; connect to the internet, or put the file at {tmp_path}/w/ViT-B_16.npz'
  )


@pytest.mark.quick
def test_fetch_keeps_an_existing_card(tmp_path):
  (tmp_path / 'w').mkdir()
  card = tmp_path / 'w' / ENTRY.file_name.replace('.npz', '.json')
  card.write_text('{}')
  with pytest.raises(ValueError, match='exists already and would describe'):
    fetch(tmp_path)
  assert card.read_text() == '{}'


def test_fetch_converts_a_copy_on_the_hub(tmp_path, monkeypatch, params):
  copy = safetensors_of(params, 'timm')
  files = hub_files(copy, TIMM)
  files['blob'].cuts = [10 * download.CHUNK_BYTES]
  with serving(**files) as (base, _, seen):
    monkeypatch.setenv('HF_ENDPOINT', base)
    fetched = fetching.fetch(NAME, tmp_path / 'w', waits=(0,))
  digits = hashlib.sha256(copy).hexdigest()
  assert fetched.source == f'{base}/{TIMM}'
  assert fetched.source_sha256 == digits != fetched.sha256
  assert fetched.checked == (f'sha256:{digits}',)
  assert fetched.answers == (
    'https://storage.googleapis.com: the proxy does not answer',
  )
  assert fetched.notes == ("converted from timm's layout to the official .npz",)
  assert fetched.size in ENTRY.sizes
  assert_equal(weights.load(fetched.file), params)
  assert names(tmp_path) == [
    ENTRY.file_name, f'{ENTRY.file_name}.fetched.json',
  ]  # fmt: skip
  assert len(seen) == 4  # two redirects and two parts
  assert fetch(tmp_path).was_there


def test_fetch_removes_the_part_of_a_failed_source(
  tmp_path, monkeypatch, params, official
):
  files = hub_files(safetensors_of(params, 'timm'), TIMM)
  files[at(ENTRY)] = Served(official, cuts=[10 * download.CHUNK_BYTES])
  with serving(**files) as (base, *_):
    monkeypatch.setenv('HF_ENDPOINT', base)
    fetched = fetch(tmp_path, mirror=base)
  assert 'after all retries' in fetched.answers[0]
  assert fetched.source == f'{base}/{TIMM}' and len(names(tmp_path)) == 2


def test_fetch_rejects_a_damaged_copy(tmp_path, monkeypatch, params):
  copy = safetensors_of(params, 'timm')
  for content, message in (
    (copy[:-1000], 'a damaged safetensors file'),
    (PAGE, 'an HTML or XML page'),
    (
      safetensors_of(
        tiny_models.params_of(
          models.variant('ViT-Ti_16') | {'num_classes': 9}, (224, 224)
        ),
        'timm',
      ),
      'num_classes 9 instead of 1000',
    ),
  ):
    with serving(**hub_files(content, TIMM)) as (base, *_):
      monkeypatch.setenv('HF_ENDPOINT', base)
      with pytest.raises(OSError, match=message):
        fetch(tmp_path)
    assert names(tmp_path) == []


PAGE = b'<!DOCTYPE html><title>429</title>'


@pytest.mark.parametrize('known', [False, True])
def test_fetch_finds_wrong_numbers_only_by_a_hash(
  tmp_path, monkeypatch, params, known
):
  copy = bytearray(safetensors_of(params, 'timm'))
  files = hub_files(bytes(copy), TIMM)
  copy[-99] ^= 255
  files['blob'].content = bytes(copy)
  if not known:
    del files[TIMM].headers['X-Linked-Etag']
  with serving(**files) as (base, *_):
    monkeypatch.setenv('HF_ENDPOINT', base)
    if known:
      with pytest.raises(OSError, match='wrong bytes: their sha256'):
        fetch(tmp_path)
      assert names(tmp_path) == []
      return
    fetched = fetch(tmp_path)
    digits = hashlib.sha256(copy).hexdigest()
    note = fetched.notes[-1]
    assert 'no hash of these bytes is known' in note and digits in note
    with pytest.raises(ValueError, match=f'its SHA-256 was {digits}'):
      fetch(tmp_path, sha256='0' * 64)


def test_fetch_notes_a_copy_without_head_and_pre_logits(tmp_path, monkeypatch):
  spec = tiny_models.spec(None, hidden_size=192, num_heads=3)
  params = tiny_models.params_of(spec)
  entry = catalogue.Published('vit_models/imagenet21k/x.npz', timm='timm/x')
  copy = safetensors_of(params, 'timm')
  with serving(**hub_files(copy, 'timm/x/resolve/main/model.safetensors')) as (
    base,
    *_,
  ):
    monkeypatch.setenv('HF_ENDPOINT', base)
    fetched = fetch(tmp_path, entry)
  assert fetched.notes[-1] == (
    'the copy has no head and no pre_logits, unlike the official file'
  )
  assert_equal(weights.load(fetched.file), params)


NOTE = "converted from timm's layout to this project's .npz"


def test_fetch_writes_a_card_for_noisy_student(tmp_path, monkeypatch):
  name = 'tf_efficientnet_b0.ns_jft_in1k'
  params = efficientnets.params_of(models.variant('EfficientNet-B0'))
  path = f'timm/{name}/resolve/main/model.safetensors'
  with serving(**hub_files(safetensors_of(params, 'timm'), path)) as (base, *_):
    monkeypatch.setenv('HF_ENDPOINT', base)
    fetched = fetch(tmp_path, name)
  assert fetched.source == f'{base}/{path}'
  assert fetched.notes == (NOTE,)
  assert_equal(weights.load(fetched.file), params)
  restored = restoring.restore(fetched.file)
  assert restored.name == 'EfficientNet-B0'
  assert restored.image_size == (224, 224)
  assert restored.preprocessing == 'deit:crop_pct=0.875'


@pytest.mark.parametrize('suffix', ['pth', 'safetensors', 'bin'])
def test_fetch_writes_a_card_for_deit(tmp_path, monkeypatch, suffix):
  """Names and shapes of a plain DeiT equal those of a ViT."""
  import torch

  from vit_jax_repro import ports

  params = tiny_models.params_of(models.variant('DeiT-Ti_16'), (224, 224))
  entry = catalogue.find('DeiT-Ti_16')
  copy = safetensors_of(params, 'timm')
  path = f'{entry.timm}/resolve/main/model.safetensors'
  if suffix != 'safetensors':
    library = 'deit' if suffix == 'pth' else 'transformers'
    state = ports.to_state_dict(params, library)
    state = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
    state = {'model': state} if suffix == 'pth' else state
    torch.save(state, tmp_path / 'x')
    copy = (tmp_path / 'x').read_bytes()
    path = f'{entry.transformers}/resolve/main/pytorch_model.bin'
  files = hub_files(copy, path)
  if suffix == 'pth':
    digits = hashlib.sha256(copy).hexdigest()[:8]
    files[f'deit-{digits}.pth'] = files['blob']
  with serving(**files) as (base, *_):
    monkeypatch.setenv('HF_ENDPOINT', base)
    if suffix == 'pth':
      entry = dataclasses.replace(entry, url=f'{base}/deit-{digits}.pth')
    fetched = fetch(tmp_path, entry)
  assert fetched.source.endswith(suffix)
  assert fetched.notes[-1].endswith("layout to this project's .npz")
  card = model_card.read_card(fetched.file)
  assert card.preprocessing == 'deit' and card.image_size == (224, 224)
  restored = restoring.restore(fetched.file)
  assert restored.name == 'DeiT-Ti_16' and restored.model.gelu == 'erf'
  assert_equal(weights.load(fetched.file), params)


def start(tmp_path, base, limit=0):
  """Starts a process that fetches, with a limit on the size of its files."""
  return child_processes.Child(
    child_processes.script, FETCHING, NAME, tmp_path / 'w', base, limit
  )


def answer_of(process):
  assert process.wait() == 0, process.stderr
  return process.stdout


def test_fetch_rejects_a_file_in_use_by_another_process(tmp_path, official):
  served = Served(official, pause=0.005)  # two seconds and more
  with serving(**{at(ENTRY): served}) as (base, _, seen):
    one = start(tmp_path, base)
    while not seen:
      time.sleep(0.02)
      assert one.is_running()
    with pytest.raises(OSError, match='is in use by process'):
      fetch(tmp_path, mirror=base)
    assert answer_of(one) == 'fetched\n'
    assert len(seen) == 1
  assert fetch(tmp_path).was_there
  assert (tmp_path / 'w' / ENTRY.file_name).read_bytes() == official
  assert len(names(tmp_path)) == 2


def test_fetch_in_racing_processes_leaves_one_file(tmp_path, official):
  with serving(**{at(ENTRY): Served(official)}) as (base, _, _seen):
    racing = [start(tmp_path, base) for _ in range(2)]
    answers = {answer_of(process) for process in racing}
  assert 'fetched\n' in answers
  assert all(a == 'fetched\n' or 'wait until it has' in a for a in answers)
  assert (tmp_path / 'w' / ENTRY.file_name).read_bytes() == official
  assert len(names(tmp_path)) == 2


def test_fetch_resumes_after_a_killed_process(tmp_path, official):
  served = Served(official, pause=0.01)
  part = partial_download.PartialFile(tmp_path / 'w' / ENTRY.file_name)
  with serving(**{at(ENTRY): served}) as (base, _, seen):
    process = start(tmp_path, base)
    while part.size() < 10 * download.CHUNK_BYTES:
      time.sleep(0.01)
      assert process.is_running()
    process.kill()
    assert names(tmp_path) == [
      f'{ENTRY.file_name}{end}' for end in ('.lock', '.part', '.part.json')
    ]
    size = part.size()
    served.pause = 0
    fetched = fetch(tmp_path, mirror=base)
  assert [headers.get('Range') for _, headers in seen] == [
    None, f'bytes={size}-',
  ]  # fmt: skip
  assert (tmp_path / 'w' / ENTRY.file_name).read_bytes() == official
  assert fetched.sha256 == hashlib.sha256(official).hexdigest()
  assert len(names(tmp_path)) == 2


def test_fetch_resumes_after_a_full_disk(tmp_path, official):
  limit = 10 * download.CHUNK_BYTES + 99
  part = f'{tmp_path / "w" / ENTRY.file_name}.part'
  with serving(**{at(ENTRY): Served(official)}) as (base, _, seen):
    answer = answer_of(start(tmp_path, base, limit))
    message = f'cannot write {part}: File too large; {limit} bytes are kept'
    assert answer.startswith(message)
    assert answer.count('\n') == 1
    assert os.path.getsize(part) == limit
    fetch(tmp_path, mirror=base)
  assert seen[1][1]['Range'] == f'bytes={limit}-'
  assert (tmp_path / 'w' / ENTRY.file_name).read_bytes() == official


def test_fetch_removes_the_copy_if_converting_fills_the_disk(
  tmp_path, monkeypatch, params
):
  copy = safetensors_of(params, 'timm')
  with serving(**hub_files(copy, TIMM)) as (base, *_):
    monkeypatch.setenv('HF_ENDPOINT', base)
    answer = answer_of(start(tmp_path, base, len(copy) + 99))
  assert 'File too large' in answer and names(tmp_path) == []


@pytest.mark.quick
def test_fetch_takes_a_release_only_if_it_is_the_official_file(
  tmp_path, monkeypatch, official, params
):
  """Fault: another file under the official name is taken for it."""
  release = dataclasses.replace(ENTRY, release='ViT-Ti+x.npz')
  flat = weight_names.to_file(trees.flatten(params), 'official')
  np.savez_compressed(tmp_path / 'x.npz', **flat)
  other = Served((tmp_path / 'x.npz').read_bytes())
  files = {at(ENTRY): FORBIDDEN, 'dl/ViT-Ti%2Bx.npz': other}
  with serving(**files) as (base, files, _):
    monkeypatch.setenv('VIT_JAX_REPRO_STORAGE', base)
    monkeypatch.setenv('VIT_JAX_REPRO_RELEASES', f'{base}/dl/')
    monkeypatch.setenv('HF_ENDPOINT', base)
    with pytest.raises(OSError, match='bytes, not the computed 22934582 or'):
      fetch(tmp_path, release)
    assert names(tmp_path) == []
    files['/dl/ViT-Ti%2Bx.npz'] = Served(official)
    fetched = fetch(tmp_path, release)
  assert fetched.source == f'{base}/dl/ViT-Ti%2Bx.npz'
  assert fetched.answers == (f'{base}/{ENTRY.path}: 403 Forbidden',)
  assert fetched.notes == () and fetched.size in ENTRY.sizes
  assert_equal(weights.load(fetched.file), params)


@pytest.mark.quick
def test_fetch_names_similar_files_if_only_the_bucket_has_one(
  tmp_path, monkeypatch
):
  """Fault: a dead end, where a file of the same model has a copy."""
  entry = catalogue.find('sam/ViT-S_16')
  assert not entry.has_copy
  with serving(**{entry.path: FORBIDDEN}) as (base, *_):
    monkeypatch.setenv('VIT_JAX_REPRO_STORAGE', base)
    with pytest.raises(
      OSError, match=r'^the only source .* take a file .*: augreg/S_16-i1k'
    ) as error:
      fetch(tmp_path, 'sam/ViT-S_16')
  assert error.value.__notes__ == [f'{base}/{entry.path}: 403 Forbidden']


@pytest.mark.quick
def test_fetch_converts_any_repository_of_the_hub(tmp_path, monkeypatch):
  """Fault: only repositories of a table can be fetched."""
  pytest.importorskip('huggingface_hub')
  path = tiny_models.save_run(tmp_path / 'model.npz')
  jobs.convert(path, tmp_path / 'port', to='timm')
  monkeypatch.setenv('VIT_JAX_REPRO_CACHE', str(tmp_path / 'cache'))
  with serving(**repository('ann/flowers.v2', tmp_path / 'port')) as (base, *_):
    monkeypatch.setenv('HF_ENDPOINT', base)
    with pytest.raises(ValueError, match=r'its SHA-256 is [0-9a-f]{64}, not 0'):
      fetch(tmp_path, 'ann/flowers.v2', sha256='0' * 64)
    assert names(tmp_path) == []
    fetched = fetch(tmp_path, 'ann/flowers.v2')
  assert fetched.file == str(tmp_path / 'w' / 'flowers.v2.npz')
  assert fetched.source == f'{base}/ann/flowers.v2'
  source = (tmp_path / 'port' / 'model.safetensors').read_bytes()
  assert fetched.source_sha256 == hashlib.sha256(source).hexdigest()
  assert_equal(weights.load(fetched.file), weights.load(path))
  card = model_card.read_card(fetched.file)
  assert card.class_names == ('x', 'flower', 'china')
  assert card.image_size == (8, 12)
  assert fetch(tmp_path, 'hf://ann/flowers.v2').was_there
  assert names(tmp_path) == [
    'flowers.v2.json', 'flowers.v2.npz', 'flowers.v2.npz.fetched.json',
  ]  # fmt: skip


@pytest.mark.quick
def test_fetch_refuses_wrong_names_without_a_network(tmp_path):
  """Fault: a misspelt name waits for the network."""
  for name in ('nosuch', 'imagenet21k/ViT-B_61', 'a/b/c'):
    with pytest.raises(ValueError, match='no published file'):
      fetch(tmp_path, name)
