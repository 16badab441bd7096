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
  """Returns the result of a cross-check of these activations."""
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


def test_conclusions_blame_different_weights(examiner):
  port = {n: a + 1 for n, a in examiner.reference.items()}
  assert 'The difference has no known cause: embedding' in sentences(
    examiner, port
  )
  text = sentences(examiner, port, found=OTHER)
  assert 'no known cause' not in text
  assert text.endswith(
    'The weights differ (see their table); try --port_weights=reference.'
  )
  # The module of a function keeps its weights.
  text = sentences(examiner, port, found=OTHER, name='module:x.y')
  assert text.endswith('The weights differ (see their table).')


def test_as_json_writes_nan_as_null(examiner):
  port = dict(examiner.reference, logits=np.full((3, 3), math.nan))
  found = report.as_json(result(examiner, port))
  assert found['layers'][-1]['max_abs'] is None
  assert found['layers'][-1]['within'] is False
  json.dumps(found, allow_nan=False)
