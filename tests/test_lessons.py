"""What the notebooks run."""

import io
import json
import os
import pathlib

import jax
import numpy as np
import pytest

from vit_jax_repro import lessons, studies, weights
from vit_jax_repro.data import datasets
from vit_jax_repro.lessons import Lesson
from vit_jax_repro.paper import table, verdict
from vit_jax_repro.runs import restoring

pytestmark = pytest.mark.quick

ROW = 'vit-table-5-vit-b-16-imagenet-21k-90ep-imagenet'


@pytest.fixture(scope='module')
def lesson(tmp_path_factory):
  """Of size 'short', its model trained for three updates."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(lessons, '_SHORT_STEPS', 3)
    lesson = Lesson('short', str(tmp_path_factory.mktemp('lessons')))
    lesson.trained()
    yield lesson


def test_a_size_that_is_none():
  with pytest.raises(ValueError, match="size='tiny' must be one of digits, sh"):
    Lesson('tiny')


def test_the_sizes_are_those_of_studies():
  assert set(lessons.SIZES) == set(studies.SIZES)


def test_what_is_trained_is_found_again(lesson):
  path = lesson.trained()
  assert path.startswith(lesson.folder)
  result = pathlib.Path(path).with_name('result.json')
  before = json.loads(result.read_text())  # the time of training among it
  assert lesson.trained() == path and json.loads(result.read_text()) == before
  assert Lesson('digits').training().total_steps == 2400
  assert lesson.training().total_steps < 2400


def test_the_untrained_differs_in_values_alone(lesson):
  path = lesson.untrained()
  mine, theirs = weights.load(path), weights.load(lesson.trained())
  assert jax.tree.map(np.shape, mine) == jax.tree.map(np.shape, theirs)
  same = jax.tree.map(np.array_equal, mine, theirs)
  assert not same['cls'] or not np.any(mine['cls'])
  assert not same['Transformer']['posembed_input']['pos_embedding']
  restored = restoring.restore(path)
  assert restored.image_size == (8, 8) and restored.num_classes == 10


def test_pictures_are_test_digits(lesson):
  from PIL import Image

  paths = lesson.pictures(3)
  assert len(paths) == 3
  source = datasets.open_split('digits', 'test')
  labels = {
    Image.open(io.BytesIO(record['image'].numpy())).tobytes(): record['label']
    for record in source.records()
  }
  for path in paths:
    label = int(labels[Image.open(path).tobytes()])
    assert path.endswith(f'-is-{label}.png')


def test_full_size_wants_pictures():
  with pytest.raises(ValueError, match='set images='):
    Lesson('full').pictures()
  assert Lesson('full', images=('a.jpg', 'b.jpg')).pictures(1) == ['a.jpg']


def test_full_size_fetches_or_says_what_is_missing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('')
  lesson = Lesson('full', weights_dir='file/below')
  with pytest.raises(OSError, match='file'):
    lesson.training()


def test_sides_and_seeds_of_a_study(monkeypatch, tmp_path):
  seen = []
  monkeypatch.setattr(
    studies, 'run', lambda config, folder: seen.append((config, folder))
  )
  part = dict(num_seeds=2, base_lrs=(0.1,), updates=0.5)
  Lesson('digits', 'F').study('transfer', sides=('from scratch',), **part)
  Lesson('short', 'F').study('transfer', sides=('from scratch',), **part)
  (digits, folder), (short, _) = seen
  assert digits.order.sides == ('from scratch',) and digits.seeds == (0, 1)
  assert digits.base_lrs == (0.1,)
  whole = studies.config('transfer').study.stages
  for name, stage in digits.stages.items():
    assert stage.total_steps == whole[name].total_steps / 2
    assert stage.warmup_steps == whole[name].warmup_steps / 2
  assert short == studies.config('transfer', 'short').study
  assert folder == os.path.join('F', 'digits', 'studies', 'transfer')


def test_costs_of_a_studys_sides():
  (section,) = Lesson('short').costs('families').sections
  assert [row[0] for row in section.rows] == ['ViT', 'BiT']
  parameters = int(section.rows[0][1].replace(',', ''))
  # Two blocks of width 32 with MLPs of 64, 12 pixels a patch, 17 positions.
  block = 4 * 32 * 33 + 32 * 64 + 64 + 64 * 32 + 32 + 4 * 32
  assert parameters == 12 * 32 + 32 + 32 + 17 * 32 + 2 * block + 2 * 32
  assert [row[3] for row in section.rows] == ['8', '16']


def test_elsewhere_numbers_are_shown_with_what_was_measured(tmp_path):
  lesson = Lesson('digits', str(tmp_path))
  (record,) = lesson.check([table.find(ROW)]).records
  assert record['verdict'] == verdict.NOT_RUN
  assert not os.listdir(tmp_path)


def test_at_full_size_they_are_checked(tmp_path, capsys):
  """Without weights and a network there is a line on each that fails."""
  (tmp_path / 'weights').write_text('no folder')
  lesson = Lesson('full', str(tmp_path), str(tmp_path / 'weights'))
  (record,) = lesson.check([table.find(ROW)]).records
  assert record['verdict'] == verdict.NOT_RUN
  assert ROW in capsys.readouterr().err


def test_the_claim_of_the_readme():
  claim = lessons.readme_claim()
  judged = [
    verdict.judge(claim, verdict.Measurement((right / 360,), 360)).kind
    for right in (353, 200)
  ]
  assert judged == [verdict.AGREES, verdict.DIFFERS]


def test_headings_go_below_those_of_the_notebook():
  shown = lessons.Shown('# One\n\ntext # not\n## Two')
  assert shown._repr_markdown_() == '### One\n\ntext # not\n#### Two'
