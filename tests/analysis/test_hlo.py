"""Parsing of a compiled program's text."""

import hlo_text
import pytest

pytestmark = pytest.mark.quick


def test_custom_calls_are_multiplied_by_the_known_trip_count():
  assert hlo_text.read().custom_calls() == {'__cudnn$fmhaSoftmax': 5}


def test_instructions_have_the_arrays_of_their_operands():
  gather, times, computation = next(
    found
    for found in hlo_text.read().instructions()
    if found[0].opcode == 'all-gather'
  )
  assert (times, computation) == (6, 'body')
  ((part,),) = gather.inputs
  assert (part.dtype, part.shape, part.in_memory) == ('f32', (2, 4), False)
