"""Tests that the imports of every module follow the architecture.

`docs/architecture.md` describes the rules. A new module takes the kind of its
room in KINDS. A new room needs a row in KINDS and one in ARROWS.
"""

import ast
import graphlib
import pathlib
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.quick

PACKAGE = 'vit_jax_repro'
TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent / PACKAGE

KINDS = {  # the longest matching row applies; other top-level modules are verbs
  '__init__': 'core',
  'errors': 'core',
  'command_line': 'shell',
  'config_arguments': 'core',
  'process_flags': 'shell',
  'subcommands': 'shell',
  'compilation_cache': 'core',
  'environment': 'core',
  'jobs': 'edge',
  'lessons': 'edge',
  'recipes': 'core',
  'reproduction': 'core',
  'reproduction.budget': 'edge',
  'reproduction.card': 'edge',
  'reproduction.needs': 'edge',
  'reproduction.previous_results': 'edge',
  'reproduction.evaluations': 'edge',
  'reproduction.running': 'edge',
  'reproduction.tuned_models': 'edge',
  'reproduction.views': 'edge',
  'runs': 'edge',
  'runs.input_wait': 'core',
  'runs.__init__': 'core',
  'runs.card_settings': 'core',
  'runs.original_keys': 'core',
  'runs.overrides': 'core',
  'runs.preemption': 'core',
  'runs.settings': 'core',
  'runs.settings_checks': 'core',
  'runs.settings_help': 'core',
  'runs.checkpoint': 'shell',
  'runs.loop': 'shell',
  'runs.manifest': 'shell',
  'studies': 'edge',
  'models': 'core',
  'weights': 'core',
  'ports': 'core',
  'ports.code_constants': 'edge',
  'ports.converting': 'edge',
  'ports.state_dicts': 'edge',
  'ports.tensorflow_checkpoints': 'edge',
  'ports.configs': 'edge',
  'ports.folders': 'edge',
  'ports.hub_card': 'edge',
  'ports.jax_checkpoints': 'edge',
  'ports.peft_adapters': 'edge',
  'ports.orbax_folders': 'edge',
  'ports.weight_sources': 'edge',
  'ports.writing': 'edge',
  'published': 'core',
  'published.augreg_index': 'edge',
  'published.bucket_weights': 'edge',
  'published.download': 'edge',
  'published.fetching': 'edge',
  'published.origins': 'edge',
  'published.hub': 'edge',
  'published.mirrors': 'edge',
  'published.prompt_lists': 'edge',
  'published.weight_names': 'edge',
  'published.partial_download': 'edge',
  'published.progress': 'edge',
  'training': 'core',
  'parallel': 'core',
  'data': 'edge',
  'data.__init__': 'core',
  'data.batches': 'core',
  'data.catalogue': 'core',
  'data.class_matching': 'core',
  'data.image_settings': 'core',
  'data.labels': 'core',
  'benchmarks': 'core',
  'benchmarks.input': 'edge',
  'benchmarks.tables': 'edge',
  'benchmarks.speed': 'edge',
  'benchmarks.torch_models': 'edge',
  'exporting': 'edge',
  'inference': 'core',
  'inference.evaluation': 'edge',
  'inference.extraction': 'edge',
  'inference.fewshot': 'edge',
  'inference.multi_label': 'edge',
  'inference.prediction': 'edge',
  'inference.restoring': 'edge',
  'inference.zero_shot': 'edge',
  'comparison': 'core',
  'comparison.conclusions': 'edge',
  'comparison.crosschecking': 'edge',
  'comparison.inputs': 'edge',
  'comparison.parameters': 'edge',
  'comparison.preprocessing_search': 'edge',
  'comparison.report': 'edge',
  'comparison.torch_architecture': 'edge',
  'comparison.torch_gradients': 'edge',
  'comparison.torch_models': 'edge',
  'comparison.torch_sources': 'edge',
  'analysis': 'core',
  'analysis.charts': 'edge',
  'analysis.confusion': 'edge',
  'analysis.dry_run_tables': 'edge',
  'analysis.inspecting': 'edge',
  'analysis.pictures': 'edge',
  'analysis.plots': 'edge',
  'analysis.saved_results': 'edge',
  'output': 'core',
  'output.orbax_errors': 'shell',
  'output.reports': 'edge',
  'output.run_files': 'edge',
  'output.locks': 'edge',
  'output.bucket_calls': 'edge',
  'output.bucket_locks': 'edge',
  'output.buckets': 'edge',
  'paper': 'core',
}

_ALL_MAY = {'errors', 'output'}
_ARROWS = {  # room or top-level module: the other rooms that it may import
  'errors': set(),
  'output': set(),
  'models': set(),
  'parallel': set(),
  'data': set(),
  'paper': set(),
  'recipes': {'data'},
  'weights': {'models'},
  'training': {'models', 'parallel', 'weights'},
  'ports': {'data', 'models', 'weights'},
  'published': {'models', 'ports', 'weights'},
  'inference': {
    'data',
    'models',
    'parallel',
    'ports',
    'published',
    'training',
    'weights',
  },
  'analysis': {
    'data',
    'inference',
    'models',
    'parallel',
    'published',
    'training',
    'weights',
  },
  'benchmarks': {
    'analysis',
    'data',
    'models',
    'parallel',
    'ports',
    'training',
    'weights',
  },
  'comparison': {
    'data',
    'inference',
    'models',
    'ports',
    'published',
    'weights',
  },
  'runs': {
    'analysis',
    'data',
    'inference',
    'models',
    'parallel',
    'published',
    'recipes',
    'training',
    'weights',
  },
  'reproduction': {
    'analysis',
    'data',
    'inference',
    'jobs',
    'models',
    'paper',
    'parallel',
    'published',
    'recipes',
    'runs',
    'training',
  },
  'studies': {'analysis', 'jobs', 'models', 'paper', 'recipes', 'runs'},
  'exporting': {
    'comparison',
    'data',
    'inference',
    'models',
    'ports',
    'weights',
  },
  'jobs': {
    'comparison',
    'exporting',
    'inference',
    'ports',
    'published',
    'runs',
  },
  'lessons': {
    'analysis',
    'data',
    'inference',
    'jobs',
    'models',
    'paper',
    'published',
    'recipes',
    'reproduction',
    'runs',
    'studies',
    'weights',
  },
  'command_line': {'compilation_cache', 'environment'},
  'compilation_cache': set(),
  'environment': set(),
  'config_arguments': set(),
  'process_flags': {'command_line'},
  'subcommands': {'command_line'},
}
ARROWS = {room: others | _ALL_MAY for room, others in _ARROWS.items()}

CORE_LIBRARIES = {'flax', 'jax', 'numpy', 'optax', 'scipy'}
SHELL_LIBRARIES = CORE_LIBRARIES | {'absl', 'orbax'}
HEAVY_LIBRARIES = {
  'PIL', 'aiohttp', 'clu', 'etils', 'filelock', 'fsspec', 'gcsfs', 'google',
  'huggingface_hub', 'jax2onnx', 'matplotlib', 'ml_collections', 'onnx',
  'onnxruntime', 'orbax', 'requests', 'rich', 'safetensors', 'sklearn',
  'tensorflow', 'tensorflow_datasets', 'timm', 'torch', 'tqdm', 'transformers',
}  # fmt: skip
LIBRARIES = {  # kind: (anywhere, and further ones inside functions)
  'core': (CORE_LIBRARIES, set()),
  'shell': (SHELL_LIBRARIES, set()),
  'edge': (CORE_LIBRARIES | {'absl'}, HEAVY_LIBRARIES),
  'verb': ({'absl'}, CORE_LIBRARIES | HEAVY_LIBRARIES),
}
OURS = {  # kind: the kinds of our own modules that it may import
  'core': {'core'},
  'shell': {'core', 'shell'},
  'edge': {'core', 'shell', 'edge'},
  'verb': {'core', 'shell', 'edge'},
}

HELP_CPU_SECONDS = 3.0
FLAX_IMPORTS = {'absl', 'etils', 'rich'}  # Flax needs these
# Test modules of properties of the whole project.
CROSS_CUTTING = {
  'coming_from', 'configs', 'forward', 'hostile_inputs', 'imports', 'kills',
  'notebooks', 'other_machines', 'parallel_training', 'readme', 'real_labels',
  'requirements', 'running_code', 'stored_run', 'wheel',
}  # fmt: skip


def discover():
  """Returns the paths of all modules by name, such as 'models.__init__'."""
  return {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts): path
    for path in sorted(ROOT.rglob('*.py'))
  }


MODULES = discover()


def room_of(module):
  return module.split('.')[0]


def kind_of(module):
  if module in KINDS or '.' not in module:
    return KINDS.get(module, 'verb')
  room = module.rpartition('.')[0]
  while room not in KINDS and '.' in room:
    room = room.rpartition('.')[0]
  if room not in KINDS:
    raise ValueError(f'{module}: its room has no row in KINDS')
  return KINDS[room]


def of_kind(*kinds):
  return [module for module in MODULES if kind_of(module) in kinds]


def imports(source, module):
  """Yields imported names, and whether a function imports them."""
  package = f'{PACKAGE}.{module}'.split('.')[:-1]

  def walk(node, inside):
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.Import):
        yield from ((alias.name, inside) for alias in child.names)
      elif isinstance(child, ast.ImportFrom):
        base = package[: len(package) - child.level + 1] if child.level else []
        base = [*base, child.module] if child.module else base
        for alias in child.names:
          yield '.'.join([*base, alias.name]), inside
      else:
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        later |= isinstance(child, ast.If) and '__main__' in ast.dump(
          child.test
        )
        yield from walk(child, inside or later)

  yield from walk(ast.parse(source), False)


def resolve(name, modules):
  """Returns the module that contains a name; None for the package itself."""
  parts = name.split('.')[1:]
  while parts:
    for candidate in ('.'.join(parts), '.'.join([*parts, '__init__'])):
      if candidate in modules:
        return candidate
    parts = parts[:-1]
  return None


def violations(module, source, modules):
  """Yields one line for each import that breaks a rule."""
  kind = kind_of(module)
  room = room_of(module)
  if room not in ARROWS and kind != 'verb' and module != '__init__':
    yield f'{module}: its room has no row in ARROWS'
  anywhere, inside_only = LIBRARIES[kind]
  for name, inside in imports(source, module):
    library = name.split('.')[0]
    if library == PACKAGE:
      yield from _own_violations(module, name, inside, modules)
    elif library not in sys.stdlib_module_names | anywhere:
      if library not in inside_only:
        yield f'{module} ({kind}) may not import {name}'
      elif not inside:
        yield f'{module} ({kind}) may import {name} only inside a function'


def _own_violations(module, name, inside, modules):
  kind, target = kind_of(module), resolve(name, modules)
  if kind == 'verb' and not inside:
    yield f'{module} is a verb: it may import {name} only inside a function'
  if target is None or target == '__init__':
    return
  if kind_of(target) not in OURS[kind]:
    yield f'{module} ({kind}) may not import {target} ({kind_of(target)})'
  room, other = room_of(module), room_of(target)
  verb = kind_of(target) == 'verb'  # reported above
  if room in ARROWS and not verb and other not in ARROWS[room] | {room}:
    yield f'the arrow {room} -> {other} does not exist: {module} -> {target}'


def cycle(sources):
  """Returns a cycle of imports, also inside functions, or None."""
  graph = {}
  for module, source in sources.items():
    targets = (
      resolve(name, sources)
      for name, _ in imports(source, module)
      if name.split('.')[0] == PACKAGE
    )
    graph[module] = {target for target in targets if target}
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    return error.args[1]
  return None


@pytest.mark.parametrize('module', MODULES)
def test_imports_follow_the_rules(module):
  source = MODULES[module].read_text()
  assert not list(violations(module, source, MODULES))


def test_imports_have_no_cycle():
  assert cycle({m: path.read_text() for m, path in MODULES.items()}) is None


@pytest.mark.parametrize(
  'module, source, message',
  [
    ('models.vit', 'import tensorflow as tf', 'may not import tensorflow'),
    ('models.vit', 'def f():\n  import absl', 'may not import absl'),
    ('models.vit', f'from {PACKAGE}.weights import npz', 'models -> weights'),
    ('models.vit', f'from {PACKAGE} import weights', 'models -> weights'),
    ('models.vit', 'from ..weights import npz', 'models -> weights'),
    ('published.a', f'import {PACKAGE}.published.mirrors', '(core) may not'),
    ('runs.loop', 'import clu', 'may not import clu'),
    ('training.steps', 'from orbax import checkpoint', 'may not import orbax'),
    ('data.digits', 'import tensorflow', 'only inside a function'),
    ('data.digits', 'try:\n  import PIL\nfinally:\n  0', 'only inside'),
    ('data.digits', f'from {PACKAGE} import models', 'data -> models'),
    ('data.digits', 'def f():\n  import pandas', 'may not import pandas'),
    ('predict', f'from {PACKAGE} import jobs', 'only inside a function'),
    ('predict', 'import jax', 'only inside a function'),
    ('predict', 'if True:\n  import jax', 'only inside a function'),
    ('predict', f'def f():\n  import {PACKAGE}.evaluate', '(verb)'),
    ('jobs', f'def f():\n  from {PACKAGE} import predict', '(verb)'),
  ],
)
def test_violations_finds_each_forbidden_import(module, source, message):
  known = ['__init__', 'jobs', 'predict', 'evaluate', 'models.__init__']
  known += ['models.vit', 'weights.__init__', 'weights.npz']
  known += ['published.mirrors']
  found = list(violations(module, source, known))
  assert len(found) == 1 and message in found[0]


def test_cycle_finds_a_cycle_of_imports():
  sources = {
    'models.a': f'from {PACKAGE}.models import b',
    'models.b': f'def f():\n  from {PACKAGE}.models.a import x',
  }
  assert set(cycle(sources)) == {'models.a', 'models.b'}
  assert cycle({'models.a': sources['models.a'], 'models.b': ''}) is None


BLOCKING_IMPORT = """
import importlib, sys
blocked, modules = (set(x.split(',')) - {''} for x in sys.argv[1:])

class Finder:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in blocked:
      raise ModuleNotFoundError(f'{name} is blocked')

sys.meta_path.insert(0, Finder())
for module in sorted(modules):
  importlib.import_module(module)
"""


@pytest.mark.parametrize(
  'kinds, needed',
  [
    (['core'], FLAX_IMPORTS),
    (['core', 'shell', 'edge', 'verb'], FLAX_IMPORTS | SHELL_LIBRARIES),
  ],
  ids=['core', 'all'],
)
def test_modules_import_without_heavy_libraries(kinds, needed):
  names = {
    f'{PACKAGE}.{module}'.removesuffix('.__init__')
    for module in of_kind(*kinds)
    if module != '__main__'
  }
  blocked = (HEAVY_LIBRARIES | SHELL_LIBRARIES) - CORE_LIBRARIES - needed
  done = subprocess.run(
    [sys.executable, '-c', BLOCKING_IMPORT, ','.join(blocked), ','.join(names)],
    capture_output=True,
    text=True,
    check=False,
    cwd=TESTS.parent,
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('verb', of_kind('verb'))
def test_help_takes_little_time(verb):
  name = PACKAGE if verb == '__main__' else f'{PACKAGE}.{verb}'
  before = child_cpu_seconds()
  done = subprocess.run(
    [sys.executable, '-m', name, '--help'],
    capture_output=True,
    text=True,
    check=False,
    cwd=TESTS.parent,
    stdin=subprocess.DEVNULL,
  )
  # CPU time: the wall clock depends on other processes.
  seconds = child_cpu_seconds() - before
  assert done.returncode == 0 and not done.stderr
  assert name in done.stdout
  assert seconds < HELP_CPU_SECONDS


def child_cpu_seconds():
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def test_test_modules_mirror_the_package():
  """Names: ROOM/test_MODULE.py, ROOM/test_MODULE_TOPIC.py or test_ROOM.py."""
  for path in TESTS.rglob('test_*.py'):
    folder = path.relative_to(TESTS).parent.parts
    name = path.stem.removeprefix('test_')
    parts = name.split('_')
    names = {
      '.'.join([*folder, '_'.join(parts[:number])])
      for number in range(1, len(parts) + 1)
    }
    if folder and name == folder[-1]:
      names.add('.'.join([*folder, '__init__']))
    assert names & MODULES.keys() or (not folder and name in CROSS_CUTTING), (
      f'{path.relative_to(TESTS)} has no module of its name'
    )
