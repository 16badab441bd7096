"""The card of a weights file, in the run that starts from the file."""

import functools
import json

import numpy as np
import pytest
import tiny_models
from student_runs import STUDENT
from training_sets import write_folder

from vit_jax_repro import jobs, models, recipes, weights
from vit_jax_repro.runs import card_settings, configuration
from vit_jax_repro.weights import layouts, model_card, positions, trees

SPEC = tiny_models.spec(10, STUDENT, distilled=False)
PORT = dict(gelu='erf', layer_norm_eps=1e-5)  # constants of another library
READ = 'timm:crop_pct=0.9'


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  """A folder with forty digits of ten classes, 'digit 0' to 'digit 9'."""
  return write_folder(tmp_path_factory.mktemp('digits'), 40)


def save(folder, image_size=(8, 8), **card):
  """Writes weights with a card; returns their parameters."""
  fields = {'architecture': SPEC, 'image_size': image_size, **card}
  params = tiny_models.params_of(fields['architecture'], image_size)
  model_card.save_model(folder / 'file.npz', params, **fields)
  return params


def config(data, folder, model=None, **keys):
  """Returns a run of one step that changes no parameter."""
  pp = dict(train='train', test='train', crop=8) | keys.pop('pp', {})
  recipe = dict(
    dataset=str(data),
    pretrained_dir=str(folder),
    model_or_filename='file',
    base_lr=0.0,
    total_steps=1,
    batch=8,
    batch_eval=40,
    progress_every=0,
    checkpoint_every=0,
  )
  fields = {k: v for k, v in SPEC.items() if k != 'num_classes'}
  return configuration.create(
    recipe | keys | {'pp': pp}, fields | (model or {})
  )


def trained(config, workdir):
  """Runs the configuration; returns (config.json, model.json, parameters)."""
  jobs.train(config, workdir, show=False)
  files = [
    json.loads((workdir / name).read_text())
    for name in ('config.json', 'model.json')
  ]
  return *files, trees.flatten(weights.load(workdir / 'model.npz'))


@pytest.mark.parametrize('image_size', [(8, 32), (8, 24), (16, 16)])
def test_train_resizes_positions_from_the_size_in_the_card(
  digits, tmp_path, image_size
):
  """Positions of 2x8 patches are none of 4x4; 2x6 patches are no square."""
  params = save(tmp_path, image_size)
  target = tuple(2 * side for side in image_size)
  run = config(digits, tmp_path, pp=dict(crop=target))
  _, card, found = trained(run, tmp_path / 'run')
  wanted = weights.adapt(
    params,
    models.create(SPEC),
    image_size=target,
    source_image_size=image_size,
    head='reset',
  )
  assert card['image_size'] == list(target)
  for name, array in trees.flatten(wanted).items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize('given', [None, 'linear'])
def test_train_resizes_positions_by_the_rule_in_the_card(
  digits, tmp_path, given
):
  """A key that is given wins, and the new card has the rule that was used."""
  rule = given or 'bicubic'
  params = save(tmp_path, architecture=SPEC | dict(position_resizing='bicubic'))
  run = config(digits, tmp_path, pp=dict(crop=16))
  run.model.position_resizing = given
  _, card, found = trained(run, tmp_path / 'run')
  assert card['architecture']['position_resizing'] == rule
  model = models.create(SPEC, position_resizing=rule)
  wanted = weights.adapt(params, model, image_size=(16, 16), head='reset')
  np.testing.assert_array_equal(
    found[layouts.POSITIONS], trees.flatten(wanted)[layouts.POSITIONS]
  )


def test_train_takes_constants_and_preprocessing_from_the_card(
  digits, tmp_path, capfd
):
  """The card wins over defaults; evaluate of the file agrees with the run."""
  save(tmp_path, architecture=SPEC | PORT, preprocessing=READ)
  begun, card, _ = trained(config(digits, tmp_path), tmp_path / 'run')
  assert (begun['model']['gelu'], card['architecture']['gelu']) == ('erf',) * 2
  assert begun['model']['layer_norm_eps'] == 1e-5
  assert begun['preprocessing'] == card['preprocessing'] == READ
  lines = [x for x in capfd.readouterr().err.splitlines() if 'file says' in x]
  assert len(lines) == 1
  for part in ('gelu=erf', 'layer_norm_eps=1e-05', f'preprocessing={READ}'):
    assert part in lines[0]


def test_train_turns_images_as_the_card_has_it(digits, tmp_path):
  save(tmp_path, orientation='none')
  begun, card, _ = trained(config(digits, tmp_path), tmp_path / 'run')
  assert begun['pp']['orientation'] == card['orientation'] == 'none'
  given = config(digits, tmp_path, pp=dict(orientation='exif'))
  begun, card, _ = trained(given, tmp_path / 'given')
  assert begun['pp']['orientation'] == card['orientation'] == 'exif'


def test_train_prefers_keys_that_were_given_to_the_card(
  digits, tmp_path, capfd
):
  """A given key wins also if its value is the default."""
  save(tmp_path, architecture=SPEC | PORT, preprocessing=READ)
  run = config(digits, tmp_path, preprocessing='vit_jax')
  run.model.gelu = 'tanh'
  begun, card, _ = trained(run, tmp_path / 'run')
  assert begun['model']['gelu'] == card['architecture']['gelu'] == 'tanh'
  assert begun['model']['layer_norm_eps'] == 1e-5  # not given
  assert begun['preprocessing'] == card['preprocessing'] == 'vit_jax'
  errors = capfd.readouterr().err
  assert 'config.model.gelu=tanh where the file says erf' in errors
  assert f'config.preprocessing=vit_jax where the file says {READ}' in errors


def test_train_resumes_what_is_recorded_without_the_file(digits, tmp_path):
  save(tmp_path, architecture=SPEC | PORT, preprocessing=READ)
  run = config(digits, tmp_path)
  begun, _, before = trained(run, tmp_path / 'run')
  for path in tmp_path.glob('file.*'):
    path.unlink()
  again, _, after = trained(run, tmp_path / 'run')
  assert again == begun
  for name, array in before.items():
    np.testing.assert_array_equal(after[name], array, err_msg=name)
  run.preprocessing = 'vit_jax'
  with pytest.raises(ValueError, match=r'preprocessing was .*timm'):
    jobs.train(run, tmp_path / 'run', show=False)


def test_train_reads_images_as_the_arrays_of_a_bare_file_show(
  digits, tmp_path, capfd
):
  """A distillation token shows a DeiT, which has the exact GELU."""
  spec = tiny_models.spec(10, STUDENT, gelu='erf')
  weights.save(tmp_path / 'file.npz', tiny_models.params_of(spec))
  run = config(digits, tmp_path, model=dict(distilled=True))
  run.objective, run.teacher = 'distillation', str(tmp_path / 'file.npz')
  begun, _, _ = trained(run, tmp_path / 'run')
  assert (begun['model']['gelu'], begun['preprocessing']) == ('erf', 'deit')
  assert 'as the weights file says' in capfd.readouterr().err


def test_train_notes_that_the_class_token_gets_a_position(
  digits, tmp_path, capfd
):
  """Only the number of positions in a bare file shows that it has none."""
  spec = SPEC | {'class_token_after_positions': True}
  params = tiny_models.params_of(spec)
  path = ('Transformer', 'posembed_input', 'pos_embedding')
  flat = trees.flatten(params)
  position = flat.pop(positions.name_in(flat))
  weights.save(
    tmp_path / 'file.npz', trees.nest(flat | {'/'.join(path): position})
  )
  trained(config(digits, tmp_path, pp=dict(crop=16)), tmp_path / 'run')
  assert 'the class token gets one of zeros' in capfd.readouterr().err


def test_kept_head_follows_the_names_of_the_classes(digits, tmp_path):
  """The file has the classes in another order, and one more."""
  names = [f'digit {i}' for i in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
  order = [names.index(f'digit {i}') for i in range(10)]
  for number in (10, 11):
    folder = tmp_path / str(number)
    folder.mkdir()
    params = save(
      folder,
      architecture=SPEC | {'num_classes': number},
      class_names=[*names, 'other'][:number],
    )
    run = config(digits, folder, head='keep')
    _, card, found = trained(run, folder / 'run')
    assert card['class_names'] == [f'digit {i}' for i in range(10)]
    for part in ('kernel', 'bias'):
      wanted = params['head'][part][..., order]
      np.testing.assert_array_equal(found[f'head/{part}'], wanted)
    before, after = (
      jobs.evaluate(path, str(digits), split='train')
      for path in (folder / 'file.npz', folder / 'run' / 'model.npz')
    )
    assert before.correct == after.correct


def test_kept_head_refuses_other_classes_unless_labels_are_as_they_are(
  digits, tmp_path
):
  params = save(tmp_path, class_names=list('abcdefghij'))
  run = config(digits, tmp_path, head='keep')
  with pytest.raises(ValueError, match=r"no class of the data set .*'digit 0'"):
    jobs.train(run, tmp_path / 'run', show=False)
  run.labels = 'as_is'
  _, _, found = trained(run, tmp_path / 'run')
  np.testing.assert_array_equal(found['head/bias'], params['head']['bias'])


def test_settled_gives_every_open_key_its_default():
  run = configuration.create(recipes.augreg_finetune(), 'Ti_16').to_dict()
  assert run['preprocessing'] is run['model']['gelu'] is None
  model = models.create('Ti_16')
  found = card_settings.settled(run)
  assert found['preprocessing'] == 'vit_jax'
  for name in filter(functools.partial(hasattr, model), models.CONSTANTS):
    assert found['model'][name] == getattr(model, name), name
  kept = configuration.create(recipes.bit_finetune('cifar10'), 'BiT-M-R50x1')
  card = model_card.ModelCard({}, preprocessing=READ)
  assert (
    card_settings.decided_by(card, kept.to_dict())['preprocessing'] == 'bit'
  )
