"""Traces that Orbax logs of errors it also raises are not printed."""

import logging as python_logging
import sys

import pytest
from absl import logging

from vit_jax_repro.output import orbax_errors

pytestmark = pytest.mark.quick


def test_silence_orbax_keeps_other_errors_in_the_log(caplog):
  orbax_errors.silence_orbax()
  orbax_errors.silence_orbax()  # once is enough
  assert logging.get_absl_logger().filters.count(orbax_errors._keep_record) == 1
  logging.error('of ours')
  try:
    raise ValueError('mine')
  except ValueError:
    logging.exception('with its trace')
  assert [r.message for r in caplog.records] == ['of ours', 'with its trace']


def test_silence_orbax_removes_traces_of_orbax(caplog):
  orbax_errors.silence_orbax()
  logger = logging.get_absl_logger()
  for pathname, error in (
    ('/site-packages/orbax/checkpoint/x.py', (ValueError, None, None)),
    ('/site-packages/orbax/checkpoint/x.py', None),
  ):
    logger.handle(
      python_logging.LogRecord(
        'absl', python_logging.ERROR, pathname, 1, 'line', (), error
      )
    )
  assert len(caplog.records) == 1 and not caplog.records[0].exc_info


def test_silence_orbax_removes_the_warning_on_its_handler(caplog):
  orbax_errors.silence_orbax()
  logger = logging.get_absl_logger()
  for text in ('Type handler registry overriding type "Array"', 'of ours'):
    logger.handle(logger.makeRecord('absl', 30, '', 1, text, (), None))
  assert [r.message for r in caplog.records] == ['of ours']


def test_silence_orbax_passes_on_other_unraisable_errors(monkeypatch):
  seen = []
  orbax_errors.silence_orbax.cache_clear()
  monkeypatch.setattr(sys, 'unraisablehook', seen.append)
  orbax_errors.silence_orbax()

  class Unraisable:
    def __init__(self, text):
      self.exc_value = RuntimeError(text)

  for text in ('Event loop is closed', 'in TensorStore({', 'something else'):
    sys.unraisablehook(Unraisable(text))
  assert [str(x.exc_value) for x in seen] == ['something else']
