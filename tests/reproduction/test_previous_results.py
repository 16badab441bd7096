"""Tests the comparison of existing results with a requested check."""

import dataclasses
import json

import pytest

from vit_jax_repro.paper import table
from vit_jax_repro.reproduction import checks, previous_results
from vit_jax_repro.reproduction.options import Options

pytestmark = pytest.mark.quick

TUNED = table.find('vit-table-5-vit-b-16-imagenet-21k-90ep-cifar-10')
EVALUATED = table.find('vit-table-5-vit-b-16-imagenet-21k-90ep-imagenet')


@pytest.fixture
def options(tmp_path):
  """Options with a file for the weights of each row."""
  made = Options(
    results=str(tmp_path), weights_dir=str(tmp_path / 'weights'), seeds=2,
    overrides={'batch': 128, 'decay_steps': (1, 2)},
  )  # fmt: skip
  for row in (TUNED, EVALUATED):
    path = made.weights(checks.resolve(row).files[0])
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text('weights')
  return made


def write(check, options, /, **changes):
  result = {
    'row': check.row.id,
    'accuracies': [0.5] * (options.seeds if check.is_fine_tuned else 1),
    'num_examples': 10,
    **previous_results.described(check, options),
    **changes,
  }
  with open(options.result(check.row), 'w') as file:
    json.dump(result, file)
  return json.loads(json.dumps(result))


def test_find_returns_the_result_of_the_same_check(options):
  for row in (TUNED, EVALUATED):
    check = checks.resolve(row)
    assert previous_results.find(check, options) is None
    written = write(check, options)
    assert previous_results.find(check, options) == written
    # Options without influence on the result, and other notes.
    other = dataclasses.replace(
      options,
      batch_size=8,
      overrides=dict(options.overrides, checkpoint_every=3),
    )
    said = dataclasses.replace(check, notes=('new',))
    assert previous_results.find(said, other) == written
    elsewhere = dataclasses.replace(options, weights_dir='/gone')
    assert previous_results.find(check, elsewhere) == written
  assert 'seeds' not in written and written['overrides'] == {}


def test_find_accepts_more_seeds_and_refuses_fewer(options):
  check = checks.resolve(TUNED)
  write(check, options)
  assert (
    previous_results.find(check, dataclasses.replace(options, seeds=3)) is None
  )
  refused(
    check, dataclasses.replace(options, seeds=1), '--seeds was 2 and is 1'
  )
  check = checks.resolve(EVALUATED)
  write(check, options)
  assert previous_results.find(check, dataclasses.replace(options, seeds=1))


def test_find_names_the_input_with_a_difference(options):
  check = checks.resolve(TUNED)
  write(check, options)
  refused(
    check,
    dataclasses.replace(options, overrides={'batch': 64}),
    '--override was batch=128, decay_steps=[1, 2] and is batch=64',
  )
  refused(
    checks.resolve(TUNED, recipe='bit-hyperrule-paper'),
    options,
    '--recipe was vit-paper and is bit-hyperrule-paper',
  )
  refused(
    checks.resolve(TUNED, dataset='/my/images'),
    options,
    "datasets was ['cifar10'] and is ['/my/images']",
  )
  (recipe,) = check.recipes[0]
  changed = dict(recipe.settings, batch=7)
  changed = dataclasses.replace(recipe, settings=changed)
  refused(
    dataclasses.replace(check, recipes=((changed,),)),
    options,
    'the recipe vit-paper had other settings',
  )
  with open(options.weights(check.files[0]), 'w') as file:
    file.write('Weights')
  refused(check, options, 'imagenet21k/ViT-B_16 had the SHA-256 9')


def test_find_refuses_handwritten_and_damaged_results(options):
  check = checks.resolve(TUNED)
  write(check, options, check=None)
  refused(check, options, 'was written by hand and is not replaced; move it')
  with open(options.result(TUNED), 'w') as file:
    file.write('{')
  refused(check, options, 'is no result: ')


def refused(check, options, says):
  with pytest.raises(ValueError) as error:
    previous_results.find(check, options)
  line = str(error.value)
  assert line.startswith(options.results) and says in line and '\n' not in line
