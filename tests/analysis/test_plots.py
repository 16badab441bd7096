"""Figures of models with random weights and trained on digits."""

import pickle

import look
import numpy as np
import pytest
import tiny_models
from PIL import Image
from sklearn import datasets as sklearn_datasets

from vit_jax_repro import jobs, recipes, weights
from vit_jax_repro.analysis import inspecting, pictures, plots
from vit_jax_repro.runs import configuration

LAYERS, HEADS = 2, 2
MODEL = dict(
  recipes.QUICKSTART_MODEL,
  hidden_size=16,
  transformer=dict(num_layers=LAYERS, mlp_dim=32, num_heads=HEADS),
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The folder of weights files and images."""
  return tmp_path_factory.mktemp('models')


@pytest.fixture(scope='module', params=['random', 'trained'])
def model(request, folder):
  """A weights file, the options of its images, and the grid of patches."""
  if request.param == 'random':
    path = folder / 'wide.npz'
    weights.save(path, tiny_models.params_of(tiny_models.spec(3), (8, 12)))
    return path, dict(image_size=(8, 12)), (2, 3)
  steps = dict(total_steps=6, warmup_steps=1, eval_every=0, checkpoint_every=0)
  config = configuration.create(recipes.QUICKSTART | steps, MODEL)
  jobs.train(config, folder / 'run')
  return folder / 'run' / 'model.npz', {}, (4, 4)


@pytest.fixture(scope='module')
def images(folder):
  """Paths of two digits in PNG files, whose names have dollar signs."""
  digits = sklearn_datasets.load_digits().images[:2]
  paths = []
  for i, digit in enumerate(digits):
    paths.append(folder / f'digit_{i}$$.png')
    Image.fromarray((255 * digit / 16).astype(np.uint8)).save(paths[-1])
  return paths


def drawn(figure, path):
  """Checks a figure and its file; returns the texts of the figure."""
  look.assert_readable(figure)
  pictures.save(figure, path)
  look.assert_drawn(path, figure)
  return look.texts(figure)


def assert_readable_in_a_column(figure):
  """Checks the texts of a figure that is one column of a paper wide."""
  narrow = pickle.loads(pickle.dumps(figure))
  pictures.resize(narrow, pictures.COLUMN)
  look.assert_readable(narrow)
  if any(axis.get_images() for axis in narrow.axes):  # no empty margin
    boxes = [axis.get_tightbbox() for axis in narrow.axes]
    boxes += [text.get_window_extent() for text in narrow.texts]
    assert min(box.y0 for box in boxes) < 0.15 * narrow.dpi


def shown(panel):
  """Returns the pixels of a panel's image."""
  return np.asarray(panel.get_images()[0].get_array())


def test_patches_draws_each_patch_apart():
  image = np.linspace(-1, 1, 8 * 12 * 3).reshape(8, 12, 3)
  whole, apart = plots.patches(image, (4, 6)).axes
  np.testing.assert_allclose(whole.images[0].get_array(), (image + 1) / 2)
  drawn = apart.images[0].get_array()
  assert drawn.shape == (4 + 1 + 4, 6 + 1 + 6, 3)
  np.testing.assert_allclose(drawn[5:, 7:], (image[4:, 6:] + 1) / 2)
  assert (drawn[4] == 1).all() and (drawn[:, 6] == 1).all()
  assert apart.get_title() == '2 x 2 patches of 4 x 6 pixels'


def test_rollout_draws_images_and_their_attention(model, images, tmp_path):
  path, size, grid = model
  found = inspecting.rollouts(path, images, **size)
  figure = plots.rollout(found)
  text = drawn(figure, tmp_path / 'a.png')
  for wanted in (
    'ViT: attention rollout from the class token, mean over heads',
    r'digit_0\$\$.png',
    r'digit_1\$\$.png',
    '% to a patch',
  ):
    assert wanted in text
  panels = np.array(figure.axes[:6]).reshape(2, 3)
  for i, (plain, weighted, attention) in enumerate(panels):
    assert shown(attention).shape == grid
    np.testing.assert_allclose(shown(attention), 100 * found.maps[i])
    (drawn_map,) = attention.get_images()
    assert drawn_map.get_clim() == (0, pytest.approx(100 * found.maps[i].max()))
    np.testing.assert_array_equal(shown(plain), found.images[i])
    parts = shown(weighted)[found.images[i] > 0.1]
    parts = parts / found.images[i][found.images[i] > 0.1]
    assert (
      parts.max() == pytest.approx(1, abs=0.2) and parts.min() < parts.max()
    )
  assert found.images.std() > 0.1 and (found.maps.sum((1, 2)) < 1).all()


def test_heads_draws_a_map_of_each_head(model, images, tmp_path):
  path, size, grid = model
  found = inspecting.head_maps(
    path, images, layers=(1,), heads=(1, 0), token=(0, 1), **size
  )
  figure = plots.heads(found)
  text = drawn(figure, tmp_path / 'a.png')
  for wanted in (
    'ViT: attention from the patch in row 0, column 1',
    'head',
    'layer',
    "part of the map's largest",
  ):
    assert wanted in text
  mosaic, *_ = figure.axes
  assert [each.get_title('left') for each in figure.axes[:2]] == [
    r'digit_0\$\$.png',
    r'digit_1\$\$.png',
  ]
  labels = [each.get_text() for each in mosaic.get_xticklabels()]
  assert labels == ['1', '0']
  pixels = np.ma.filled(shown(mosaic), np.nan)
  # Two maps with a gap between them; the largest value of each is 1.
  whole = np.flatnonzero(~np.isnan(pixels).any(axis=0))
  halves = np.split(whole, np.flatnonzero(np.diff(whole) > 1) + 1)
  assert len(halves) == 2
  for columns, each in zip(halves, found.maps[0, 0], strict=True):
    times = len(columns) // grid[1]
    cells = pixels[::times, columns[::times]]
    np.testing.assert_allclose(cells, each / each.max())


def test_distance_draws_each_head_over_the_layers(model, images, tmp_path):
  path, size, _ = model
  found = inspecting.distances(path, images, **size)
  figure = plots.distance(found)
  text = drawn(figure, tmp_path / 'a.png')
  height, width = found.image_size
  for wanted in (
    'mean attention distance (pixels)',
    'layer',
    f'2 images of {height}x{width} pixels',
  ):
    assert wanted in text
  (dots,) = figure.axes[0].collections
  means = found.distances.mean(axis=0)
  assert means.shape == (LAYERS, HEADS)
  np.testing.assert_allclose(
    dots.get_offsets(),
    [[layer, means[layer, head]] for layer in (0, 1) for head in (0, 1)],
  )
  lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
  np.testing.assert_allclose(lines['mean of the heads'], means.mean(axis=1))
  assert set(lines['patch size']) == {min(found.patch)}
  assert set(lines['uniform attention']) == {found.even}


def test_similarity_draws_a_tile_for_each_position(model, tmp_path):
  path, size, grid = model
  found = inspecting.positions(path, **size)
  assert found.similarity.shape == (*grid, *grid)
  figure = plots.similarity(found)
  text = drawn(figure, tmp_path / 'a.png')
  for wanted in (
    'row of the patch',
    'column of the patch',
    'cosine similarity',
  ):
    assert wanted in text
  # The tile in row i and column j has the computed similarities.
  pixels = np.ma.filled(shown(figure.axes[0]), np.nan)
  for i, j in ((0, 1), (1, 0)):
    rows, columns = (
      np.split(lines, np.flatnonzero(np.diff(lines) > 1) + 1)
      for lines in (
        np.flatnonzero(~np.isnan(pixels).all(axis=axis)) for axis in (1, 0)
      )
    )
    tile = pixels[np.ix_(rows[i], columns[j])]
    times = len(rows[i]) // grid[0]
    np.testing.assert_allclose(
      tile[::times, ::times], found.similarity[i, j], atol=1e-7
    )


def test_filters_draws_principal_components(model, tmp_path):
  path, *_ = model
  found = inspecting.filters(path, number=9)
  figure = plots.filters(found)
  text = drawn(figure, tmp_path / 'a.png')
  assert 'ViT: principal components of the first filters' in text
  assert f'1: {100 * found.shares[0]:.2g} %' in text
  assert len([axis for axis in figure.axes if axis.axison]) == len(
    found.components
  )
  first = shown(figure.axes[0])
  assert first.shape == (*found.components[0].shape[:2], 3)
  assert first.max() == 1.0
  # The digits are grey; only the trained model has a config.json.
  grey = path.name == 'model.npz'
  assert found.grey == grey == ('summed over red, green and blue' in text)
  assert found.components.shape[-1] == (1 if grey else 3)
  same = np.ptp(first, axis=-1) == 0
  assert same.all() if grey else not same.all()


def test_enlarged_is_linear_between_centres_of_patches():
  large = plots.enlarged(np.array([[0.0, 4.0]]), (2, 8))
  np.testing.assert_allclose(large, [[0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4]] * 2)


@pytest.mark.parametrize('name', ['rollout', 'heads'])
def test_figures_of_attention_cover_only_pixels_in_patches(folder, name):
  """A map of 8x12 pixels was stretched over 11x13 pixels."""
  path = folder / 'odd.npz'
  weights.save(path, tiny_models.params_of(tiny_models.spec(3), (11, 13)))
  images = np.random.default_rng(0).normal(size=(1, 11, 13, 3)) / 4
  function = {'rollout': inspecting.rollouts, 'heads': inspecting.head_maps}
  found = function[name](path, images.astype(np.float32))
  assert found.patch == (4, 4) and found.maps.shape[-2:] == (2, 3)
  figure = {'rollout': plots.rollout, 'heads': plots.heads}[name](found)
  assert 'grey: pixels in no patch' in look.texts(figure)
  image = figure.axes[0]
  if name == 'heads':
    pixels = np.asarray(image.get_images()[1].get_array())
    np.testing.assert_array_equal(pixels[:8, :12], found.images[0, :8, :12])
    assert (pixels[8:] == 0.6).all() and (pixels[:, 12:] == 0.6).all()
    return
  below, beside = (each.get_bbox() for each in image.patches)
  assert (below.y0, below.y1) == (7.5, 10.5)
  assert (beside.x0, beside.x1) == (11.5, 12.5)
  assert image.get_xlim() == (-0.5, 12.5) and image.get_ylim() == (10.5, -0.5)
  _, weighted, attention = figure.axes[:3]
  assert attention.get_images()[0].get_extent() == [-0.5, 11.5, 7.5, -0.5]
  assert attention.get_xlim() == image.get_xlim()
  pixels = shown(weighted)
  assert not pixels[8:].any() and not pixels[:, 12:].any()
  large = plots.enlarged(found.maps[0], (8, 12))
  np.testing.assert_allclose(
    pixels[:8, :12],
    found.images[0, :8, :12] * (large / large.max())[..., None],
    rtol=1e-5,
  )


def test_over_image_leaves_pixels_beyond_the_patches_open():
  """The peak of a patch lies on its pixels, also beyond the image."""
  cells = np.zeros((13, 13))
  cells[12, 12] = 1  # pixels 192 to 207 of 222
  large = plots.over_image(cells, (16, 16), (222, 239))
  assert np.isnan(large[208:]).all() and np.isnan(large[:, 208:]).all()
  assert large[200:208, 200:208].min() == 1 and large[191, 191] < 0.3
  # A hybrid's last patch reaches 6 pixels beyond an image of 250.
  large = plots.over_image(np.eye(8), (32, 32), (250, 250))
  assert not np.isnan(large).any() and large.shape == (250, 250)
  np.testing.assert_array_equal(
    large, plots.enlarged(np.eye(8), (256, 256))[:250, :250]
  )


@pytest.mark.quick
@pytest.mark.parametrize('layers, heads', [(1, 12), (16, 64), (24, 16)])
def test_heads_aligns_photographs_with_maps_of_any_number(layers, heads):
  maps = np.random.default_rng(0).random((2, layers, heads, 2, 3))
  images = np.zeros((2, 32, 48, 3), np.float32)
  found = inspecting.HeadMaps(
    'ViT-B/16',
    'the class token',
    tuple(range(layers)),
    tuple(range(heads)),
    ('china.jpg', 'flower.jpg'),
    images,
    maps,
    (16, 16),
  )
  figure = plots.heads(found)
  look.assert_readable(figure)
  assert_readable_in_a_column(figure)
  for panel in figure.axes[:2]:
    mosaic, image = (each.get_extent() for each in panel.get_images())
    assert image[3] == mosaic[3] == -0.5 and image[1] < mosaic[0]
    wide, high = image[1] - image[0], image[2] - image[3]
    assert high / wide == pytest.approx(32 / 48)
    assert panel.get_xlim()[0] == image[0]
  first, second = (each.get_tightbbox() for each in figure.axes[:2])
  assert first.x0 < 0.2 * figure.dpi and first.y0 - second.y1 < figure.dpi


def pair(record, field, **fields):
  """Returns two records of random arrays, the second with smaller ones."""
  array = np.random.default_rng(0).random(fields.pop('shape'))
  return [
    record(**fields, **{field: part * array}, source=name)
    for part, name in ((1, 'run'), (0.5, 'untrained'))
  ]


def assert_compared(figure):
  """Checks that a figure of two models names both and is readable."""
  look.assert_readable(figure)
  assert_readable_in_a_column(figure)
  assert 'run' in look.texts(figure) and 'untrained' in look.texts(figure)


@pytest.mark.quick
def test_rollout_of_two_models_has_one_scale_for_each_image():
  one, other = pair(
    inspecting.Rollouts,
    'maps',
    shape=(2, 2, 3),
    model='ViT',
    token='the class token',
    combined='mean',
    names=('china.jpg', 'flower.jpg'),
    images=np.zeros((2, 32, 48, 3), np.float32),
    patch=(16, 16),
  )
  figure = plots.rollout(one, other)
  assert_compared(figure)
  for i, row in enumerate(np.array(figure.axes[:6]).reshape(2, 3)):
    for panel, found in ((row[1], one), (row[2], other)):
      (drawn_map,) = panel.get_images()
      np.testing.assert_allclose(drawn_map.get_array(), 100 * found.maps[i])
      assert drawn_map.get_clim() == (0, 100 * one.maps[i].max())


@pytest.mark.quick
def test_distance_similarity_and_filters_of_two_models_share_their_scale():
  one, other = pair(
    inspecting.Distances,
    'distances',
    shape=(1, 3, 4),
    model='ViT',
    image_size=(32, 32),
    patch=(1, 1),
    even=0.5,
  )
  figure = plots.distance(one, other)
  assert_compared(figure)
  left, right = figure.axes
  assert left.get_ylim() == right.get_ylim() == (0, 1.08)
  assert (left.get_title(), right.get_title()) == ('run', 'untrained')
  one, other = pair(
    inspecting.PositionSimilarity,
    'similarity',
    shape=(14, 14, 14, 14),
    model='ViT',
  )
  figure = plots.similarity(one, other)
  assert_compared(figure)
  assert {axis.get_images()[0].get_clim() for axis in figure.axes[:2]} == {
    (-1, 1)
  }
  one, other = pair(
    inspecting.Filters,
    'components',
    shape=(9, 4, 4, 1),
    model='ViT',
    shares=np.full(9, 1 / 9),
    grey=True,
  )
  figure = plots.filters(one, other)
  assert_compared(figure)
  drawn_panels = [axis for axis in figure.axes if axis.axison]
  assert len(drawn_panels) == 18
  for panel, found in ((drawn_panels[0], one), (drawn_panels[9], other)):
    colours = 0.5 + 0.5 * found.components[0] / one.components.max()
    np.testing.assert_allclose(shown(panel), colours.repeat(3, axis=-1))
