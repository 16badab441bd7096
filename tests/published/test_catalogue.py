"""The table of published files and the names it accepts."""

import pytest
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.paper import table
from vit_jax_repro.published import catalogue

pytestmark = pytest.mark.quick

TI = 'augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'


def test_table_has_valid_entries():
  entries = catalogue.table()
  assert len(entries) > 100
  assert len({entry.name for entry in entries}) == len(entries)
  for entry in entries:
    assert entry.path.endswith('.npz') and entry.path.count('/') in (1, 2)
    assert models.canonical_name(entry.model) == entry.model
    is_lit = entry.path.startswith('vit_models/lit/')
    assert entry.num_classes in ((None,) if is_lit else (1000, 21_843))
    assert all(size > 4 * 5e6 for size in entry.sizes)
    assert entry.is_official or entry.timm
    assert catalogue.find(entry.name) == entry
    assert catalogue.find(f'gs://{entry.path}') == entry


def test_sizes_equal_those_of_saved_files(tmp_path):
  entry = catalogue.find(f'{TI}--imagenet2012-steps_20k-lr_0.03-res_224')
  params = tiny_models.params_of(models.variant('ViT-Ti_16'), (224, 224))
  weights.save(tmp_path / 'x.npz', params)
  assert (tmp_path / 'x.npz').stat().st_size in entry.sizes
  assert entry.sizes == (22_934_582, 22_938_582)


@pytest.mark.parametrize(
  'name, path',
  [
    ('imagenet21k/ViT-B_16', 'vit_models/imagenet21k/ViT-B_16.npz'),
    ('vit_models/sam/ViT-B_16.npz', 'vit_models/sam/ViT-B_16.npz'),
    (
      'https://storage.googleapis.com/vit_models/sam/ViT-B_16.npz',
      'vit_models/sam/ViT-B_16.npz',
    ),
    ('ViT-H_14', 'vit_models/imagenet21k/ViT-H_14.npz'),
    ('vit-b_16-224', 'vit_models/imagenet21k+imagenet2012/ViT-B_16-224.npz'),
    ('BiT-M-R50x1', 'bit_models/BiT-M-R50x1.npz'),
    ('DeiT-B_16', 'deit/DeiT-B_16.npz'),
    ('DeiT-B_16-384', 'deit/DeiT-B_16-384.npz'),
    (
      'timm/mixer_b16_224.goog_in21k',
      'mixer_models/imagenet21k/Mixer-B_16.npz',
    ),
    ('mixer_b16_224.goog_in21k', 'mixer_models/imagenet21k/Mixer-B_16.npz'),
    (
      'https://huggingface.co/google/vit-base-patch16-224',
      'vit_models/imagenet21k+imagenet2012/ViT-B_16-224.npz',
    ),
    ('H_14', 'vit_models/imagenet21k/ViT-H_14.npz'),
    (TI.removeprefix('augreg/'), f'vit_models/{TI}.npz'),
    ('gs://mine/a/b.npz', 'mine/a/b.npz'),
  ],
)
def test_find_accepts_every_form_of_a_name(name, path):
  assert catalogue.find(name).path == path


def test_find_returns_augreg_files_outside_the_table():
  tuned = catalogue.find(f'{TI}--cifar100-steps_10k-lr_0.003-res_384.npz')
  assert tuned == catalogue.Published(
    f'vit_models/{TI}--cifar100-steps_10k-lr_0.003-res_384.npz',
    'ViT-Ti_16',
    None,
    384,
  )
  other = catalogue.find(TI.replace('aug_none', 'aug_light1'))
  known = catalogue.find(TI)
  assert known.timm and not other.timm
  assert (other.sizes, other.num_classes) == (known.sizes, 21_843)
  scratch = catalogue.find('R26_S_32-i1k-' + TI.partition('i21k-')[2])
  assert (scratch.model, scratch.num_classes) == ('R26+ViT-S_32', 1000)
  assert scratch.sizes == (145_814_996, 145_820_736)


@pytest.mark.parametrize(
  'name, parts',
  [
    (
      'ViT-B_16',
      (
        " imagenet21k/ViT-B_16, imagenet21k+imagenet2012/ViT-B_16, "
        "imagenet21k+imagenet2012/ViT-B_16-224, ",
        'sam/ViT-B_16',
        'more (`fetch --list ViT-B_16`); give one of these names',
      ),
    ),
    ('b16', ("'b16' may be any of", 'imagenet21k/ViT-B_16')),
    ('Mixer-B_16', ('imagenet1k/Mixer-B_16', 'imagenet21k/Mixer-B_16')),
    ('R_Ti_16', ('augreg/R_Ti_16-i21k-300ep',)),
    ('ViT-B16', ("no published file 'ViT-B16'; did you mean 'ViT-B_16'",)),
    ('timm/vit_base_patch16_225.augreg_in21k', ('vit_base_patch16_224.au',)),
    ('', ("no published file ''; `fetch --list` shows all names",)),
    ('X_16-i21k-' + TI.partition('i21k-')[2], ('no published file',)),
  ],
)  # fmt: skip
def test_find_rejects_ambiguous_and_unknown_names(name, parts):
  with pytest.raises(ValueError) as error:
    catalogue.find(name)
  for part in parts:
    assert part in str(error.value)
  assert '\n' not in str(error.value)


def test_matching_filters_by_pattern():
  assert catalogue.matching() == list(catalogue.table())
  names = [entry.name for entry in catalogue.matching('h_14')]
  assert names == ['imagenet21k/ViT-H_14']
  assert {e.model for e in catalogue.matching('*bit*/BiT-S*')} >= {
    'BiT-S-R50x1', 'BiT-S-R152x4',
  }  # fmt: skip
  assert catalogue.matching('facebook/*')[0].name == 'DeiT-B_16-384'
  with pytest.raises(ValueError, match='no published file fits'):
    catalogue.matching('resnet18')


SPEC = {
  'model': 'vit',
  'num_classes': 1000,
  'patch_size': (16, 16),
  'hidden_size': 192,
  'transformer': {'num_layers': 12, 'mlp_dim': 768, 'num_heads': 3},
  'image_size': (224, 224),
}


@pytest.mark.parametrize(
  'change, message',
  [
    ({}, None),
    ({'num_classes': None, 'image_size': None}, None),
    ({'num_classes': 10}, 'num_classes 10 instead of 1000'),
    ({'image_size': (384, 384)}, r'image_size \(384, 384\) instead of \(224'),
    ({'hidden_size': 384}, 'hidden_size 384 instead of 192'),
    ({'patch_size': (32, 32)}, 'patch_size'),
    ({'distilled': True}, 'distilled True instead of False'),
    ({'resnet': {'num_layers': ()}}, 'resnet'),
    ({'model': 'mixer'}, 'model mixer instead of vit'),
    ({'transformer': {**SPEC['transformer'], 'num_layers': 11}}, 'num_layers'),
  ],
)
def test_check_fits_rejects_another_architecture(change, message):
  entry = catalogue.find(f'{TI}--imagenet2012-steps_20k-lr_0.03-res_224')
  if message is None:
    catalogue.check_fits(entry, SPEC | change)
  else:
    with pytest.raises(ValueError, match=message):
      catalogue.check_fits(entry, SPEC | change)
  catalogue.check_fits(catalogue.Published('any/file.npz'), SPEC | change)


@pytest.mark.parametrize(
  'entry', catalogue.table(), ids=lambda entry: entry.name[:60]
)
def test_check_fits_accepts_the_model_of_every_entry(entry):
  spec = models.variant(entry.model)
  catalogue.check_fits(
    entry, {**spec, 'num_classes': entry.num_classes, 'image_size': None}
  )


def test_lacking_lists_the_missing_layers():
  spec = {'num_classes': None, 'representation_size': None}
  entry = catalogue.find('imagenet21k/ViT-B_16')
  assert catalogue.lacking(entry, spec) == ['head', 'pre_logits']
  assert catalogue.lacking(entry, spec | {'representation_size': 8}) == ['head']
  entry = catalogue.find('imagenet21k+imagenet2012/ViT-B_16')
  assert catalogue.lacking(entry, spec | {'num_classes': 1000}) == []


def test_table_has_published_accuracies():
  """Fault: a mistyped accuracy ranks the wrong file first."""
  published = {}
  for row in table.rows():
    if row.eval_dataset == 'ImageNet' and row.metric == 'top1_pct':
      name = row.checkpoint.removesuffix('.npz')
      published.setdefault(name, []).append(row.value)
  entries = [entry for entry in catalogue.table() if entry.accuracy]
  assert len(entries) > 50
  for entry in entries:
    assert entry.num_classes == 1000
    assert entry.accuracy in published[entry.name]
  tuned = [
    entry
    for entry in catalogue.table()
    if entry.name.startswith('augreg/') and '--' in entry.name
  ]
  assert all(entry.accuracy for entry in tuned)


def test_table_has_eight_release_assets():
  """Fault: a file under another one's address."""
  found = {
    entry.name: entry.release for entry in catalogue.table() if entry.release
  }
  assert found == {
    f'{data}/{model}': f'{model}_{data}.npz'
    for data in ('imagenet21k', 'imagenet21k+imagenet2012')
    for model in ('ViT-B_16', 'ViT-B_32', 'ViT-L_16', 'ViT-L_32')
  }
