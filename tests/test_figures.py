"""Tests the verb `figures`: its files, flags and one-line errors."""

import json

import look
import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS
from run_verb import assert_one_line, run_verb

from vit_jax_repro import figures, weights

IMAGES = list(PHOTOGRAPHS.values())


def arrays_of(path):
  with np.load(path) as file:
    return dict(file)


def run(*arguments):
  """Runs the verb in this process and returns its exit code."""
  try:
    figures.main(['figures', *map(str, arguments)])
  except SystemExit as stop:
    return stop.code
  return 0


def test_attention_writes_a_picture_and_arrays(tiny_vit, tmp_path):
  out, arrays = tmp_path / 'a.png', tmp_path / 'a.npz'
  answer = run_verb(
    'figures', 'attention', f'--weights={tiny_vit}', f'--out={out}',
    f'--arrays={arrays}', '--image_size=12x8', '--heads=max', *IMAGES,
  )  # fmt: skip
  assert answer == (0, f'{out}\n{arrays}\n', '')
  look.assert_drawn(out)
  found = arrays_of(arrays)
  assert found['maps'].shape == (2, 3, 2)
  assert found['images'].shape == (2, 12, 8, 3)
  assert found['names'].tolist() == ['china.jpg', 'flower.jpg']
  assert found['combined'] == 'max'


@pytest.mark.parametrize('command', ['attention', 'distance'])
def test_figures_leaves_out_damaged_images_of_a_folder(
  command, tiny_vit, tmp_path, capsys
):
  (tmp_path / 'photos').mkdir()
  for number, image in ((10, IMAGES[0]), (9, IMAGES[1])):
    (tmp_path / 'photos' / f'{number}.jpg').write_bytes(image.read_bytes())
  (tmp_path / 'photos' / '1.jpg').write_text('no image')
  out, arrays = tmp_path / 'a.png', tmp_path / 'a.npz'
  code = run(
    command, f'--weights={tiny_vit}', f'--out={out}', f'--arrays={arrays}',
    '--image_size=8', tmp_path / 'photos',
  )  # fmt: skip
  printed, err = capsys.readouterr()
  assert code == 1 and printed == f'{out}\n{arrays}\n'
  look.assert_drawn(out)
  assert '1.jpg is not a readable JPEG' in err
  assert err.endswith('; the other 2 images are in the result\n')
  found = arrays_of(arrays)
  if command == 'attention':
    assert found['names'].tolist() == ['9.jpg', '10.jpg']
    assert len(found['images']) == len(found['maps']) == 2
  else:
    assert len(found['distances']) == 2


def test_figures_draws_each_figure_of_a_model(tiny_vit, tmp_path, capsys):
  size = '--image_size=16'
  for number, (arguments, name, shape) in enumerate(
    (
      (('attention', '--layer=all', size, *IMAGES), 'maps', (2, 2, 2, 4, 4)),
      (
        ('attention', '--layer=1', '--head=0', '--token=mean', size, *IMAGES),
        'maps',
        (2, 1, 1, 4, 4),
      ),
      (('distance', size, *IMAGES), 'distances', (2, 2, 2)),
      (('positions', size), 'similarity', (4, 4, 4, 4)),
      (('filters', '--components=3'), 'components', (3, 4, 4, 3)),
      (
        ('filters', '--against=untrained', '--grey', '--components=3'),
        'against/components',
        (3, 4, 4, 1),
      ),
      (
        ('attention', '--against=untrained', size, *IMAGES[:1]),
        'against/maps',
        (1, 4, 4),
      ),
      (
        ('positions', f'--against={tiny_vit}', size),
        'against/similarity',
        (4, 4, 4, 4),
      ),
    )
  ):
    out, arrays = tmp_path / f'{number}.svg', tmp_path / f'{number}.npz'
    files = f'--out={out}', f'--arrays={arrays}', f'--weights={tiny_vit}'
    assert run(*files, *arguments) == 0, capsys.readouterr()
    assert '<svg' in out.read_text() and arrays_of(arrays)[name].shape == shape


@pytest.mark.quick
def test_figures_draws_each_figure_of_results(tmp_path, capsys):
  line = {'step': 3, 'train_loss': 1.0, 'accuracy_test': 0.5}
  (tmp_path / 'metrics.jsonl').write_text(json.dumps(line))
  study = tmp_path / 'study.json'
  side = {'name': 'ViT', 'accuracies': [0.5]}
  value = {'title': 'T', 'size': 'short', 'sides': [side], 'judgements': []}
  study.write_text(json.dumps(value))
  case = {'kind': 'infer', 'model': 'S', 'batch_size': 1, 'dtype': 'float32'}
  row = {'contender': 'plain', 'seconds': 1, 'spread': [1, 1]}
  row |= {'case': case | {'image_size': [8, 8]}, 'images_per_sec': 3}
  speed = tmp_path / 'speed.json'
  speed.write_text(json.dumps({'rows': [row]}))
  bound = {'seconds': 0.5, 'limited_by': 'memory'}
  row = {'num_chips': 4, 'fits': True, 'analysis': {'bound': bound}}
  row['case'] = case | {
    'image_size': [8, 8],
    'target': 'v4:2x2',
    'batch_size': 8,
  }
  scaling = tmp_path / 'scaling.json'
  scaling.write_text(json.dumps({'rows': [row]}))
  for command, read, name, wanted in (
    ('scaling', [scaling], 'rates', 4),
    ('compute', [], 'imagenet', 80.73),
    ('curves', [tmp_path], '0/losses', 1.0),
    ('study', [study], 'accuracies', 0.5),
    ('verdicts', [f'--results={tmp_path}'], None, None),
    ('speed', [speed], 'values', 3),
  ):
    out, arrays = tmp_path / f'{command}.png', tmp_path / f'{command}.npz'
    files = f'--out={out}', f'--arrays={arrays}'
    assert run(command, *files, *read) == 0, capsys.readouterr()
    look.assert_drawn(out)
    found = arrays_of(arrays)
    assert name is None or found[name].ravel()[0] == wanted


def test_figures_refuses_wrong_models_in_one_line(tmp_path, capsys):
  path = tmp_path / 'bit.npz'
  weights.save(
    path, tiny_models.params_of(tiny_models.spec(3, tiny_models.BIT))
  )
  files = f'--weights={path}', f'--out={tmp_path}/a.png'
  code = run('attention', *files, '--image_size=32', *IMAGES)
  assert_one_line((code, *capsys.readouterr()), 'BiT has no', '`filters`')
  assert not (tmp_path / 'a.png').exists()


@pytest.mark.quick
@pytest.mark.parametrize(
  'arguments, wanted',
  [
    (['attention', '--out=a.png', '--weights=w.npz'], 'at least one image'),
    (['attention', '--weights=w.npz', 'a.jpg'], '--out must be given'),
    (['attention', '--out=a.jpg', 'a.jpg'], "'a.jpg' must end in .pdf or .png"),
    (['compute', '--out=a.png', '--dpi=3'], '--dpi'),
    (['compute', '--out=a.png', '--width=0'], '--width'),
    (['positions', '--out=a.png'], '--weights must be given'),
    (['compute', '--out=a.png', '--arrays=a.npy'], 'must end in .npz'),
    (['verdicts', '--out=a.png'], '--results must be given'),
    (['compute', '--out=a.png', '--token=mean'], 'does not take --token'),
    (['distance', '--out=a.png', '--token=1', 'a.jpg'], 'does not take --tok'),
    (
      ['attention', '--out=a.png', '--token=x', '--weights=w.npz', 'a.jpg'],
      "--token=x must be class, mean, or a patch's ROW,COLUMN",
    ),
    (
      ['attention', '--out=a.png', '--layer=-1', '--weights=w.npz', 'a.jpg'],
      '--layer=-1 must be numbers from 0',
    ),
    (
      ['attention', '--out=a.png', '--head=1', '--weights=w.npz', 'a.jpg'],
      '--head selects maps of --layer',
    ),
    (
      [
        'attention',
        '--out=a.png',
        '--layer=1',
        '--against=untrained',
        '--weights=w.npz',
        'a.jpg',
      ],
      '--against is for the rollout',
    ),
    (
      ['positions', '--out=a.png', '--layer=0,1', '--weights=w.npz'],
      'positions takes one',
    ),
    (['attention', '--out=./a.png', '--weights=w.npz', 'a.png'], 'replace'),
    (['attention', '--out=a.png', '--weights=w.npz', 'b.png'], 'no such image'),
    (
      ['distance', '--out=a.png', '--weights=w.npz', 'b.png', 'c.png'],
      'none of the 2 images exists; the first is b.png, seen from',
    ),
  ],
)
def test_figures_refuses_wrong_flags_in_one_line(
  arguments, wanted, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  assert run(*arguments) in (1, 2)
  out, err = capsys.readouterr()
  assert not out and err.count('\n') == 1 and wanted in err, err
  assert not [*tmp_path.iterdir()]
