"""What is said of results; and that logits must be among what agrees."""

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


def result(examiner, port, known=(), *, found=SAME, name='timm:x'):
  """What a cross-check of these activations gives."""
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
    diagnosis=examiner.diagnose(port, known),
    top=(),
    reading=None,
    end_to_end=(),
  )


def says(*args, **options):
  return ' '.join(conclusions.conclusions(result(*args, **options)))


def test_all_that_agrees(examiner):
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
def test_without_logits_nothing_agrees(examiner, logits, why):
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
  told = report.as_json(found)
  assert told['agrees'] is told['explained'] is False
  assert told['not_compared'] == [
    {'name': 'embedding', 'why': 'not found in the port'},
    {'name': 'logits', 'why': why},
  ]


def test_a_model_without_head_has_no_logits(examiner):
  spec = tiny_models.spec(None)
  images = activations.random_images((8, 8))
  bare = diagnosis.Examiner(
    models.create(spec), tiny_models.params_of(spec), images
  )
  port = {n: a for n, a in bare.reference.items() if n != 'logits'}
  assert bare.diagnose(port, ()).agrees


def test_a_cause_without_logits_does_not_explain(examiner):
  spec = tiny_models.spec(3)
  model, params = models.create(spec), tiny_models.params_of(spec)
  images = activations.random_images((8, 8))
  port = activations.run(model.clone(gelu='erf'), params, images)
  del port['logits']
  known = [c for c in causes.known(model, params) if c.topic == 'GELU form']
  found = examiner.diagnose(port, known)
  assert found.named and not found.explained
  assert 'tolerance; logits were not compared.' in says(examiner, port, known)


def test_other_weights_are_not_an_unknown_cause(examiner):
  port = {n: a + 1 for n, a in examiner.reference.items()}
  assert 'That is no known cause: embedding' in says(examiner, port)
  text = says(examiner, port, found=OTHER)
  assert 'no known cause' not in text
  assert text.endswith(
    'The weights differ (see their table); try --port_weights=reference.'
  )
  # A function's module keeps its weights.
  text = says(examiner, port, found=OTHER, name='module:x.y')
  assert text.endswith('The weights differ (see their table).')


def test_what_is_no_number_is_null_in_json(examiner):
  port = dict(examiner.reference, logits=np.full((3, 3), math.nan))
  found = report.as_json(result(examiner, port))
  assert found['layers'][-1]['max_abs'] is None
  assert found['layers'][-1]['within'] is False
  json.dumps(found, allow_nan=False)
