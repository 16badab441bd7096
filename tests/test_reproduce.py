"""Tests the verb `reproduce`, mostly in this process to save time."""

import csv
import io
import json

import pytest
from run_verb import run_verb

from vit_jax_repro import reproduce
from vit_jax_repro.paper import table

L16 = 'vit-table-5-vit-l-16-imagenet-21k-30-or-90ep-imagenet'
B16 = 'vit-table-5-vit-b-16-imagenet-21k-90ep-imagenet'


@pytest.fixture
def folder(tmp_path):
  for row, accuracy in ((L16, 0.8522), (B16, 0.8452)):
    value = {'row': row, 'accuracy': accuracy, 'num_examples': 50_000}
    (tmp_path / f'{row}.json').write_text(json.dumps(value))
  return tmp_path


@pytest.fixture
def run(capsys):
  """A function that runs the verb and returns its standard output."""

  def run(*arguments):
    reproduce.main(['reproduce', *arguments])
    out, err = capsys.readouterr()
    assert not err
    return out

  return run


def test_show_runs_as_a_process():
  code, out, err = run_verb('reproduce', 'show', 'ViT section 4.6')
  assert code == 0 and not err
  assert 'Masked patch prediction' in out and '(79.9)' in out


@pytest.mark.quick
def test_list_counts_numbers_and_names_tables(run):
  out = run('list')
  assert '1545 numbers: 647 by evaluating a released file, 470 by fine' in out
  assert out.count('\n') < 50 and all(t.name in out for t in table.tables())
  out = run('list', 'vit table 3')
  assert 'Recipes of pre-training' in out and 'numbers:' not in out


@pytest.mark.quick
def test_show_compares_a_table_with_results(run, folder):
  out = run('show', 'ViT Table 5', '21k', '--rows', f'--results={folder}')
  (line,) = (x for x in out.splitlines() if 'vit-b-16' in x and '84.52' in x)
  assert line.split()[1:6] == ['83.97', '84.52', '(84.20', 'to', '84.84)']
  assert 'differs by' in line and 'JFT' not in out
  text = run('show', 'ViT Table 5', '--format=markdown')
  assert '\n| ViT-L/16<br>ImageNet-21k | 99.16 | 93.44 | 85.15 |' in text
  assert 'dropout' in run('show', 'ViT Table 3')


@pytest.mark.quick
def test_show_describes_one_row(run, folder):
  out = run('show', f'--row={B16[12:]}', f'--results={folder}')
  assert 'differs by +0.55 points (3.3 sigma)' in out and 'pvc-06' in out
  (line,) = csv.DictReader(
    io.StringIO(run('show', '--row=vit-section-4-6', '--format=csv'))
  )
  assert line['id'].startswith('vit-section-4-6-vit-b-16-masked')
  assert line['verdict'] == 'not checkable' and 'Needed: ' in line['reason']


@pytest.mark.quick
def test_report_counts_verdicts(run, folder):
  out = run('report', f'--results={folder}')
  assert 'agrees 1, differs 1, cannot tell 0, not checkable 428, not' in out
  assert 'Tested numbers: 2. Judged one by one, 1 would differ; up to' in out
  path = folder / 'report.md'
  said = run('report', f'--results={folder}', f'--out={path}')
  assert said.startswith(f'{path}: Of 1545 numbers: agrees 1, differs 1')
  text = path.read_text()
  assert '\n| ViT Table 5 | 1 | 1 | 54 | 28 |\n' in text
  assert text.count('| not run |\n') == 1  # in the head of the table
  path = folder / 'report.csv'
  run('report', f'--results={folder}', f'--out={path}', '--table=vit table 2')
  lines = list(csv.DictReader(path.read_text().splitlines()))
  assert len(lines) == 36
  assert {x['model'] for x in lines if x['blocker'] == 'other-work'} == {
    'Noisy Student EfficientNet-L2'
  }


@pytest.mark.quick
def test_differences_lists_entries_that_match(run):
  out = run('differences', 'polyak')
  assert '\npvc-11: Polyak averaging' in out and '\npvc-12' not in out
  lines = csv.DictReader(io.StringIO(run('differences', '--format=csv')))
  assert len(list(lines)) == 80


ROW = 'vit-table-5-vit-b-16-imagenet-21k-90ep-cifar-10'


@pytest.mark.quick
@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], 'no command given; choose from list, show, report'),
    (['shwo'], "unknown command 'shwo'; did you mean 'show'? choose"),
    (['list', 'a', 'b'], "list does not take 'b'; usage: list [PATTERN]"),
    (['list', '--rows'], 'list does not take --rows'),
    (['list', 'zzz'], "no table fits 'zzz'"),
    (['show'], 'show needs either a table'),
    (['show', 'ViT Table 5', '--row=a'], 'show needs either a table'),
    (['show', 'ViT Tabel 5'], "did you mean 'ViT Table 5'"),
    (['show', 'ViT Table 4', '--rows'], 'holds no accuracies'),
    (['show', '--row=cifar-10'], 'may be any of'),
    (['show', 'ViT Table 5', '--format=pdf'], '--format'),
    (['report'], '--results must be given'),
    (['report', '--results=/nowhere'], "no folder of results '/nowhere'"),
    (['report', '--results=.', '--out=a.txt'], 'must end in .md or .csv'),
    (['report', '--results=.', '--out=/dev/null/a.md'], 'there is no folder'),
    (['plan'], 'give --row=ID, --table=NAME or a PATTERN'),
    (['plan', '--row=a', '--table=b'], '--row goes without --table'),
    (['plan', '--table=ViT Table 6'], 'none of these rows can be checked'),
    (
      ['run', '--table=ViT Table 6', '--results=x'],
      'none of these rows can be checked (JFT-300M weights',
    ),
    (
      ['run', '--table=ViT Table 5', '--results=x', '--budget=nan'],
      'budget=nan must be a number of hours',
    ),
    (
      ['run', '--table=ViT Table 5', '--results=/dev/null/x'],
      "cannot write in '/dev/null/x'",
    ),
    (['run', f'--row={ROW}', '--results=/dev/null/x'], 'cannot write in'),
    (
      ['run', f'--row={ROW}', '--results=x', '--override=total_steps=abc'],
      "total_steps='abc' must be a whole number",
    ),
    (
      ['run', f'--row={B16}', '--results=x', '--override=batch=3'],
      'is checked by evaluating a file and takes no --override',
    ),
    (
      ['plan', f'--row={ROW}', '--weights=imagenet21k/ViT-L_16'],
      'names imagenet21k/ViT-B_16; leave --weights out',
    ),
    (['plan', f'--row={ROW}', '--recipe=x'], "recipe 'x'"),
    (['run', f'--row={ROW}'], '--results must be given'),
    (['run', f'--row={ROW}', '--results=x'], 'or give --fetch'),
    (
      ['run', f'--row={ROW}', '--results=x', '--override=batch'],
      "override 'batch' is not KEY=VALUE",
    ),
    (['card', '/nowhere'], '/nowhere'),
    (['differences', 'zzz'], "no difference fits 'zzz'"),
  ],
)
def test_reproduce_refuses_wrong_command_lines_in_one_line(
  arguments, message, capsys
):
  assert message in one_line(arguments, capsys)


@pytest.mark.quick
def test_report_names_a_damaged_result(folder, capsys):
  path = folder / f'{ROW}.json'
  for text in ('{', '{"row": []}'):
    path.write_text(text)
    line = one_line(['report', f'--results={folder}'], capsys)
    assert f'{path} is no result: ' in line


@pytest.mark.quick
def test_report_names_files_without_a_row(folder, capsys):
  (folder / 'x.json').write_text('{')
  reproduce.main(['reproduce', 'report', f'--results={folder}'])
  out, err = capsys.readouterr()
  assert err == (
    f'note: {folder} has JSON files that belong to no row: x.json\n'
  )
  assert 'agrees 1, differs 1' in out


@pytest.mark.quick
def test_run_shows_every_row_and_exits_with_1_on_failures(folder, capsys):
  """Standard output has only the table, with every row."""
  command = ['run', '--table=ViT Table 5', 'vit-b-16', '--format=csv']
  command += [f'--results={folder}', f'--weights_dir={folder}']
  (folder / f'{ROW}.json').write_text('{')
  with pytest.raises(SystemExit) as stop:
    reproduce.main(['reproduce', *command])
  out, err = capsys.readouterr()
  assert stop.value.code == 1
  lines = {line['id']: line for line in csv.DictReader(io.StringIO(out))}
  assert len(lines) > 3 and lines[B16]['verdict'] == 'differs'
  assert lines[ROW]['verdict'] == 'not run'
  assert err.startswith(f'{ROW}: {folder}/{ROW}.json is no result: ')
  assert err.count('\n') == 3
  assert err.endswith(f'reproduce: {len(lines) - 1} of the rows failed\n')
  assert err.count('weights files missing in') == 1 and f'{B16}:' not in err
  (folder / f'{ROW}.json').unlink()
  reproduce.main(['reproduce', *command, '--budget=0'])  # no failures
  assert f'over budget, {len(lines) - 1} rows: ' in capsys.readouterr().err


def one_line(arguments, capsys):
  """Returns the error message of a command that fails."""
  with pytest.raises(SystemExit) as stop:
    reproduce.main(['reproduce', *arguments])
  out, err = capsys.readouterr()
  assert stop.value.code in (1, 2) and not out
  assert err.startswith('reproduce: ') and err.count('\n') == 1
  return err
