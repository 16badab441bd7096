"""Sentences on results, and agreement, which requires the logits."""

import json
import math
import types

import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.comparison import (
  activations,
  causes,
  conclusions,
  diagnosis,
  differences,
  gradients,
  parameters,
  report,
)

pytestmark = pytest.mark.quick

SAME = parameters.Parameters(1, 1, (), ())
OTHER = parameters.Parameters(1, 0, (('head/kernel', 1.0),), ())


@pytest.fixture(scope='module')
def examiner():
  """The reference of a tiny model with 3 classes."""
  spec = tiny_models.spec(3)
  images = activations.random_images((8, 8))
  params = tiny_models.params_of(spec)
  return diagnosis.Examiner(models.create(spec), params, images)


def result(examiner, port, known=(), *, found=SAME, name='timm:x', **others):
  """Returns the result of a cross-check of these activations."""
  fields = dict(
    modules={}, facts=(), constants={}, spread=0.0, is_random=False,
    gradients=None,
  )  # fmt: skip
  diagnosed = examiner.diagnose(port, known)
  fields |= dict(agrees=diagnosed.agrees, **others)
  return types.SimpleNamespace(
    weights='w.npz',
    port=name,
    model='vit',
    image_size=(8, 8),
    dtype='float32',
    files=(),
    preprocessing='vit_jax',
    versions={},
    library='timm',
    parameters=found,
    diagnosis=diagnosed,
    **fields,
    top=(),
    reading=None,
    end_to_end=(),
  )


def sentences(*args, **options):
  return ' '.join(conclusions.conclusions(result(*args, **options)))


@pytest.mark.slow
def test_conclusions_of_an_equal_port(examiner):
  found = result(examiner, examiner.reference)
  assert found.diagnosis.agrees and not found.diagnosis.not_compared
  assert list(conclusions.conclusions(found)) == [
    'Agrees: every layer that was compared is within its tolerance.'
  ]


@pytest.mark.parametrize(
  ('logits', 'why'),
  [
    ((3, 20), r'(3, 20), not (3, 3)'),
    ((3, 1, 3), r'(3, 1, 3), not (3, 3)'),
    (None, 'not found in the port'),
  ],
)
def test_port_without_logits_does_not_agree(examiner, logits, why):
  port = dict(examiner.reference)
  del port['logits'], port['embedding']
  if logits is not None:
    port['logits'] = np.zeros(logits)
  found = result(examiner, port)
  assert not found.diagnosis.agrees and not found.diagnosis.explained
  text = ' '.join(conclusions.conclusions(found))
  assert 'Agrees:' not in text
  assert f'Agrees up to pre_logits; logits not compared: {why}.' in text
  assert text.endswith('Not compared: embedding (not found in the port).')
  record = report.as_json(found)
  assert record['agrees'] is record['explained'] is False
  assert record['not_compared'] == [
    {'name': 'embedding', 'why': 'not found in the port'},
    {'name': 'logits', 'why': why},
  ]


def test_port_without_head_agrees_without_logits(examiner):
  spec = tiny_models.spec(None)
  images = activations.random_images((8, 8))
  bare = diagnosis.Examiner(
    models.create(spec), tiny_models.params_of(spec), images
  )
  port = {n: a for n, a in bare.reference.items() if n != 'logits'}
  assert bare.diagnose(port, ()).agrees


def test_cause_does_not_explain_a_port_without_logits(examiner):
  spec = tiny_models.spec(3)
  model, params = models.create(spec), tiny_models.params_of(spec)
  images = activations.random_images((8, 8))
  port = activations.run(model.clone(gelu='erf'), params, images)
  del port['logits']
  known = [c for c in causes.known(model, params) if c.topic == 'GELU form']
  found = examiner.diagnose(port, known)
  assert found.named and not found.explained
  assert 'tolerance; logits were not compared.' in sentences(
    examiner, port, known
  )


def test_conclusions_mention_different_weights(examiner):
  port = {n: a + 1 for n, a in examiner.reference.items()}
  text = sentences(examiner, port)
  assert 'Cause: unknown; first difference between the images and emb' in text
  assert text.endswith('Tried: nothing, because no known cause acts there.')
  text = sentences(examiner, port, found=OTHER)
  assert text.endswith(
    'The weights differ, too (see their table); try --port_weights=reference.'
  )
  # The module of a function keeps its weights.
  for name in ('module:x.y', 'a/b.py:y'):
    text = sentences(examiner, port, found=OTHER, name=name)
    assert text.endswith('The weights differ, too (see their table).')


BLOCK = 'Transformer/encoderblock_1'


def test_conclusions_name_the_place_and_what_was_not_compared(examiner):
  """The first difference may lie before a layer that cannot be seen."""
  port = dict(examiner.reference)
  for part in ('/LayerNorm_1', '/MlpBlock_0'):
    del port[BLOCK + part]
  later = ('Transformer/encoder_norm', 'pre_logits', 'logits')
  for name in (BLOCK, *later):
    port[name] = port[name] + np.float32(0.5)
  modules = {BLOCK: 'body.1'}
  text = sentences(examiner, port, modules=modules)
  assert (
    f'first difference between {BLOCK}/MultiHeadDotProductAttention_0 (agrees) '
    f'and {BLOCK} [body.1] (differs by 0.5, tolerance '
  ) in text
  assert (
    f'; {BLOCK}/LayerNorm_1, {BLOCK}/MlpBlock_0 in between could not be '
    'compared. '
  ) in text
  record = report.as_json(result(examiner, port, modules=modules))
  assert record['first_difference'] == {
    'after': f'{BLOCK}/MultiHeadDotProductAttention_0',
    'at': BLOCK,
    'between': [f'{BLOCK}/LayerNorm_1', f'{BLOCK}/MlpBlock_0'],
  }
  layer = next(x for x in record['layers'] if x['name'] == BLOCK)
  assert layer['module'] == 'body.1'


def test_conclusions_list_what_was_tried(examiner):
  known = [
    causes.Cause('fault A', 'x', 'y', lambda v: v, 'embedding$'),
    causes.Cause('fault B', 'x', 'y', lambda v: v, 'logits$'),
  ]
  port = {n: a + np.float32(1) for n, a in examiner.reference.items()}
  text = sentences(examiner, port, known)
  # Fault B acts only after the first difference.
  assert 'Tried without success: fault A (1 value)' in text


def test_conclusions_state_a_part_with_what_remains(examiner):
  port = {n: a + np.float32(1) for n, a in examiner.reference.items()}
  port['logits'] = port['logits'] + np.float32(1e-3)

  def moved(variant):
    def seen(named):
      return {n: a + np.float32(1) for n, a in named.items()}

    return variant._replace(seen=(seen,))

  known = [causes.Cause('offset', 'one', 'none', moved, 'embedding$')]
  text = sentences(examiner, port, known)
  assert 'Cause of a part: offset: one, not none. With it matched the' in text
  assert 'What remains is unknown; first difference between pre_logits' in text


def test_conclusions_seek_no_cause_of_a_random_port(examiner):
  port = {n: a + 1 for n, a in examiner.reference.items()}
  text = sentences(examiner, port, spread=0.5, is_random=True)
  assert 'The port is random: the logits of passes over' in text
  assert 'Cause' not in text


def test_conclusions_mention_constants_that_no_difference_needs(examiner):
  constants = {'layer_norm_eps': (1e-12, 1e-6)}
  text = sentences(examiner, examiner.reference, constants=constants)
  assert text.startswith('Agrees: ')
  assert (
    'Read off its modules: LayerNorm epsilon: 1e-12, not 1e-06. It is not '
    'needed to explain what differs on these weights and images.'
  ) in text


def test_conclusions_do_not_call_a_constant_needless_in_an_unknown_port(
  examiner,
):
  """Where nothing is explained, a constant may well be a part of the cause."""
  constants = {'layer_norm_eps': (1e-5, 1e-6)}
  port = {n: a + 1 for n, a in examiner.reference.items()}
  text = sentences(examiner, port, constants=constants)
  assert 'not needed' not in text
  assert '1e-05, not 1e-06. It does not explain all that differs.' in text


def test_conclusions_on_gradients_follow_the_backward_pass(examiner):
  layers = [
    differences.LayerDifference(name, gap, gap, 1.0, 1e-3)
    for name, gap in (('logits', 0.0), (BLOCK, 0.0), ('embedding', 0.5))
  ]
  found = gradients.Gradients(tuple(layers), (), ('patches.bias',))
  assert not found.agrees
  text = sentences(examiner, examiner.reference, gradients=found)
  assert (
    f'backwards, first difference between {BLOCK} (agrees) and embedding '
    '(differs by 0.5, tolerance 0.001).'
  ) in text
  assert 'No gradient reaches: patches.bias.' in text
  found = gradients.Gradients(tuple(layers[:2]), (), ())
  assert found.agrees
  text = sentences(examiner, examiner.reference, gradients=found)
  assert 'Gradients agree (mean cross-entropy' in text


def test_as_json_writes_nan_as_null(examiner):
  port = dict(examiner.reference, logits=np.full((3, 3), math.nan))
  found = report.as_json(result(examiner, port))
  assert found['layers'][-1]['max_abs'] is None
  assert found['layers'][-1]['within'] is False
  json.dumps(found, allow_nan=False)
