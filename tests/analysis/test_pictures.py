"""Files of figures and arrays."""

import re
import resource
import types

import look
import numpy as np
import pytest
from PIL import Image

from vit_jax_repro.analysis import pictures

pytestmark = pytest.mark.quick


def drawing():
  """Returns a figure with one line and two labels."""
  figure = pictures.new(3, 2)
  axis = figure.subplots()
  axis.plot([0, 1], [2, 3], color=pictures.BLUE)
  axis.set(xlabel='time (s)', ylabel='way (m)')
  return figure


def test_save_writes_the_same_bytes_for_the_same_figure(tmp_path):
  for ending in pictures.ENDINGS:
    first, second = tmp_path / f'a{ending}', tmp_path / f'b{ending}'
    pictures.save(drawing(), first)
    pictures.save(drawing(), second)
    assert first.read_bytes() == second.read_bytes()
  assert look.assert_drawn(tmp_path / 'a.png').shape == (240, 360, 3)
  svg = (tmp_path / 'a.svg').read_text()
  assert '<svg' in svg and re.search('<text[^>]*>time \\(s\\)</text>', svg)
  pdf = (tmp_path / 'a.pdf').read_bytes()
  # TrueType, not Type 3; one column of 3.25 inches of 72 points.
  assert b'/CIDFontType2' in pdf and b'/Type3' not in pdf
  assert b'/MediaBox [ 0 0 234 ' in pdf
  assert len([*tmp_path.iterdir()]) == 6
  look.assert_readable(drawing())
  assert 'time (s)' in look.texts(drawing())


def test_save_and_save_arrays_reject_other_file_endings(tmp_path):
  for name in ('a.jpg', 'png', 'a.png.txt'):
    with pytest.raises(
      ValueError, match=r'must end in \.pdf or \.png or \.svg'
    ):
      pictures.save(drawing(), tmp_path / name)
  with pytest.raises(ValueError, match=r'must end in \.npz'):
    pictures.save_arrays(tmp_path / 'a.npy', {})
  with pytest.raises(FileNotFoundError, match='does not exist'):
    pictures.save(drawing(), tmp_path / 'no' / 'a.png')
  assert not [*tmp_path.iterdir()]


def test_save_names_the_file_on_a_full_disk(tmp_path):
  """matplotlib ends a PDF by an AttributeError then."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  for ending in pictures.ENDINGS:
    path = tmp_path / f'a{ending}'
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
      with pytest.raises(OSError, match=f'cannot write {path}: File too large'):
        pictures.save(drawing(), path)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert not [*tmp_path.iterdir()]


def test_save_arrays_keeps_the_old_file_after_an_error(tmp_path):
  path = tmp_path / 'a.npz'
  pictures.save_arrays(path, {'x': np.arange(3)})
  with pytest.raises(ValueError, match='x is an array of objects'):
    pictures.save_arrays(path, {'x': np.array([object()])})
  with np.load(path) as saved:
    assert saved.files == ['x']
    np.testing.assert_array_equal(saved['x'], [0, 1, 2])
  assert [*tmp_path.iterdir()] == [path]


def test_new_rejects_a_figure_above_the_size_limit():
  with pytest.raises(ValueError, match='5 x 501 inches, above 500; draw fewer'):
    pictures.new(5, 501)


def test_arrays_converts_records_and_lists_of_records():
  one = types.SimpleNamespace(model='ViT', heads=(0, 2), maps=np.ones((2, 3)))
  found = pictures.arrays(one)
  assert found['model'] == 'ViT' and found['maps'].shape == (2, 3)
  assert found['heads'].tolist() == [0, 2]
  points = [types.SimpleNamespace(name=n, x=x) for n, x in (('a', 1), ('b', 2))]
  found = pictures.arrays(points)
  assert found['name'].tolist() == ['a', 'b'] and found['x'].tolist() == [1, 2]
  assert pictures.arrays([]) == {}


def test_save_draws_names_of_any_bytes(tmp_path):
  for text in ('\udcff.png', 'two\nlines', '\x1b[31m', 'a$b$ c'):
    figure = drawing()
    figure.axes[0].set_title(pictures.escape_mathtext(text))
    pictures.save(figure, tmp_path / 'a.png')
    look.assert_drawn(tmp_path / 'a.png')
  assert pictures.escape_mathtext('\udcff$\n') == r'\udcff\$\n'


def test_save_writes_the_width_and_dpi_asked_for(tmp_path):
  figure, path = drawing(), tmp_path / 'a.png'
  pictures.save(figure, path, width=4.5, dpi=50)
  with Image.open(path) as image:
    assert image.width == 225
  assert figure.get_size_inches()[0] == 4.5
  with pytest.raises(ValueError, match='65535 pixels on a side at 30000 dpi'):
    pictures.save(figure, path, dpi=30_000)


@pytest.mark.parametrize('width', [3.25, 6])
def test_resize_keeps_texts_inside_and_stacks_panels(width):
  figure = pictures.new(9, 4)
  title = figure.suptitle('A title of several words. ' * 5, wrap=True)
  for axis in figure.subplots(1, 2):
    axis.plot([0, 1], [2, 3])
    axis.set(xlabel='time (s)', ylabel='way (m)')
  pictures.resize(figure, width)
  look.assert_readable(figure)
  assert figure.get_size_inches()[0] == width
  first, second = (axis.get_position() for axis in figure.axes)
  assert (first.x0 == second.x0) == (width == 3.25)
  assert (first.y0 == second.y0) == (width == 6)
  assert title.get_fontsize() == pytest.approx(
    12 * {3.25: 0.75, 6: 0.75}[width]
  )
  (label, *_) = figure.axes[0].get_xticklabels()
  assert label.get_fontsize() == pytest.approx(7.5)


def test_fit_height_leaves_no_margin_around_images():
  figure = pictures.new(4, 9, images=True)
  figure.suptitle('title')
  panels = figure.subplots(1, 2)
  for panel in panels:
    panel.imshow(np.eye(2))
  pictures.fit_height(figure)
  look.assert_readable(figure)
  boxes = [panel.get_tightbbox() for panel in panels]
  width, height = figure.bbox.size
  top = figure.texts[0].get_window_extent().y0
  assert min(box.y0 for box in boxes) < 0.15 * figure.dpi
  assert top - max(box.y1 for box in boxes) < 0.15 * figure.dpi
  assert width - max(box.x1 for box in boxes) < 0.15 * figure.dpi
  assert height < 2.5 * figure.dpi
