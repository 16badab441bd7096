"""Tests that the commands, names and Python code of README.md are right."""

import collections
import importlib
import importlib.util
import pathlib
import re

import pytest
import tiny_models
import training_sets

from vit_jax_repro.paper import differences, table
from vit_jax_repro.published import catalogue

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
# Pages that others link to.
NOT_LINKED = {'docs/index.md', 'docs/python.md', 'docs/checked_numbers.md'}


def blocks(language):
  return re.findall(rf'^```{language}\n(.*?)^```', README, re.M | re.S)


def random_weights():
  """Returns the example script as a module."""
  path = ROOT / 'examples' / 'random_weights.py'
  spec = importlib.util.spec_from_file_location('random_weights', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.quick
def test_readme_begins_with_commands_of_ci():
  run, test = (block.strip() for block in blocks('bash')[:2])
  assert (run, test) == ('make quickstart', 'make test')
  first_screen = README.splitlines()[:30]
  assert run in first_screen and test in first_screen
  script = (ROOT / '.ci' / 'run').read_text()
  for command in (run, test):
    assert re.search(rf"^stage '\w+' {command}$", script, re.M)


@pytest.mark.quick
def test_readme_names_existing_make_targets():
  wanted = set(re.findall(r'`make (\w+)', README))
  targets = set(re.findall(r'^(\w+):', (ROOT / 'Makefile').read_text(), re.M))
  assert wanted and wanted <= targets


@pytest.mark.quick
def test_readme_links_to_every_page_and_existing_files():
  """The site's strict build checks the links between the pages."""
  paths = set(re.findall(r'\]\((?!http)([\w./]+)', README))
  assert all((ROOT / path).exists() for path in paths)
  pages = {f'docs/{page.name}' for page in (ROOT / 'docs').glob('*.md')}
  assert pages - paths == NOT_LINKED


@pytest.mark.quick
def test_pages_link_to_files_of_a_clone():
  """Kind of fault: a link that only the built site has."""
  pages = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']
  pages += ROOT.glob('docs/*.md')
  for page in pages:
    # No index has the package: its extras are those of a clone.
    assert 'vit_jax_repro[' not in page.read_text()
    for link in re.findall(r'\]\((?!http|#)([^)#]+)', page.read_text()):
      assert (page.parent / link).exists(), (page.name, link)
  path = ROOT / 'scripts' / 'site_hooks.py'
  spec = importlib.util.spec_from_file_location('site_hooks', path)
  hooks = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(hooks)
  text = hooks.on_page_markdown((ROOT / 'docs' / 'notebooks.md').read_text())
  names = {book.stem for book in ROOT.glob('notebooks/*.ipynb')}
  assert names == {*re.findall(r'\]\(notebooks/(\w+)\.md\)', text)}


@pytest.mark.quick
def test_counts_of_the_documentation_are_true():
  """Counts that went stale as rows were added."""
  pages = {page.stem: page.read_text() for page in ROOT.glob('docs/*.md')}
  sources = collections.Counter(row.confidence for row in table.rows())
  for text in (
    f'`two-sources` ({sources["two-sources"]} numbers)',
    f'remaining {sources["one-source"]} were',
    f'holds {sources.total()} numbers of {len(table.tables())} tables',
    f'lists {len(differences.all_differences())} places',
  ):
    assert text in pages['paper']
  without = sum(not entry.has_copy for entry in catalogue.table())
  assert f'the {without} files that have none' in pages['fetch']
  tried = pages['convert'].split('### Files that were tried')[1].split('\n#')[0]
  named = tried.count('| named |')
  read = tried.count('| read |') + 1  # and the image towers, with a note
  assert (
    f'{read + named} kinds of weights files, as other libraries write them: '
    f'{read} are read exactly, {named} are refused by name'
  ) in README
  (claims,) = ROOT.glob('notebooks/02_*.ipynb')
  assert f'contains {sources.total()} published' in claims.read_text()
  statuses = collections.Counter(row.status for row in table.rows())
  assert f'checks {statuses[table.INFERENCE]} numbers' in README


@pytest.mark.quick
@pytest.mark.parametrize('verb', ['evaluate', 'predict', 'crosscheck'])
def test_readme_names_existing_flags(verb):
  commands = ' '.join(blocks('bash') + blocks('console')).replace('\\\n', ' ')
  lines = re.findall(rf'-m vit_jax_repro\.{verb} (.*)', commands)
  known = importlib.import_module(f'vit_jax_repro.{verb}').command_flags()
  assert lines
  for flag in re.findall(r'--(\w+)', ' '.join(lines)):
    assert flag in known


def test_readme_python_code_runs(tmp_path, monkeypatch):
  example = random_weights()
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('sys.argv', ['_', 'ViT-Ti_16', 'ViT-Ti_16.npz'])
  example.main()
  (code,) = blocks('python')
  names = {}
  exec(compile(code, 'README.md', 'exec'), names)
  assert names['logits'].shape == (2, 1000)
  assert names['logits'].any()
  saved = names['weights'].load('ViT-Ti_16-mine.npz')
  spec = names['weights'].describe(saved)
  assert spec['num_classes'] == 10


def test_python_page_fine_tunes_and_predicts(tiny_vit, tmp_path, monkeypatch):
  """On tiny files in place of the page's."""
  monkeypatch.chdir(tmp_path)
  folder = training_sets.write_folder(tmp_path, 60) / 'train'
  page = (ROOT / 'docs' / 'python.md').read_text()
  (code,) = re.findall(
    r'^## Fine-tune.*?^```python\n(.*?)^```', page, re.M | re.S
  )
  for text, replacement in {
    "'ViT-Ti_16')": f'{tiny_models.VIT})',
    "'./flowers'": repr(str(folder)),
    "'ViT-Ti_16.npz'": repr(str(tiny_vit)),
    "'holiday.jpg'": repr(str(next(folder.rglob('*.png')))),
    "'total_steps': 100": "'total_steps': 2",
    "'warmup_steps': 10": "'warmup_steps': 1",
    'pp.crop = 224': 'pp.crop = 8',
  }.items():
    assert code.count(text) == 1
    code = code.replace(text, replacement)
  names = {}
  exec(compile(code, 'python.md', 'exec'), names)
  assert names['result'].step == 2
  assert names['prediction'].classes and names['prediction'].error is None
