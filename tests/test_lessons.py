"""Tests the functions that the notebooks call."""

import dataclasses
import io
import json
import os
import pathlib
import re
import zipfile

import pytest

from vit_jax_repro import lessons, studies
from vit_jax_repro.analysis import pictures
from vit_jax_repro.data import datasets
from vit_jax_repro.lessons import Lesson
from vit_jax_repro.output import files
from vit_jax_repro.paper import table, verdict
from vit_jax_repro.runs.settings import to_plain
from vit_jax_repro.studies import outcome, report, running

ROW = 'vit-table-5-vit-b-16-imagenet-21k-90ep-imagenet'


@pytest.fixture(scope='module')
def lesson(tmp_path_factory):
  """A lesson of size 'short' with a model trained for three updates."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(lessons, '_SHORT_STEPS', 3)
    lesson = Lesson('short', str(tmp_path_factory.mktemp('lessons')))
    lesson.trained()
    yield lesson


def test_lesson_refuses_an_unknown_size():
  with pytest.raises(ValueError, match="size='tiny' must be one of digits, sh"):
    Lesson('tiny')


def test_sizes_equal_the_sizes_of_studies():
  assert set(lessons.SIZES) == set(studies.SIZES)


def test_trained_trains_once(lesson):
  path = lesson.trained()
  assert path.startswith(lesson.folder)
  result = pathlib.Path(path).with_name('result.json')
  before = json.loads(result.read_text())  # contains the time of training
  assert lesson.trained() == path and json.loads(result.read_text()) == before
  assert Lesson('digits').training().total_steps == 2400
  assert lesson.training().total_steps < 2400


def test_pictures_writes_test_digits_with_their_labels(lesson):
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


def test_pictures_requires_images_at_full_size():
  with pytest.raises(ValueError, match='set images='):
    Lesson('full').pictures()
  assert Lesson('full', images=('a.jpg', 'b.jpg')).pictures(1) == ['a.jpg']


def test_photographs_writes_a_zip_of_two_classes(lesson):
  with zipfile.ZipFile(lesson.photographs()) as file:
    names = [name for name in file.namelist() if name.endswith('.jpg')]
  assert len(names) == 24
  assert {name.split('/')[0] for name in names} == {'china', 'flower'}


@pytest.mark.quick
def test_picture_has_its_text_and_the_figure():
  figure = pictures.new(2, 1)
  found = lessons.Picture(figure, 'a "line"')._repr_html_()
  assert found.startswith('<img alt="a &quot;line&quot;" ')
  assert 'data:image/png;base64,iVBOR' in found


@pytest.mark.quick
@pytest.mark.parametrize(
  'call, name',
  [
    (Lesson.trained, 'imagenet21k+imagenet2012/ViT-B_16'),
    (Lesson.training, 'imagenet21k/ViT-B_16'),
  ],
)
def test_trained_and_training_read_published_files_at_full_size(
  call, name, tmp_path
):
  """`trained` needs the fine-tuned file, `training` the pre-trained one."""
  weights_dir = tmp_path / 'weights'
  folder, _, file = name.rpartition('/')
  (weights_dir / folder).mkdir(parents=True)
  (weights_dir / folder / f'{file}.npz').write_text('no weights')
  lesson = Lesson('full', str(tmp_path), str(weights_dir))
  with pytest.raises(ValueError, match=re.escape(f'{folder}/{file}.npz')):
    call(lesson)


@pytest.mark.quick
def test_path_creates_its_folder(tmp_path):
  path = Lesson('full', str(tmp_path / 'new')).path('port')
  assert os.path.isdir(os.path.dirname(path)) and not os.path.exists(path)


@pytest.mark.quick
def test_study_plan_names_omitted_sides_seeds_and_updates():
  sides = 'none', '2-D, stem'
  part = dict(sides=sides, num_seeds=2, updates=0.5)
  plan = Lesson('digits', 'F').study_plan('position_embeddings', **part)
  assert plan['order']['sides'] == list(sides) and plan['seeds'] == [0, 1]
  assert plan['size'] == (
    'digits with 2 of 10 sides, 2 of 5 seeds, 0.5 of the updates'
  )
  whole = studies.config('position_embeddings').study.stages.train
  for key in ('total_steps', 'warmup_steps'):
    assert plan['stages']['train'][key] == whole[key] / 2
  rates = Lesson('digits', 'F').study_plan('pooling', base_lrs=(1e-2,))
  assert rates['base_lrs'] == [1e-2] and '1 of 3 learning' in rates['size']
  for size in ('digits', 'short', 'full'):
    asked = {} if size == 'digits' else part
    plan = Lesson(size, 'F').study_plan('position_embeddings', **asked)
    assert running.checked(plan) == running.checked(
      to_plain(studies.config('position_embeddings', size).study)
    )


@pytest.mark.quick
def test_study_plan_applies_data_dir_and_overrides_at_full_size():
  """A side that replaces a whole stage gets them too; the rest is unchanged."""
  lesson = Lesson('full', data_dir='DATA', overrides={'accum_steps': 64})
  plan = lesson.study_plan('data_size')
  before = to_plain(studies.config('data_size', 'full').study)
  assert before['stages']['train']['accum_steps'] != 64
  for side, changes in plan['sides'].items():
    *_, (_, made) = running.stages(plan, changes, 0.1, 0)
    assert made['tfds_data_dir'] == 'DATA' and made['accum_steps'] == 64, side
    *_, (_, old) = running.stages(before, before['sides'][side], 0.1, 0)
    free = dict(tfds_data_dir=0, accum_steps=0)
    assert made | free == old | free
  with pytest.raises(ValueError, match="unknown setting 'no'"):
    Lesson('full', overrides={'no': 1}).study_plan('transfer')


@pytest.mark.quick
def test_studied_reads_the_result_of_a_study(tmp_path):
  lesson = Lesson('short', str(tmp_path))
  sides = outcome.side('ViT', 0.1, [0.5]), outcome.side('BiT', 1, [0.7])
  result = report.StudyResult(
    'families', 'A title', 'short', 1, sides, (), {}, 'digits', 'test', ''
  )
  path = lesson.path('studies', 'families', 'study.json')
  os.makedirs(os.path.dirname(path))
  files.write_json(path, dataclasses.asdict(result))
  found = lesson.studied('families')
  assert found.title == 'A title' and found.sides == ('ViT', 'BiT')


def test_costs_counts_parameters_of_each_side():
  (section,) = Lesson('short').costs('families').sections
  assert [row[0] for row in section.rows] == ['ViT', 'BiT']
  parameters = int(section.rows[0][1].replace(',', ''))
  # Two blocks of width 32 with MLPs of 64, 12 pixels a patch, 17 positions.
  block = 4 * 32 * 33 + 32 * 64 + 64 + 64 * 32 + 32 + 4 * 32
  assert parameters == 12 * 32 + 32 + 32 + 17 * 32 + 2 * block + 2 * 32
  assert [row[3] for row in section.rows] == ['8', '16']


def test_check_shows_published_numbers_below_full_size(tmp_path):
  lesson = Lesson('digits', str(tmp_path))
  (record,) = lesson.check([table.find(ROW)]).records
  assert record['verdict'] == verdict.NOT_RUN
  assert not os.listdir(tmp_path)


def test_check_runs_rows_at_full_size(tmp_path, capsys):
  """Prints a line for each row that fails, here for lack of weights."""
  (tmp_path / 'weights').write_text('no folder')
  lesson = Lesson('full', str(tmp_path), str(tmp_path / 'weights'))
  (record,) = lesson.check([table.find(ROW)]).records
  assert record['verdict'] == verdict.NOT_RUN
  assert ROW in capsys.readouterr().err


def test_check_passes_the_settings_of_the_lesson(monkeypatch, tmp_path):
  seen = []

  def run(rows, options, resolve, budget_hours):
    seen.append((rows, options, budget_hours))
    return None, {}, {}

  monkeypatch.setattr(lessons.budget, 'run', run)
  settings = dict(data_dir='DATA', budget_hours=3, overrides={'batch': 8})
  lesson = Lesson('full', str(tmp_path), 'WEIGHTS', **settings)
  cannot = next(row for row in table.rows() if row.status == table.NOT)
  lesson.check([cannot, table.find(ROW)])
  ((rows, options, budget_hours),) = seen
  assert rows == [table.find(ROW)] and budget_hours == 3
  assert options.weights_dir == 'WEIGHTS' and options.data_dir == 'DATA'
  assert options.overrides == {'batch': 8} and options.fetch
  assert options.results == str(tmp_path / 'full' / 'results')


def test_readme_claim_can_differ_and_has_too_few_images_to_agree():
  claim = lessons.readme_claim()
  judged = [
    verdict.judge(claim, verdict.Measurement((right / 360,), 360)).kind
    for right in (353, 200)
  ]
  assert judged == [verdict.CANNOT_TELL, verdict.DIFFERS]


def test_shown_lowers_headings_by_two_levels():
  shown = lessons.Shown('# One\n\ntext # not\n## Two')
  assert shown._repr_markdown_() == '### One\n\ntext # not\n#### Two'
  folded = lessons.Shown('# One', 'all of it')._repr_markdown_().split('\n\n')
  assert folded[1:] == ['### One', '</details>']
  assert folded[0].endswith('<summary>all of it</summary>')
