"""Tests the form of the notebooks, without running them.

They have no outputs, the same sections, and only call the package. `.ci/run`
runs them.
"""

import ast
import json
import pathlib

import pytest

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
PATHS = sorted(ROOT.glob('notebooks/*.ipynb'))
SECTIONS = (
  'The claim',
  'How the paper supports it',
  'What is missing to check it',
  'Experiment',
  'Compared with the paper',
  'Questions',
)
SETTINGS, INSTALL = 'settings', 'install'
IMPORTS = {'collections', 'jax', 'json', 'numpy', 'os', 'pathlib', 'shutil'}
# Syntax that defines a model, a loss or a loop.
DEFINING = (
  ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For,
  ast.While,
)  # fmt: skip
DIFFERENTIATING = {'grad', 'value_and_grad', 'vjp', 'jvp'}


def cells(path, kind):
  notebook = json.loads(path.read_text())
  return [cell for cell in notebook['cells'] if cell['cell_type'] == kind]


def text(cell):
  return ''.join(cell['source'])


def tree(path):
  lines = '\n'.join(map(text, cells(path, 'code'))).splitlines()
  return ast.parse('\n'.join(x for x in lines if not x.startswith('%')))


def test_notebooks_are_numbered_from_one_to_eight():
  assert [path.name[:2] for path in PATHS] == [f'{n:02}' for n in range(1, 9)]


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_notebooks_have_no_outputs(path):
  notebook = json.loads(path.read_text())
  assert set(notebook['metadata']) <= {'kernelspec', 'language_info'}
  assert notebook['metadata']['kernelspec']['name'] == 'python3'
  for cell in cells(path, 'code'):
    assert cell['outputs'] == [] and cell['execution_count'] is None
    assert set(cell['metadata']) <= {'tags'}


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_notebooks_have_all_sections_from_claim_to_questions(path):
  lines = '\n'.join(map(text, cells(path, 'markdown'))).splitlines()
  headings = [line[3:] for line in lines if line.startswith('## ')]
  wanted = [name for name in headings if name in SECTIONS]
  for name in SECTIONS:
    assert name in wanted
  assert wanted[0] == SECTIONS[0] and wanted[-1] == SECTIONS[-1]
  assert lines[0].startswith(f'# {int(path.name[:2])}. ')
  # Answers are folded. Every question has one.
  fold = lines.index('<details markdown="1"><summary>Answers</summary>')
  assert lines[-1] == '</details>'
  questions = lines[lines.index('## Questions') : fold]

  def numbered(part):
    return [x.split('.')[0] for x in part if x[:1].isdigit() and x[1:2] == '.']

  assert numbered(questions) == numbered(lines[fold:]) != []


def test_notebooks_share_the_cells_of_installation_and_settings():
  firsts = {tuple(map(text, cells(path, 'code')[:2])) for path in PATHS}
  ((install, settings),) = firsts
  assert install.endswith('\n%run install.py')
  assert (ROOT / 'notebooks' / 'install.py').exists()
  assert 'lessons.Lesson(' in settings
  for path in PATHS:
    first, second = (cell['metadata'] for cell in cells(path, 'code')[:2])
    assert (first, second) == ({'tags': [INSTALL]}, {'tags': [SETTINGS]})


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_notebooks_describe_every_picture(path):
  """A figure alone would have no text for those who cannot see it."""
  for node in ast.walk(tree(path)):
    if isinstance(node, ast.Expr):
      drawn = ast.unparse(node)
      assert not drawn.startswith(('plots.', 'charts.'))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'Picture':
      assert len(node.args) == 2 and ast.literal_eval(node.args[1])


def test_install_has_the_packages_of_install_md():
  code = (ROOT / 'notebooks' / 'install.py').read_text()
  page = (ROOT / 'docs' / 'install.md').read_text()
  for node in ast.parse(code).body:
    if isinstance(node, ast.Assign):
      for package in ast.literal_eval(node.value):
        assert package in page


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_notebooks_define_nothing(path):
  for node in ast.walk(tree(path)):
    assert not isinstance(node, DEFINING), ast.unparse(node)
    if isinstance(node, ast.Attribute | ast.Name):
      name = node.attr if isinstance(node, ast.Attribute) else node.id
      assert name not in DIFFERENTIATING
    modules = []
    if isinstance(node, ast.Import):
      modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      modules = [node.module]
    for module in modules:
      assert module.split('.')[0] in IMPORTS | {'vit_jax_repro'}


@pytest.mark.parametrize(
  'page, suffix', [('mkdocs.yml', 'md'), ('docs/notebooks.md', 'ipynb')]
)
def test_site_has_every_notebook(page, suffix):
  text = (ROOT / page).read_text()
  for path in PATHS:
    assert f'notebooks/{path.stem}.{suffix}' in text
