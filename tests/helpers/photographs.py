"""The two real photographs that scikit-learn ships."""

import importlib.util
import pathlib

_FOLDER = pathlib.Path(importlib.util.find_spec('sklearn').origin).parent
PHOTOGRAPHS = {
  name: _FOLDER / 'datasets' / 'images' / f'{name}.jpg'
  for name in ('china', 'flower')
}
