"""Named models: published parameter counts, and spellings of names."""

import re

import model_shapes
import pytest
import reference

from vit_jax_repro import models

# Width of the tanh layer in the files of imagenet21k/.
PRE_LOGITS = {'B': 768, 'L': 1024, 'H': 1280}
SKIPPED = ('big_vision', 'sam.ViT-S_16')  # without a name; see test_weights


def count(model, image_size=224):
  shapes = model_shapes.parameter_shapes(model, (image_size, image_size))
  return sum(leaf.size for leaf in shapes.values())


def released(key, layout):
  """Returns (name, fields, image size) of the model of a released file."""
  bucket, name = key.split('.', 1)
  shapes = {k: v[0] for k, v in layout['layout'].items()}
  head = shapes.get('head/bias') or shapes['resnet/head/conv2d/bias']
  fields = dict(num_classes=head[0])
  size = 224
  if bucket == 'augreg':
    name, *rest = name.split('.')
    size = 384 if rest[0].endswith('384') else 224
  elif bucket == 'imagenet21k+imagenet2012':
    size = 224 if name.endswith('-224') else 384
    name = name.removesuffix('-224')
  elif bucket == 'imagenet21k':
    fields['representation_size'] = PRE_LOGITS[name.split('ViT-')[1][0]]
  elif bucket == 'gsam':
    name += '-gap-norep'
  return name, fields, size


RELEASED = [k for k in reference.layouts() if not k.startswith(SKIPPED)]


@pytest.mark.parametrize('key', RELEASED)
def test_create_has_the_parameter_count_of_released_files(key):
  layout = reference.layouts()[key]
  name, fields, size = released(key, layout)
  assert count(models.create(name, **fields), size) == layout['parameters']


def published_rows():
  for row in reference.parameter_counts():
    name = row['model'].removesuffix(' (JFT)').replace('/', '_')
    name = name.replace('BiT R', 'BiT-R').replace(' distilled', '-distilled')
    if name.startswith('DeiT-'):
      name = re.sub(r'^DeiT-(Ti|S|B)(@384)?', r'DeiT-\1_16', name)
    for column, millions in row.items():
      if column != 'model' and millions:
        yield name, column, float(millions)


@pytest.mark.parametrize(('name', 'column', 'millions'), list(published_rows()))
def test_create_has_the_published_parameter_count(name, column, millions):
  """Compares counts to 0.01 M.

  The rows of `../paper` have sizes 224 and 384 and heads of 1k and 21k classes.
  """
  fields = dict(num_classes=1000)
  if '21k' in column:
    fields['num_classes'] = 21_843
    if name in ('ViT-B_16', 'ViT-B_32', 'ViT-L_16', 'ViT-L_32', 'ViT-H_14'):
      fields['representation_size'] = models.create(name).hidden_size
  size = 384 if '384' in column else 224
  assert (
    abs(count(models.create(name, **fields), size) / 1e6 - millions) <= 0.0101
  )


@pytest.mark.quick
def test_names_are_unique_and_all_can_be_created():
  names = models.names()
  assert len(set(names)) == len(names)
  for name in names:
    backbone = name.startswith('DINOv2-')  # released without a head
    assert bool(models.create(name).num_classes) is not backbone
    assert models.canonical_name(name) == name


@pytest.mark.quick
@pytest.mark.parametrize(
  ('name', 'num_classes'),
  [
    ('BiT-S-R50x1', 1000),
    ('BiT-M-R50x1', 21_843),
    ('BiT-M-R50x1-ILSVRC2012', 1000),
    ('BiT-R200x3', 1000),
    ('BiT-M-R26x1', None),
  ],
)
def test_create_accepts_bit_names(name, num_classes):
  if num_classes is None:
    with pytest.raises(ValueError, match='unknown model'):
      models.create(name)
  else:
    assert models.create(name).num_classes == num_classes


@pytest.mark.quick
@pytest.mark.parametrize(
  ('wrong', 'right'),
  [
    ('vit-b_16', 'ViT-B_16'),
    ('mixer-b_16', 'Mixer-B_16'),
    ('VIT-TI_16', 'ViT-Ti_16'),
    ('bit-m-r50x1', 'BiT-M-R50x1'),
  ],
)
def test_canonical_name_suggests_names_in_any_letter_case(wrong, right):
  with pytest.raises(ValueError, match=f"did you mean '{re.escape(right)}'"):
    models.canonical_name(wrong)


@pytest.mark.quick
@pytest.mark.parametrize('width', ['0', '0.0', '0.01', '0.25', '1.3'])
def test_create_rejects_bit_widths_not_divisible_by_groups(width):
  with pytest.raises(ValueError, match='multiple of the 32 groups') as error:
    models.create(f'BiT-R50x{width}')
  assert '\n' not in str(error.value)


@pytest.mark.quick
def test_create_accepts_fractional_bit_widths():
  model = models.create('BiT-R50x0.5', num_classes=10)
  assert model.root_channels == 32
  assert count(model, 64) > 0


@pytest.mark.quick
@pytest.mark.parametrize(
  ('name', 'millions'),
  [  # in timm, in millions
    ('DeiT-III-S_16', 22.06),
    ('DeiT-III-B_16', 86.59),
    ('DeiT-III-L_16', 304.37),
    ('DeiT-III-H_14', 632.13),
    ('DINOv2-S_14', 22.06),
    ('DINOv2-B_14-reg4', 86.58),
    ('DINOv2-L_14', 304.37),
  ],
)
def test_create_has_the_parameter_count_of_timm(name, millions):
  model = models.create(name)
  size = 518 if name.startswith('DINOv2') else 224
  assert abs(count(model, size) / 1e6 - millions) <= 0.0051
  assert models.name_of(model) == name
  assert models.name_of(model.clone(layer_scale_init=0.3)) == name


@pytest.mark.quick
@pytest.mark.parametrize('name', ['DINOv2-g_14', 'dinov2_vitg14_reg'])
def test_canonical_name_refuses_the_giant_dinov2(name):
  with pytest.raises(ValueError, match='has SwiGLU layers instead of an MLP'):
    models.canonical_name(name)
