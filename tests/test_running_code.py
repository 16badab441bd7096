"""The package has no way to run the code of files but those in the docs."""

import ast
import pathlib

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGE = _ROOT / 'vit_jax_repro'
# Modules that load a Python file, or a module by a name that a user gives. The
# other names of modules are constants of the package.
_LOADERS = {'comparison/torch_sources.py', 'runs/config_files.py'}
_NAMES_ITS_OWN = {'__main__.py', 'data/tokens.py', 'exporting/onnx_files.py'}
_UNPICKLERS = {
  'pickle', 'cPickle', 'marshal', 'shelve', 'dill', 'cloudpickle', 'joblib',
  'yaml',
}  # fmt: skip
_RUNNING = {'eval', 'exec', '__import__'}
# Keywords with the one value that they may have; None: they may have none.
_KEYWORDS = {
  'allow_pickle': False,
  'shell': None,
  'trust_remote_code': None,
  'verify': None,
  'weights_only': True,
}


def faults_in(source):
  """Returns (line, fault) of each way to run code, or to skip a check."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names = {alias.name.partition('.')[0] for alias in node.names}
      yield from ((node.lineno, name) for name in names & _UNPICKLERS)
    module = getattr(node, 'module', None) or ''
    if module.partition('.')[0] in _UNPICKLERS:
      yield node.lineno, module
    if not isinstance(node, ast.Call):
      continue
    called = ast.unparse(node.func)
    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
    if called in _RUNNING:
      yield node.lineno, called
    if called.endswith('torch.load') and 'weights_only' not in given:
      yield node.lineno, 'torch.load without weights_only'
    if called in ('np.load', 'numpy.load') and 'allow_pickle' not in given:
      yield node.lineno, 'numpy.load without allow_pickle'
    for name, allowed in _KEYWORDS.items():
      if name in given and given[name] != str(allowed):
        yield node.lineno, f'{name}={given[name]}'


def loads_modules(source):
  """Returns whether a source loads a module that is no constant of it."""
  return any(
    isinstance(node, ast.Call)
    and (
      ast.unparse(node.func).endswith('exec_module')
      or (
        ast.unparse(node.func).endswith('import_module')
        and not isinstance(node.args[0], ast.Constant)
      )
    )
    for node in ast.walk(ast.parse(source))
  )


def _sources():
  for path in _PACKAGE.rglob('*.py'):
    name = path.relative_to(_PACKAGE).as_posix()
    yield name, path.read_text(encoding='utf-8')


def test_package_runs_no_code_of_files():
  found = [
    f'{name}:{line}: {fault}'
    for name, source in _sources()
    for line, fault in faults_in(source)
  ]
  assert found == []


def test_only_the_named_modules_load_modules():
  found = {name for name, source in _sources() if loads_modules(source)}
  assert found == _LOADERS | _NAMES_ITS_OWN
  docs = (_ROOT / 'docs' / 'security.md').read_text(encoding='utf-8')
  assert all(f'`{name}`' in docs for name in _LOADERS)


def test_faults_in_finds_each_fault():
  source = (
    'import pickle\nfrom yaml import load\neval("1")\ntorch.load(f)\n'
    'np.load(f)\nnp.load(f, allow_pickle=True)\nget(u, verify=False)\n'
    'run(c, shell=True)\ntorch.load(f, weights_only=False)\n'
    're.compile("x")\ntorch.load(f, weights_only=True)\n'
  )
  assert [line for line, _ in faults_in(source)] == list(range(1, 10))
  assert loads_modules('spec.loader.exec_module(m)')
  assert not loads_modules('importlib.import_module("torch")')
