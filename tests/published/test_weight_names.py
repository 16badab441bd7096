"""What `--weights` accepts, while the authors' bucket answers 403."""

import json
import os
import shutil

import child_processes
import jax
import numpy as np
import pytest
import tiny_models
from file_server import FORBIDDEN, Served, serving
from hub_files import repository, safetensors_of
from run_verb import run_verb

from vit_jax_repro import jobs, models, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import restoring
from vit_jax_repro.published import weight_names

NAME = 'Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'
COPY = 'timm/vit_tiny_patch16_224.augreg_in21k/resolve/main/model.safetensors'


@pytest.fixture(scope='module')
def params():
  """Random parameters of AugReg's pre-trained Ti/16."""
  spec = models.variant('ViT-Ti_16') | {'num_classes': 21_843}
  return tiny_models.params_of(spec, (224, 224))


@pytest.fixture
def refused(params, monkeypatch, tmp_path):
  """A bucket that answers 403, the Hub with a copy, and an empty cache."""
  files = {
    'vit_models/augreg/index.csv': FORBIDDEN,
    f'vit_models/augreg/{NAME}.npz': FORBIDDEN,
    COPY: Served(safetensors_of(params, 'timm')),
  }
  for name in ('HTTP_PROXY', 'http_proxy', 'https_proxy', 'HTTPS_PROXY'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('VIT_JAX_REPRO_CACHE', str(tmp_path / 'cache'))
  with serving(**files) as (base, _, seen):
    monkeypatch.setenv('VIT_JAX_REPRO_STORAGE', base)
    monkeypatch.setenv('HF_ENDPOINT', base)
    yield seen


@pytest.mark.parametrize(
  'text',
  [
    NAME,
    f'augreg/{NAME}',
    f'gs://vit_models/augreg/{NAME}.npz',
    f'https://storage.googleapis.com/vit_models/augreg/{NAME}.npz',
    'timm/vit_tiny_patch16_224.augreg_in21k',
    'hf://timm/vit_tiny_patch16_224.augreg_in21k',
    'vit_tiny_patch16_224.augreg_in21k',
  ],
)
def test_find_fetches_every_spelling_into_the_cache(
  text, refused, params, tmp_path, capsys
):
  """A name that people have is unknown, or lands in the working directory."""
  path = weight_names.find(text)
  assert path == str(tmp_path / 'cache' / 'weights' / 'augreg' / f'{NAME}.npz')
  kernel = weights.load(path)['head']['kernel']
  np.testing.assert_array_equal(kernel, params['head']['kernel'])
  assert f'note: {text}: {path}, fetched from ' in capsys.readouterr().err
  requests = len(refused)
  assert weight_names.find(text) == path and len(refused) == requests
  assert 'from the cache' in capsys.readouterr().err


def test_main_starts_from_the_bucket_that_refuses(refused, tmp_path):
  """`pretrained_dir=gs://...` of the original's command lines is refused."""
  code, _, err = run_verb(
    'main',
    '--config=configs/augreg.py:Ti_16',
    '--config.dataset=digits',
    '--config.model.scan=True',  # compiles faster
    '--config.pp.train=train[:8]',
    '--config.pp.test=test[:8]',
    '--config.pp.crop=32',
    '--config.batch=8',
    '--config.accum_steps=1',
    '--config.batch_eval=8',
    '--config.total_steps=2',
    '--config.warmup_steps=1',
    f'--workdir={tmp_path / "run"}',
  )
  assert code == 0, err
  assert err.count(f'the best ImageNet-21k file is {NAME}\n') == 1
  assert f'start      from {tmp_path}/cache/weights/augreg/{NAME}.npz' in err
  result = json.loads((tmp_path / 'run' / 'result.json').read_text())
  assert result['step'] == 2


@pytest.mark.quick
def test_find_takes_the_model_of_a_run(tmp_path, tiny_vit):
  """A run's folder is taken for one of a port, or an old model is read."""
  run = tmp_path / 'run'
  run.mkdir()
  (run / 'manifest.json').write_text('{}')
  with pytest.raises(InputError, match=r'has not written model\.npz yet'):
    weight_names.find(run)
  (run / 'model.npz').write_bytes(tiny_vit.read_bytes())
  assert weight_names.find(run) == os.path.join(run, 'model.npz')


@pytest.mark.quick
def test_load_reads_the_folder_of_a_port(tmp_path, tiny_vit, capsys):
  """A port's parameters are transposed, or its classes are lost."""
  jobs.convert(tiny_vit, tmp_path / 'port', to='transformers')
  read = weight_names.load(tmp_path / 'port')
  wanted = weights.load(tiny_vit)
  np.testing.assert_array_equal(
    read.params['embedding']['kernel'], wanted['embedding']['kernel']
  )
  assert read.card.architecture['num_classes'] == 10
  assert 'read as vit from ' in capsys.readouterr().err


@pytest.mark.quick
@pytest.mark.parametrize(
  ('text', 'line'),
  [
    ('MISSING', r"^no file or folder 'MISSING'; .*`fetch --list` shows all"),
    ('ViT-B_166', r"did you mean 'ViT-B_16'"),
    ('imagenet21k/ViT-B_61', "did you mean 'imagenet21k/ViT-B_16'"),
    (
      'vit_base_patch16_244.augreg_in1k',
      r"'timm/vit_base_patch16_224\.augreg_",
    ),
    ('hf://a', "'hf://a' is no repository of the Hub; write hf://USER/REPO"),
    ('hf://a/b/c', 'is no repository of the Hub'),
    ('vit_base_patch16_225', 'did you mean'),
  ],
)
def test_find_refuses_unknown_names_without_a_network(text, line, monkeypatch):
  """A misspelt name waits for the network, or is called a missing file."""
  monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
  with pytest.raises(InputError, match=line):
    weight_names.find(text)


@pytest.mark.quick
@pytest.mark.parametrize(
  'text', ['a.npz', './ViT-B_16', '/tmp/no', 'x/y.pth', 'docs/nosuch']
)
def test_find_leaves_paths_that_do_not_exist(text):
  """A missing file is looked for on the network."""
  assert weight_names.find(text) == text


@pytest.mark.slow
def test_find_waits_for_a_process_that_fetches(refused):
  """All but one process of a job fail, because one is fetching."""
  code = (
    'import sys; from vit_jax_repro.published import weight_names\n'
    'print(weight_names.find(sys.argv[1]))'
  )
  both = [
    child_processes.Child(child_processes.script, code, NAME) for _ in range(2)
  ]
  assert [child.wait() for child in both] == [0, 0], both[1].stderr
  assert [path for path, _ in refused].count(f'/{COPY}') == 1
  assert both[0].stdout == both[1].stdout


@pytest.fixture(scope='module')
def port(tmp_path_factory):
  """A folder of transformers with three named classes, and its model."""
  folder = tmp_path_factory.mktemp('port')
  tiny_models.save_run(folder / 'model.npz')
  jobs.convert(folder / 'model.npz', folder / 'port', to='transformers')
  return folder / 'port', weights.load(folder / 'model.npz')


@pytest.mark.quick
def test_load_reads_a_repository_of_the_hub(port, monkeypatch, tmp_path):
  """A fine-tuned model on the Hub has to be converted by hand."""
  folder, params = port
  monkeypatch.setenv('VIT_JAX_REPRO_CACHE', str(tmp_path))
  for name in ('HTTP_PROXY', 'http_proxy'):
    monkeypatch.delenv(name, raising=False)
  with serving(**repository('ann/flowers', folder)) as (base, *_):
    monkeypatch.setenv('HF_ENDPOINT', base)
    for text in ('hf://ann/flowers', 'ann/flowers'):
      read = weight_names.load(text)
      jax.tree.map(np.testing.assert_array_equal, read.params, params)
      assert read.card.class_names == ('x', 'flower', 'china')
      assert read.card.image_size == (8, 12)
      assert read.card_file.endswith('config.json')


@pytest.mark.quick
def test_load_names_the_description_that_is_wrong(port, tmp_path):
  """A message names a file that does not exist."""
  shutil.copytree(port[0], tmp_path / 'port')
  config = tmp_path / 'port' / 'config.json'
  fields = json.loads(config.read_text())
  config.write_text(json.dumps({**fields, 'hidden_act': 'relu'}))
  with pytest.raises(InputError, match=str(config)):
    restoring.restore(tmp_path / 'port')
