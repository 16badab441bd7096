"""Choice of the published file from which a run starts."""

import dataclasses
import hashlib
import json

import pytest
import tiny_models

from vit_jax_repro import jobs
from vit_jax_repro.runs import pretrained
from vit_jax_repro.runs.settings import Preprocessing, Settings

pytestmark = pytest.mark.quick

COLUMNS = (
  'ds', 'final_val', 'adapt_ds', 'adapt_resolution', 'adapt_final_val',
  'params', 'infer_samples_per_sec', 'filename', 'adapt_filename',
)  # fmt: skip


def settings(folder, **fields):
  """Returns settings with this folder of pretrained files."""
  fields = {'model': {}, **fields}
  return Settings(
    dataset='digits',
    pp=Preprocessing(train='train', test='test', crop=8),
    base_lr=0.1,
    total_steps=1,
    pretrained_dir=str(folder),
    **fields,
  )


def write_index(folder, **accuracies):
  """Writes an AugReg index of files with these accuracies."""
  rows = [
    f'i21k,{val},pets,224,0.9,1e6,100,B_16-i21k-{name},B_16-i21k-{name}--pets'
    for name, val in accuracies.items()
  ]
  (folder / 'index.csv').write_text('\n'.join([','.join(COLUMNS), *rows]))


def test_best_augreg_file_has_the_best_accuracy(tmp_path):
  write_index(tmp_path, good=0.4, best=0.5, bad=0.3)
  assert pretrained.best_augreg_file(tmp_path, 'B_16') == 'B_16-i21k-best'
  with pytest.raises(ValueError, match=r'no file with model=ViT-L_16'):
    pretrained.best_augreg_file(tmp_path, 'L_16')
  (tmp_path / 'B_16-i21k-best.npz').touch()
  chosen = settings(tmp_path, model_or_filename='B_16')
  assert pretrained.pretrained_path(chosen).endswith('B_16-i21k-best.npz')


def test_best_augreg_file_needs_no_index_for_a_single_file(tmp_path):
  for name in ('B_16-i21k-x.npz', 'B_16-i21k-x--pets.npz', 'L_16-i21k-y.npz'):
    (tmp_path / name).touch()
  assert pretrained.best_augreg_file(tmp_path, 'B_16') == 'B_16-i21k-x.npz'
  (tmp_path / 'B_16-i21k-z.npz').touch()
  with pytest.raises(
    FileNotFoundError, match=r'^2 files .*fetch --augreg --model=B_16 --best'
  ):
    pretrained.best_augreg_file(tmp_path, 'B_16')


def test_pretrained_path_names_the_command_to_fetch_a_file(tmp_path):
  chosen = settings(tmp_path, model={'model_name': 'ViT-B_16'})
  with pytest.raises(FileNotFoundError, match=r'fetch imagenet21k/ViT-B_16 -'):
    pretrained.pretrained_path(chosen)


def test_pretrained_path_takes_a_file_itself(tmp_path):
  """A file is taken for a folder, and a name for a file inside it."""
  file = tmp_path / 'mine.npz'
  chosen = settings(file, model_or_filename='B_16')
  with pytest.raises(FileNotFoundError, match=r'^no weights file .*mine\.npz'):
    pretrained.pretrained_path(chosen)
  file.touch()
  assert pretrained.pretrained_path(chosen) == str(file)


def test_fingerprint_is_the_sha256_of_the_contents(tmp_path):
  of = settings(tmp_path, model_or_filename='a-b')
  assert pretrained.fingerprint(of) is None  # the file does not exist
  (tmp_path / 'a-b.npz').write_bytes(b'abc')
  # The example of FIPS 180-4.
  assert pretrained.fingerprint(of) == 'ba7816bf8f01cfea'
  fresh = dataclasses.replace(of, pretrained_dir=None)
  assert pretrained.fingerprint(fresh) is None


def test_pretrained_path_accepts_one_model_of_any_kind(tmp_path):
  """Fault: only a folder of published files can be the start of a run."""
  path = tmp_path / 'model.npz'
  (tmp_path / 'manifest.json').touch()
  for fields in ({}, {'model_or_filename': 'Ti_16'}):
    with pytest.raises(ValueError, match=r'has not written model\.npz yet'):
      pretrained.pretrained_path(settings(tmp_path, **fields))
  tiny_models.save_run(path)
  model = {'model': {'model_name': 'ViT-Ti_16'}}
  for fields in ({}, {'model_or_filename': 'Ti_16'}, model):
    assert pretrained.pretrained_path(settings(tmp_path, **fields)) == str(path)
  assert pretrained.pretrained_path(settings(path)) == str(path)
  jobs.convert(path, tmp_path / 'port', to='timm')
  port = settings(tmp_path / 'port', **model)
  assert pretrained.pretrained_path(port) == str(tmp_path / 'port')
  assert pretrained.load(port).card.class_names == ('x', 'flower', 'china')
  weights = (tmp_path / 'port' / 'model.safetensors').read_bytes()
  digits = hashlib.sha256(weights).hexdigest()[:16]
  assert pretrained.fingerprint(port) == digits


@pytest.mark.parametrize('named', [True, False])
def test_fingerprint_covers_an_adapter_with_its_scale_and_base(named, tmp_path):
  """Fault: a run continues on the weights of another base."""
  base, adapter = tmp_path / 'base.npz', tmp_path / 'adapter'
  tiny_models.save_run(base)
  adapter.mkdir()
  config = adapter / 'adapter_config.json'
  name = str(base) if named else None
  config.write_text(json.dumps({'base_model_name_or_path': name}))
  (adapter / 'adapter_model.safetensors').write_bytes(b'abc')
  of = settings(adapter if named else f'{adapter}#base={base}')
  found = [pretrained.fingerprint(of)]
  config.write_text(config.read_text() + ' ')
  found.append(pretrained.fingerprint(of))
  with open(base, 'ab') as file:
    file.write(b' ')
  found.append(pretrained.fingerprint(of))
  assert None not in found
  assert len(set(found)) == 3


def test_fingerprint_covers_all_parts_of_a_model(tmp_path):
  """Fault: models of the same library in parts have the same index."""
  names = [f'model-0000{i}-of-00002.safetensors' for i in (1, 2)]
  index = {'weight_map': dict(zip('ab', names, strict=True))}
  path = tmp_path / 'model.safetensors.index.json'
  path.write_text(json.dumps(index))
  for name in names:
    (tmp_path / name).write_bytes(b'abc')
  before = pretrained.fingerprint(settings(tmp_path))
  assert before == pretrained.fingerprint(settings(path))
  (tmp_path / names[1]).write_bytes(b'abd')
  assert None is not pretrained.fingerprint(settings(tmp_path)) != before


@pytest.mark.parametrize(
  ('text', 'kind', 'message'),
  [
    (
      'nosuch',
      ValueError,
      "dir: no file or folder 'nosuch'; no published file",
    ),
    ('x.npz', FileNotFoundError, 'no weights file config.pretrained_dir=x.npz'),
    ('s3://a/b', ValueError, "dir: 's3://a/b' cannot be fetched; give a file"),
  ],
)
def test_pretrained_path_refuses_other_texts(text, kind, message):
  """Fault: a misspelt folder is looked for on the network."""
  chosen = settings(text, model={'model_name': 'ViT-Ti_16'})
  with pytest.raises(kind, match=message):
    pretrained.pretrained_path(chosen)
