"""Tests that the locked versions are those of pyproject.toml."""

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
DEV = 'requirements-dev.txt'
TESTED, OLDEST = ('requirements.txt', DEV), ('requirements-oldest.txt', DEV)
PLATFORMS = {
  'linux': {'sys_platform': 'linux', 'platform_machine': 'x86_64'},
  'arm': {'sys_platform': 'linux', 'platform_machine': 'aarch64'},
  'mac': {'sys_platform': 'darwin', 'platform_machine': 'arm64'},
  'windows': {'sys_platform': 'win32', 'platform_machine': 'AMD64'},
}


def environment(python, platform):
  return {
    'python_version': python,
    'python_full_version': f'{python}.1',
    'extra': '',
    **PLATFORMS[platform],
  }


def requirements(*names):
  """Returns the requirements of files."""
  return [
    Requirement(line)
    for name in names
    for line in (ROOT / name).read_text().splitlines()
    if line and not line.startswith('#')
  ]


def locked(env, *names):
  """Returns the version of each package in an environment."""
  versions = {}
  for each in requirements(*names):
    if not each.marker or each.marker.evaluate(env):
      version = re.fullmatch(r'==([\w.+]+)', str(each.specifier))[1]
      name = canonicalize_name(each.name)
      assert versions.setdefault(name, version) == version
  return versions


def wanted(env, *extras):
  """Returns the dependencies in an environment, with those of extras."""
  texts = PROJECT['dependencies'] + [
    text for extra in extras for text in PROJECT['optional-dependencies'][extra]
  ]
  return [
    each
    for each in map(Requirement, texts)
    if not each.marker or each.marker.evaluate(env)
  ]


@pytest.mark.parametrize('python', ['3.11', '3.12', '3.13', '3.14'])
@pytest.mark.parametrize('platform', PLATFORMS)
def test_locks_satisfy_every_dependency(python, platform):
  env = environment(python, platform)
  for names, extras in (
    (TESTED, ('dev', 'export', 'notebooks', 'text')),
    (TESTED[:1], ()),
    (OLDEST, ('dev',)),
  ):
    versions = locked(env, *names)
    for each in wanted(env, *extras):
      assert each.specifier.contains(versions[canonicalize_name(each.name)])


def test_oldest_versions_are_the_lower_bounds():
  """A bound that is lowered without `make lock` would not be tried."""
  env = environment('3.13', 'linux')
  versions = locked(env, *OLDEST)
  for each in wanted(env):
    bound = next(s.version for s in each.specifier if s.operator == '>=')
    version = versions[canonicalize_name(each.name)]
    assert version == bound or version.startswith(bound + '.')


def test_requirements_hold_what_running_needs_only():
  names = {each.name for each in requirements('requirements.txt')}
  assert not names & {'pytest', 'ruff', 'ty', 'nbconvert', 'ipykernel'}


def test_python_without_tensorflow_installs_nothing_that_needs_it():
  names = {each.name for each in wanted(environment('3.14', 'linux'))}
  assert {'jax', 'flax', 'pillow'} < names
  assert not names & {'tensorflow', 'tensorflow-cpu', 'tensorflow-datasets'}


@pytest.mark.parametrize('name', sorted({*TESTED, *OLDEST}))
def test_locks_have_no_urls_and_no_heavy_packages(name):
  assert '/' not in (ROOT / name).read_text()
  names = {canonicalize_name(each.name) for each in requirements(name)}
  assert not names & {'torch', 'torchvision', 'timm', 'transformers'}


def test_extras_exclude_torchvision():
  for texts in PROJECT['optional-dependencies'].values():
    assert not {'torchvision', 'timm'} & {
      Requirement(text).name for text in texts
    }
