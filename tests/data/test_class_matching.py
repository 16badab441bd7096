"""Matching of class names between data sets and models."""

import numpy as np
import pytest

from vit_jax_repro.data import class_matching, labels
from vit_jax_repro.data.batches import NO_CLASS
from vit_jax_repro.data.class_matching import match
from vit_jax_repro.errors import InputError

pytestmark = pytest.mark.quick


def found(*arguments, **options):
  """Returns the labels, with None for a class that the model lacks."""
  result = match(*arguments, **options).labels
  assert result.dtype == np.int32
  return [None if x == NO_CLASS else x for x in result.tolist()]


def test_match_reorders_a_subset_of_classes():
  model = ('cat', 'dog', 'eel')
  assert found(model, model, 3) == [0, 1, 2]
  assert found(('eel', 'cat'), model, 3) == [2, 0]
  assert not match(('eel', 'cat'), model, 3).notes('x')


@pytest.mark.parametrize('num_classes', [1000, 21843])
def test_match_takes_imagenets_ids_and_names(num_classes):
  ids = labels.wordnet_ids(num_classes)
  names = labels.class_names(num_classes)
  chosen = [991, 2, 207]
  by_id = [ids[i] for i in chosen]
  for model_names in (None, names, list(ids)):
    assert found(by_id, model_names, num_classes) == chosen
  assert found(ids, None, num_classes) == [*range(num_classes)]
  assert found([labels.class_names()[991]], None, 1000) == [991]


def test_match_gives_no_class_for_imagenet_21ks_teddy_bear():
  """A synonym, the garment "teddy", does not stand for another id."""
  ids = labels.wordnet_ids(1000)
  result = match(ids, None, 21843)
  assert result.unmatched == ('n04399382',)
  of_21k = labels.wordnet_ids(21843)
  assert [of_21k[i] for i in result.labels[:3]] == list(ids[:3])


@pytest.mark.parametrize(
  ('dataset', 'model', 'expected'),
  [
    (('Cat', 'cats', 'dog'), ('cat', 'dog'), [0, None, 1]),
    (('b', 'a', 'unsorted'), ('a', 'b'), [1, 0, None]),
    (('café', 'tea'), ('tea', 'cafe\u0301'), [1, 0]),
    (('great_white-shark',), ('Great White Shark', 'eel'), [0]),
    (('007', '1'), ('1', '7'), [1, 0]),
    (('n01440764', 'n01443537'), ('goldfish', 'tench'), [1, 0]),
    (('goldfish', 'tench'), ('n01440764', 'n01443537'), [1, 0]),
    (('b', 'a'), ('a', 'a', 'b'), [2, None]),
    (('CAT', 'eel'), ('cat', 'Cat', 'eel'), [None, 2]),
    (('cat', 'eel'), ('cat', 'Cat', 'eel'), [0, 2]),
  ],
)
def test_match_keeps_the_names_that_are_found(dataset, model, expected):
  """Names that match in part or are spelt otherwise count, others are wrong."""
  assert found(dataset, model, len(model)) == expected


@pytest.mark.parametrize(
  ('name', 'label'),
  [
    ('tench', 0),
    ('Tinca_tinca', 0),
    ('n01440764 tench', 0),
    ('n01440764_tench, Tinca tinca', 0),
    ('n02085620-Chihuahua', 151),
    ('man eater', 2),
    ('maillot', 638),
  ],
)
def test_match_takes_synonyms_and_ids_with_names(name, label):
  assert found([name, 'stray'], None, 1000) == [label, None]


def test_match_knows_imagenet_if_its_names_are_spelt_otherwise():
  names = [f'{name.split(",")[0].title()}' for name in labels.class_names()]
  assert found(['n01443537', 'n01440764'], names, 1000) == [1, 0]
  own = tuple(f'x{i}' for i in range(1000))
  assert found(['x5'], own, 1000) == [5]
  with pytest.raises(InputError, match='no class of the data set'):
    match(['n01443537'], own, 1000)


def test_match_notes_what_is_inexact_lacking_and_ambiguous():
  lines = match(('Tench', 'crane', 'unsorted'), None, 1000).notes('here')
  spelt, lacking, ambiguous = lines
  assert "'Tench' is 'tench, Tinca tinca'" in spelt
  assert "no class for 1 of the 3 of here ('unsorted')" in lacking
  assert "'crane'" in ambiguous and 'several classes' in ambiguous


@pytest.mark.parametrize('how', ['by_name', 'as_is'])
def test_match_takes_whole_numbers_as_class_numbers(how):
  """Folders named 0, 1, 10, ... are classes of any model of enough classes."""
  names = ('0', '1', '10', '100')
  for model in (None, labels.class_names()):
    result = match(names, model, 1000, how=how)
    by_number = [0, 1, 10, 100] if how == 'by_name' else [0, 1, 2, 3]
    assert result.labels.tolist() == by_number
  assert found(('0', '3', '11'), None, 12) == [0, 3, 11]
  assert found(('0', '11', 'unsorted'), None, 12) == [0, 11, None]
  with pytest.raises(InputError, match='no class of the data set'):
    match(('5', '6'), ('0', '1'), 2)


def test_match_takes_positions_only_if_names_are_unknown():
  result = match(('a', 'b'), None, 2)
  assert result.labels.tolist() == [0, 1]
  assert 'no class names are known' in result.notes('x')[0]
  with pytest.raises(InputError, match=r"'a', 'b'.*'c', 'd'.*as_is"):
    match(('a', 'b'), ('c', 'd'), 2)
  assert found(('a', 'b'), ('c', 'd'), 2, how='as_is') == [0, 1]
  with pytest.raises(InputError, match='3 classes and the model 2'):
    match(('a', 'b', 'c'), None, 2)
  with pytest.raises(InputError, match='12 classes of the model have no names'):
    match(('a', 'b'), None, 12)
  assert found(('a', 'b'), None, 12, how='as_is') == [0, 1]
  with pytest.raises(InputError, match="labels='other' must be"):
    match(('a', 'b'), None, 2, how='other')


def test_rows_refuses_missing_and_shared_classes():
  assert class_matching.rows(('b', 'a'), ('a', 'b'), 2).labels.tolist() == [
    1,
    0,
  ]
  with pytest.raises(InputError, match="no class 'c'"):
    class_matching.rows(('a', 'c'), ('a', 'b'), 2)
  with pytest.raises(InputError, match="'A', 'a' of the data set have"):
    class_matching.rows(('a', 'A'), ('a', 'b'), 2)
