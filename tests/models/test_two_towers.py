"""Image-text models against the original code, and the released layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vit_jax_repro import models
from vit_jax_repro.weights import trees

CASES = ('lit_bert', 'lit_text_transformer')
# Ten times the noise of float32 for unit vectors of these models.
TOLERANCE = 1e-6


def case_of(name):
  """Returns model, parameters, inputs and outputs."""
  model = models.create(reference.lit()['cases'][name])
  params = trees.nest(reference.lit_arrays(name, 'params'))
  return model, params, reference.lit_arrays(name, 'io')


@pytest.mark.quick
@pytest.mark.parametrize('name', CASES)
def test_apply_gives_the_features_of_the_original_code(name):
  model, params, io = case_of(name)
  with jax.default_matmul_precision('highest'):
    found = jax.jit(model.apply)(
      {'params': params}, images=io['images'], tokens=io['tokens']
    )
  for got, key in zip(found, ('zimg', 'ztxt', 't'), strict=True):
    np.testing.assert_allclose(got, io[key], rtol=0, atol=TOLERANCE)


@pytest.mark.quick
@pytest.mark.parametrize(
  'wrong', [dict(gelu='erf'), dict(layer_norm_eps=1e-4), dict(max_length=19)]
)
def test_apply_notices_a_wrong_constant_of_bert(wrong):
  model, params, io = case_of('lit_bert')
  model = model.clone(txt=model.txt.clone(**wrong))
  if 'max_length' in wrong:
    with pytest.raises(Exception, match='embedding'):
      model.apply({'params': params}, None, io['tokens'])
    return
  found = jax.jit(model.apply)({'params': params}, None, io['tokens'])[1]
  assert np.abs(found - io['ztxt']).max() > 5 * TOLERANCE


@pytest.mark.quick
@pytest.mark.parametrize('name', CASES)
def test_apply_takes_one_tower_alone(name):
  model, params, io = case_of(name)
  apply = jax.jit(model.apply)
  image, text, t = apply({'params': params}, images=io['images'])
  assert text is None
  assert t.shape == (1,)
  both = apply({'params': params}, io['images'], io['tokens'])
  np.testing.assert_allclose(image, both[0], atol=TOLERANCE)
  image, text, _ = apply({'params': params}, tokens=io['tokens'])
  assert image is None
  np.testing.assert_allclose(text, both[1], atol=TOLERANCE)
  with pytest.raises(ValueError, match='give one of them'):
    model.apply({'params': params})


@pytest.mark.quick
def test_bert_ignores_the_number_of_padded_tokens():
  model, params, io = case_of('lit_bert')
  apply = jax.jit(model.apply)
  wide = apply({'params': params}, None, io['tokens'][2:])[1]
  short = apply({'params': params}, None, io['tokens'][2:, :3])[1]
  np.testing.assert_allclose(wide, short, atol=TOLERANCE)


@pytest.mark.quick
@pytest.mark.parametrize('name', sorted(models.variants.LITS))
def test_create_gives_the_arrays_of_the_released_file(name):
  model = models.create(name)
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 16), jnp.int32),
  )
  found = {
    key: [list(leaf.shape), str(leaf.dtype)]
    for key, leaf in trees.flatten(shapes['params']).items()
  }
  assert found == reference.lit()['layouts'][name]


@pytest.mark.quick
@pytest.mark.parametrize(
  ('change', 'match'),
  [
    (dict(text_model='gpt'), "unknown text model 'gpt'"),
    (dict(out_dim=3), 'widths of two heads'),
    (dict(text=dict(config='tiny')), "unknown size of BERT 'tiny'"),
    (dict(nonsense=1), r"unknown fields \['nonsense'\]"),
    (dict(text=dict(config='base', x=1)), r"unknown fields \['x'\] for Bert"),
  ],
)
def test_create_names_a_wrong_field_of_an_image_text_model(change, match):
  fields = dict(reference.lit()['cases']['lit_bert'], **change)
  with pytest.raises(ValueError, match=match) as error:
    models.create(fields)
  assert '\n' not in str(error.value)
