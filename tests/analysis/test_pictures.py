"""Files of figures and arrays."""

import types

import look
import numpy as np
import pytest

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
  assert '<svg' in (tmp_path / 'a.svg').read_text()
  assert len([*tmp_path.iterdir()]) == 4
  look.assert_readable(drawing())
  assert 'time (s)' in look.texts(drawing())


def test_save_and_save_arrays_reject_other_file_endings(tmp_path):
  for name in ('a.jpg', 'png', 'a.png.txt'):
    with pytest.raises(ValueError, match=r'must end in \.png or \.svg'):
      pictures.save(drawing(), tmp_path / name)
  with pytest.raises(ValueError, match=r'must end in \.npz'):
    pictures.save_arrays(tmp_path / 'a.npy', {})
  with pytest.raises(FileNotFoundError, match='does not exist'):
    pictures.save(drawing(), tmp_path / 'no' / 'a.png')
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
