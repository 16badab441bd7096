"""Tasks that an objective creates from a model and a data set."""

import jax
import pytest
import tiny_models
from training_sets import write_folder

from vit_jax_repro.data import preprocess
from vit_jax_repro.runs import input, settings, tasks


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder of twelve digits."""
  return str(write_folder(tmp_path_factory.mktemp('digits'), 12))


def create(folder, **keys):
  """Returns the task of a small run with some keys changed."""
  pp = dict(train='train', test='train', crop=8)
  config = dict(dataset=folder, model=tiny_models.VIT, base_lr=1.0, pp=pp)
  read = settings.from_config(config | dict(total_steps=1) | keys)
  return tasks.create(read, input.Input(read), jax.devices()[0])


def test_create_takes_classes_from_the_data_set(folder):
  task = create(folder)
  assert task.model.num_classes == len(task.class_names) == 10
  assert task.class_names[3] == 'digit 3' and task.teacher is None


@pytest.mark.parametrize(
  ('classifier', 'becomes'),
  [
    ('token', 'token_unpooled'),
    ('gap', 'unpooled'),
    ('unpooled', 'unpooled'),
    ('token_and_gap', 'token_unpooled'),
  ],
)
def test_create_gives_masked_patches_an_output_for_each_patch(
  folder, classifier, becomes
):
  """The outputs are colours in the scale of the images, without names."""
  task = create(
    folder,
    model=tiny_models.VIT | dict(classifier=classifier),
    objective='masked_patches',
    preprocessing='deit',
  )
  model = task.model
  assert (model.classifier, model.num_classes) == (becomes, 512)
  assert model.corruptible and task.class_names is None
  assert task.architecture['classifier'] == becomes
  scale = preprocess.pick_preprocessing('deit')
  assert task.evaluate.keywords == dict(mean=scale.mean, std=scale.std)


def test_create_refuses_a_model_without_patches(folder):
  with pytest.raises(ValueError, match=r'unknown fields .* for BiT'):
    create(folder, model=tiny_models.BIT, objective='masked_patches')
