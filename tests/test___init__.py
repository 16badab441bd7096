import pathlib
import tomllib

import pytest

import vit_jax_repro

pytestmark = pytest.mark.quick


def test_version_equals_the_version_of_the_project():
  path = pathlib.Path(__file__).parent.parent / 'pyproject.toml'
  project = tomllib.loads(path.read_text())['project']
  assert vit_jax_repro.__version__ == project['version']
