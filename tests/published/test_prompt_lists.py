"""Published class names and templates: fetched, checked, parsed, never run."""

import hashlib

import pytest
import reference
from file_server import Served, serving

from vit_jax_repro.published import catalogue, fetching, prompt_lists
from vit_jax_repro.weights import npz, trees

TEXTS = {
  'clip_prompts.md': (
    '# Prompts\n\n## CIFAR100\n\n```bash\nclasses = [\n    "sea star",\n'
    '    "cat",\n]\n\ntemplates = [\n    "a photo of a {}.",\n]\n```\n\n'
    '## RESISC45\n\n```bash\nclasses = ["x"]\ntemplates = ["{}"]\n```\n'
  ),
  'imagenet_class_names.py': (
    'raise SystemExit("run")\nCLIP_IMAGENET_CLASS_NAMES = [\n'
    '    "Great White shark, x", "T-shirt",\n]\n'
  ),
  'imagenet_prompts.py': 'CLIP_PAPER_PROMPT_TEMPLATES = ["A photo of {}."]\n',
}


@pytest.fixture
def lists(monkeypatch):
  """Replaces the published files by small ones; returns their bytes."""
  contents = {name: text.encode() for name, text in TEXTS.items()}
  known = {
    name: ('', hashlib.sha256(content).hexdigest())
    for name, content in contents.items()
  }
  monkeypatch.setattr(prompt_lists, 'FILES', known)
  return contents


def write(folder, contents):
  for name, content in contents.items():
    (folder / name).write_bytes(content)


@pytest.mark.quick
def test_of_parses_the_files_of_a_folder(lists, tmp_path):
  assert prompt_lists.of('cifar100', tmp_path) is None
  write(tmp_path, lists)
  found = prompt_lists.of('cifar100:3.0.2', tmp_path)
  assert found is not None
  assert found.names == ('sea star', 'cat')
  assert found.templates == ('a photo of a {}.',)
  for name in ('imagenet2012', 'imagenet_v2/matched-frequency'):
    found = prompt_lists.of(name, tmp_path)
    assert found is not None
    assert found.names == ('great white shark', 'tshirt')
    assert found.templates == ('a photo of {}',)
    assert 'big_vision' in found.origin
  assert prompt_lists.of('digits', tmp_path) is None


@pytest.mark.quick
def test_of_refuses_a_changed_file(lists, tmp_path):
  write(tmp_path, lists)
  with (tmp_path / 'clip_prompts.md').open('a') as file:
    file.write(' ')
  with pytest.raises(ValueError, match='SHA-256 differs') as error:
    prompt_lists.of('cifar100', tmp_path)
  assert '\n' not in str(error.value)


@pytest.mark.quick
def test_fetch_gets_vocabulary_and_lists_beside_the_weights(
  lists, tmp_path, monkeypatch
):
  arrays = reference.lit_arrays('lit_bert', 'params')
  npz.write(tmp_path / 'served.npz', arrays.items())
  weights_file = (tmp_path / 'served.npz').read_bytes()
  monkeypatch.setattr(catalogue, 'check_fits', lambda entry, spec: None)
  files = {
    'vit_models/lit/LiT-B16B_2.npz': Served(weights_file),
    'vit_models/lit/LiT-B16B_2.txt': Served(b'[UNK]\n[CLS]\n'),
    **{name: Served(content) for name, content in lists.items()},
  }
  files['imagenet_prompts.py'] = Served(b'changed')
  with serving(**files) as (base, _, _):
    monkeypatch.setenv('VIT_JAX_REPRO_STORAGE', base)
    known = {
      name: (f'{base}/{name}', digits)
      for name, (_, digits) in prompt_lists.FILES.items()
    }
    monkeypatch.setattr(prompt_lists, 'FILES', known)
    found = fetching.fetch('lit/LiT-B16B_2', tmp_path / 'to', waits=())
    again = fetching.fetch('LiT-B16B_2', tmp_path / 'to', waits=())
  assert again.was_there
  there = {path.name for path in (tmp_path / 'to').iterdir()}
  assert {
    'LiT-B16B_2.npz', 'LiT-B16B_2.txt', 'clip_prompts.md',
    'imagenet_class_names.py',
  } <= there  # fmt: skip
  assert 'imagenet_prompts.py' not in there
  assert any('imagenet_prompts.py is not fetched' in x for x in found.notes)
  assert trees.nest(arrays).keys() == {'img', 'txt', 't'}
