"""Tests the package as it is built and installed, from another folder."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile

import pytest

import vit_jax_repro

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('pip') is None, reason='pip is not installed'
  ),
]

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
PIP = (sys.executable, '-m', 'pip', '--disable-pip-version-check')
TINY = (
  '--config.total_steps=2',
  '--config.warmup_steps=1',
  '--config.batch=16',
  '--config.model.hidden_size=16',
  '--config.model.num_layers=1',
)


def call(*command, **options):
  """Runs a command; returns its standard output."""
  done = subprocess.run(
    [str(part) for part in command],
    capture_output=True,
    text=True,
    check=False,
    **options,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def contents(wheel):
  """Returns {path: bytes} of a wheel."""
  with zipfile.ZipFile(wheel) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


def build(source, folder):
  """Builds a wheel of a folder or of an archive; returns its path."""
  options = ('--quiet', '--no-deps', '--no-build-isolation', '--wheel-dir')
  call(*PIP, 'wheel', *options, folder, source)
  (wheel,) = folder.glob('*.whl')
  return wheel


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A copy of the sources, in which building may leave files."""
  folder = tmp_path_factory.mktemp('source')
  for name in ('vit_jax_repro', 'configs'):
    ignored = shutil.ignore_patterns('__pycache__', 'build', '*.egg-info')
    shutil.copytree(ROOT / name, folder / name, ignore=ignored)
  for pattern in ('pyproject.toml', 'README.md', *PROJECT['license-files']):
    for path in ROOT.glob(pattern):
      target = folder / path.relative_to(ROOT)
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(path, target)
  return folder


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
  return build(source, tmp_path_factory.mktemp('wheel'))


def environment(folder):
  """Creates a virtual environment that has our libraries but not the package.

  The package of this environment is found by a hook of its editable install,
  which only its own site-packages run.
  """
  venv.create(folder)
  paths = sysconfig.get_paths(vars=dict(base=folder, platbase=folder))
  site = pathlib.Path(paths['purelib'])
  libraries = sysconfig.get_paths()['purelib']
  (site / 'libraries.pth').write_text(f'{libraries}\n')
  return pathlib.Path(paths['scripts'])


def install(scripts, *what):
  options = ('--quiet', '--no-deps', '--no-build-isolation')
  call(*PIP, '--python', scripts / 'python', 'install', *options, *what)


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
  """The programs of an environment with the wheel, in a checkout of others."""
  folder = tmp_path_factory.mktemp('checkout')
  author = ('-c', 'user.name=A', '-c', 'user.email=a@example.com')
  call('git', 'init', '--quiet', folder)
  call('git', '-C', folder, *author, 'commit', '--allow-empty', '-qm', 'Begin')
  scripts = environment(folder / '.venv')
  install(scripts, wheel)
  return scripts


def test_wheel_has_every_file_of_the_package(source, wheel):
  """Folders that the list of packages in pyproject.toml leaves out."""
  paths = [p for p in (source / 'vit_jax_repro').rglob('*') if p.is_file()]
  wanted = {str(path.relative_to(source)) for path in paths}
  wanted |= {
    f'vit_jax_repro/configs/{path.name}' for path in ROOT.glob('configs/*.py')
  }
  found = {name for name in contents(wheel) if '.dist-info/' not in name}
  assert found == wanted


def test_wheel_is_the_same_from_the_source_archive(source, wheel, tmp_path):
  """Files that the archive lacks, and files that a second build leaves out."""
  program = 'from setuptools import build_meta; build_meta.build_sdist("dist")'
  (source / 'dist').mkdir()
  call(sys.executable, '-c', program, cwd=source)
  (archive,) = (source / 'dist').glob('*.tar.gz')
  assert contents(build(archive, tmp_path)) == contents(wheel)


def test_installed_program_works_from_another_folder(installed, tmp_path):
  """Files that are found only in the repository."""
  program = installed / 'vit-jax-repro'

  def run(*arguments):
    return call(program, *arguments, cwd=tmp_path)

  assert run('--version') == f'vit-jax-repro {vit_jax_repro.__version__}\n'
  where = 'import vit_jax_repro; print(vit_jax_repro.__file__)'
  found = call(installed / 'python', '-c', where, cwd=tmp_path)
  assert found.startswith(str(installed.parent))
  assert 'ViT Table 5' in run('reproduce', 'list')
  run('main', '--config=configs/quickstart.py', '--workdir=run', *TINY)
  manifest = json.loads((tmp_path / 'run' / 'manifest.json').read_text())
  assert manifest['git_commit'] is None  # that of `installed` is another one's
  assert 'top-1 accuracy' in run(
    'evaluate', '--weights=run/model.npz', '--dataset=digits'
  )
  assert sorted(os.listdir(tmp_path)) == ['run']


def test_editable_install_finds_the_configurations(
  source, tmp_path_factory, tmp_path
):
  """Files that are found only in an installed package, or only in a clone."""
  scripts = environment(tmp_path_factory.mktemp('editable'))
  install(scripts, '--editable', source)
  program = (
    'from vit_jax_repro.runs import config_files; '
    'print(config_files.find("configs/vit.py"))'
  )
  found = call(scripts / 'python', '-c', program, cwd=tmp_path)
  assert found == f'{source}/configs/vit.py\n'
