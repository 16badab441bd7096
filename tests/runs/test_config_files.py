"""Tests configuration files of the package, of the original, and of users."""

import os
import pathlib
import re

import pytest

from vit_jax_repro import recipes
from vit_jax_repro.runs import config_files, settings

pytestmark = pytest.mark.quick

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """The working directory of each test, outside the repository."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize(
  'path',
  [
    'configs/vit.py',
    './configs/vit.py',
    'vit_jax/configs/vit.py',
    'vit_jax_repro/configs/vit.py',
    '/nowhere/vit_jax/configs/vit.py',
    '{here}/configs/vit.py',
  ],
)
def test_find_takes_the_file_of_the_package(path, elsewhere):
  """Files that are found in the repository's folder only."""
  found = config_files.find(path.format(here=elsewhere))
  assert pathlib.Path(found) == CONFIGS / 'vit.py'


def test_find_takes_the_file_here_first(elsewhere):
  """A user's file that the package's file of its name hides."""
  for folder in ('configs', 'vit_jax/configs'):
    mine = elsewhere / folder / 'vit.py'
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert config_files.find(f'{folder}/vit.py') == str(mine)


@pytest.mark.parametrize(
  'path, says',
  [
    ('configs/vti.py', "did you mean 'configs/vit.py'"),
    ('/data/configs/vit.py', "did you mean 'configs/vit.py'"),
    ('vit.py', "no configuration file vit.py in {here}; did you mean 'config"),
    ('zzz.py', 'the package has configs/augreg.py, configs/bit.py, configs/m'),
    ('vit_jax/configs/inference_time.py', 'vit_jax_repro.benchmark infer'),
  ],
)
def test_find_refuses_other_paths_in_one_line(path, says, elsewhere):
  """A user's path that means the package's file by chance."""
  says = re.escape(says.format(here=elsewhere))
  with pytest.raises(ValueError, match=says) as error:
    config_files.find(path)
  assert '\n' not in str(error.value)


ORIGINAL = """
import ml_collections

def get_config(arg):
  model = dict(
    model_name='ViT-Ti_16', patches=dict(size=(16, 16)), hidden_size=192,
    transformer=dict(
      mlp_dim=768, num_heads=3, num_layers=12, attention_dropout_rate=0.0,
      dropout_rate=0.0,
    ),
    classifier='token', representation_size=None,
  )
  return ml_collections.ConfigDict(dict(
    pretrained_dir='.', dataset=arg, tfds_manual_dir=None, tfds_data_dir=None,
    total_steps=10_000, grad_norm_clip=1.0, optim_dtype='bfloat16',
    accum_steps=8, batch=512, batch_eval=512, shuffle_buffer=50_000,
    eval_every=100, progress_every=10, checkpoint_every=1_000, prefetch=2,
    base_lr=0.03, decay_type='cosine', warmup_steps=500, trainer='train',
    model=model, model_or_filename=None,
    pp=dict(train='train[:98%]', test='test', resize=448, crop=384),
  )).lock()
"""


def test_load_completes_a_file_with_the_keys_of_the_original(elsewhere):
  """Files of the original whose keys have another name or no effect."""
  (elsewhere / 'mine.py').write_text(ORIGINAL)
  config = config_files.load(
    'mine.py:cifar10', [('accum_steps', '0'), ('tfds_data_dir', '/data')]
  )
  ours = config_files.load('configs/vit.py:ti16,cifar10')
  changed = dict(accum_steps=0, tfds_data_dir='/data')
  assert settings.to_plain(config) == settings.to_plain(ours) | changed
  settings.from_config(config)


SHORT = """
def get_config():
  return dict(
    dataset='digits', base_lr=0.1, total_steps=10, model={},
    pp=dict(train='train', test='test', crop=8),
  )
"""


def test_load_fills_keys_that_a_file_leaves_out(elsewhere):
  """Flags of keys that only a full configuration would take."""
  short = SHORT.replace('{}', repr(recipes.QUICKSTART_MODEL))
  (elsewhere / 'mine.py').write_text(short)
  config = config_files.load('mine.py', [('optim', 'adamw'), ('seed', '3')])
  assert (config.seed, config.batch, config.mesh.fsdp) == (3, 512, 1)
  settings.from_config(config)


@pytest.mark.parametrize(
  'text, argument, says',
  [
    ('', '', 'mine.py has no function get_config; add one'),
    ('def get_config(', '', 'mine.py, line 1: SyntaxError: '),
    ('\nimport nowhere', '', "line 2: No module named 'nowhere'; run in the"),
    ('def get_config():\n  return 1/0', '', 'line 2: ZeroDivisionError: divi'),
    ('def get_config():\n  return 3', '', "returns '3'; it must return an ml_"),
    ('def get_config():\n  return {}', '', 'the configuration has model=None'),
    ('def get_config():\n  return {}', ':a', 'takes no argument; leave out :a'),
    ('def get_config(a):\n  return {}', '', 'needs an argument: --config='),
  ],
)
def test_load_refuses_wrong_files_in_one_line(text, argument, says, elsewhere):
  """A traceback of another library for a mistake in a user's file."""
  (elsewhere / 'mine.py').write_text(text)
  with pytest.raises(ValueError, match=re.escape(says)) as error:
    config_files.load(f'mine.py{argument}')
  assert '\n' not in str(error.value)


def test_load_keeps_the_traceback_of_bugs_of_the_package(elsewhere):
  """A mistake of ours for which the user's file is blamed."""
  (elsewhere / 'mine.py').write_text(
    'from vit_jax_repro.runs import configuration\n'
    'def get_config():\n'
    '  return configuration.create(None, "ViT-B_16")\n'
  )
  with pytest.raises(TypeError):
    config_files.load('mine.py')


def test_load_refuses_a_path_without_a_file():
  """A folder or a name without .py that imports something else."""
  with pytest.raises(ValueError, match=r'configs/vit must be FILE\.py or'):
    config_files.load('configs/vit')
  os.mkdir('mine.py')
  with pytest.raises(ValueError, match=r'no configuration file mine\.py'):
    config_files.load('mine.py')
