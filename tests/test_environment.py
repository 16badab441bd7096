"""Mistakes in the environment: one line, the value and the remedy."""

import os
import subprocess
import sys

import pytest

from vit_jax_repro import environment

pytestmark = pytest.mark.quick
PREDICT = ['predict', '--weights=x.npz', 'x.jpg']
EVALUATE = ['evaluate', '--weights=x.npz', '--dataset=digits']
QUICKSTART = ['main', '--config=configs/quickstart.py', '--workdir=/dev/null/x']


def run(verb, *flags, **variables):
  """Runs a verb in a new interpreter; returns its only line."""
  done = subprocess.run(
    [sys.executable, '-m', f'vit_jax_repro.{verb}', *map(str, flags)],
    env=os.environ | variables,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode in (1, 2) and not done.stdout
  (line,) = done.stderr.splitlines()
  return line


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags, reason',
  [
    ('--xla_no_such_flag=1', 'this XLA has no flag --xla_no_such_flag=1'),
    (
      '--xla_force_host_platform_device_count=many',
      'the flag --xla_force_host_platform_device_count cannot be many',
    ),
    ('xla_dump_to=x', "'xla_dump_to=x' is no flag: a flag begins with --"),
  ],
)
def test_wrong_xla_flags_are_one_line(flags, reason):
  """XLA would end the process itself, with hundreds of lines or one."""
  line = run(*PREDICT, XLA_FLAGS=flags)
  assert line == (
    f'predict: XLA_FLAGS={flags}: {reason}; correct it or unset XLA_FLAGS'
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'verb, variable, value, allowed',
  [
    (QUICKSTART, 'JAX_DEFAULT_MATMUL_PRECISION', 'hihg', 'highest, bfloat16'),
    (EVALUATE, 'JAX_ENABLE_X64', 'maybe', 'must be True or False'),
    (PREDICT, 'JAX_NUM_CPU_DEVICES', 'x', 'must be a value that JAX doc'),
  ],
)
def test_wrong_variables_of_jax_are_one_line(verb, variable, value, allowed):
  """JAX raises them wherever it is imported: flags, configuration, command."""
  line = run(*verb, **{variable: value})
  assert line.startswith(f'{verb[0]}: {variable}={value} must be ')
  assert allowed in line and line.endswith(f'or unset {variable}')


def test_platform_of_the_old_variable_is_named(monkeypatch):
  """Fault: JAX's older variable is not known, and the line names nothing."""
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  monkeypatch.setenv('JAX_PLATFORM_NAME', 'gpuu')
  line = environment._on_platforms("Unknown backend: 'gpuu' requested")
  assert line.startswith("JAX_PLATFORM_NAME=gpuu: JAX has no platform 'gpuu';")
  assert "did you mean 'gpu'" in line
  assert 'set JAX_PLATFORM_NAME=cpu, or unset it' in line


@pytest.mark.slow
@pytest.mark.parametrize(
  'verb, platform, reason',
  [
    (QUICKSTART, 'cuda', "JAX's plugin for NVIDIA cards is not installed"),
    (['benchmark', 'memory'], 'tpu', 'libtpu is not installed'),
    (
      ['benchmark', 'train'],
      'cuad',
      "JAX has no platform 'cuad'; did you mean 'cuda'",
    ),
  ],
)
def test_platforms_that_are_not_here_are_one_line(
  verb, platform, reason, tmp_path
):
  if environment._installed([*environment._PLUGINS, 'libtpu']):
    pytest.skip('a plugin is installed')
  if verb == QUICKSTART:
    verb = [*verb, f'--workdir={tmp_path / "run"}']
  line = run(*verb, JAX_PLATFORMS=platform)
  assert line.startswith(f'{verb[0]}: JAX_PLATFORMS={platform}: {reason}')
  assert 'set JAX_PLATFORMS=cpu, or unset it' in line


def test_explain_leaves_other_errors():
  for error in (AssertionError(), RuntimeError('x'), ValueError('x')):
    assert environment.explain(error) is None


@pytest.mark.parametrize('utf8', ['0', '1'])
def test_note_on_names(utf8):
  plain = {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': utf8}
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'from vit_jax_repro import environment as e; print(e.note_on_names())',
    ],
    env=os.environ | plain,
    capture_output=True,
    text=True,
    check=True,
  )
  assert ('as ascii here' in done.stdout) == (utf8 == '0')


@pytest.mark.parametrize(
  'files, packages, wanted',
  [
    ([], {}, None),
    (['nvidia0'], {}, "JAX's plugin for it is not installed"),
    (
      ['nvidia0'],
      {'jax_cuda12_plugin': '0.0.1'},
      'jax_cuda12_plugin 0.0.1 does not belong to jaxlib ',
    ),
    (['nvidia0'], {'jax_cuda12_plugin': None}, None),  # jaxlib's version
    (['accel0'], {}, 'libtpu is not installed'),
    (['accel0'], {'libtpu': '1'}, None),
  ],
)
def test_note_on_idle_card(files, packages, wanted, tmp_path, monkeypatch):
  """JAX takes the CPU without a message where a plugin is missing."""
  if environment._installed([*environment._PLUGINS, 'libtpu']):
    pytest.skip('a plugin is installed')
  monkeypatch.delenv('JAX_PLATFORMS')
  for name in files:
    (tmp_path / name).touch()
  for name, given in packages.items():
    version = given or environment._version('jaxlib')
    (tmp_path / f'{name}.py').touch()
    (tmp_path / f'{name}-{version}.dist-info').mkdir()
    metadata = tmp_path / f'{name}-{version}.dist-info' / 'METADATA'
    metadata.write_text(f'Name: {name}\nVersion: {version}\n')
  monkeypatch.syspath_prepend(tmp_path)
  line = environment.note_on_idle_card(tmp_path)
  assert line is None if wanted is None else wanted in line
