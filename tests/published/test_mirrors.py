"""Sources of published files."""

import importlib.util

import pytest

from vit_jax_repro.published import catalogue, mirrors

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
  for name in ('HF_ENDPOINT', 'HF_TOKEN'):
    monkeypatch.delenv(name, raising=False)


def urls(name, **settings):
  entry = catalogue.find(name)
  return [source.url for source in mirrors.sources(entry, **settings)]


def test_sources_lists_the_authors_before_copies():
  hub = 'https://huggingface.co/{}/resolve/main/{}'.format
  assert urls('ViT-B_16-224') == [
    'https://storage.googleapis.com/vit_models/'
    'imagenet21k%2Bimagenet2012/ViT-B_16-224.npz',
    hub('timm/vit_base_patch16_224.orig_in21k_ft_in1k', 'model.safetensors'),
    hub('google/vit-base-patch16-224', 'model.safetensors'),
    hub('google/vit-base-patch16-224', 'pytorch_model.bin'),
  ]
  assert urls('DeiT-Ti_16')[:2] == [
    'https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth',
    hub('timm/deit_tiny_patch16_224.fb_in1k', 'model.safetensors'),
  ]
  assert urls('gs://mine/a/b.npz') == [
    'https://storage.googleapis.com/mine/a/b.npz'
  ]


def test_sources_lists_a_mirror_first():
  found = urls('BiT-S-R50x1', mirror='http://mirror:8000/x/')
  assert found == [
    'http://mirror:8000/x/bit_models/BiT-S-R50x1.npz',
    'https://storage.googleapis.com/bit_models/BiT-S-R50x1.npz',
  ]
  index = mirrors.index_sources(mirror='http://mirror')
  assert [source.url for source in index] == [
    'http://mirror/vit_models/augreg/index.csv',
    'https://storage.googleapis.com/vit_models/augreg/index.csv',
  ]


def test_sources_have_a_hash_a_layout_and_a_needed_library():
  sources = mirrors.sources(catalogue.find('DeiT-Ti_16'))
  assert [s.suffix for s in sources] == [
    '.pth', '.safetensors', '.safetensors', '.bin',
  ]  # fmt: skip
  assert [s.copy_of for s in sources] == [
    'deit', 'timm', 'transformers', 'transformers',
  ]  # fmt: skip
  assert sources[0].hashes == ('sha256:a1311bcf',)
  for source, library in zip(
    sources, ['torch', 'safetensors', 'safetensors', 'torch'], strict=True
  ):
    there = importlib.util.find_spec(library) is not None
    assert source.needs == (None if there else library)
  assert mirrors.sources(catalogue.find('sam/ViT-B_16'))[0].needs is None


def test_sources_use_the_hub_of_the_environment(monkeypatch):
  monkeypatch.setenv('HF_ENDPOINT', 'http://hub.example/')
  monkeypatch.setenv('HF_TOKEN', 'secret')
  sources = mirrors.sources(catalogue.find('sam/ViT-B_16'), mirror='http://m')
  assert [(s.url, s.token) for s in sources[1:]] == [
    ('https://storage.googleapis.com/vit_models/sam/ViT-B_16.npz', None),
    (
      'http://hub.example/timm/vit_base_patch16_224.sam_in1k/resolve/main/'
      'model.safetensors',
      'secret',
    ),
  ]
  assert 'secret' not in repr(sources)
