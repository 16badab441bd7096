"""Tests that requirements.txt locks pyproject.toml for every Python."""

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
LOCK = [
  Requirement(line)
  for line in (ROOT / 'requirements.txt').read_text().splitlines()
  if line and not line.startswith('#')
]
PLATFORMS = {
  'linux': {'sys_platform': 'linux', 'platform_machine': 'x86_64'},
  'arm': {'sys_platform': 'linux', 'platform_machine': 'aarch64'},
  'mac': {'sys_platform': 'darwin', 'platform_machine': 'arm64'},
}


def environment(python, platform):
  return {
    'python_version': python,
    'python_full_version': f'{python}.1',
    'extra': '',
    **PLATFORMS[platform],
  }


def locked(env):
  """Returns the version of each package in an environment."""
  chosen = [r for r in LOCK if not r.marker or r.marker.evaluate(env)]
  names = [canonicalize_name(r.name) for r in chosen]
  assert len(names) == len(set(names))
  return {
    name: re.fullmatch(r'==([\w.+]+)', str(requirement.specifier))[1]
    for name, requirement in zip(names, chosen, strict=True)
  }


@pytest.mark.parametrize('python', ['3.11', '3.12', '3.13'])
@pytest.mark.parametrize('platform', PLATFORMS)
def test_lock_satisfies_every_dependency(python, platform):
  env = environment(python, platform)
  versions = locked(env)
  extras = PROJECT['optional-dependencies']
  for text in PROJECT['dependencies'] + extras['dev'] + extras['notebooks']:
    wanted = Requirement(text)
    if not wanted.marker or wanted.marker.evaluate(env):
      assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)])


def test_lock_has_no_urls_and_no_heavy_packages():
  text = (ROOT / 'requirements.txt').read_text()
  assert '://' not in text and '/' not in text
  names = {canonicalize_name(requirement.name) for requirement in LOCK}
  assert not names & {'torch', 'torchvision', 'timm', 'transformers'}


def test_extras_exclude_torchvision():
  for requirements in PROJECT['optional-dependencies'].values():
    assert not {'torchvision', 'timm'} & {
      Requirement(text).name for text in requirements
    }
