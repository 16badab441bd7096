"""Folders of images in a bucket."""

import json

import bucket_runs
import gcs_emulator
import pytest
from bucket_runs import url
from run_verb import run_verb
from training_sets import write_folder

STEPS = 12


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Forty digits on this machine, and one file that is no image."""
  root = write_folder(tmp_path_factory.mktemp('digits'), 40)
  (root / 'train' / 'digit 3' / 'notes.txt').write_text('none')
  return root


@pytest.fixture(scope='module')
def copied(emulator, data):
  """The same files in the bucket."""
  emulator.upload_folder(data, 'digits')
  emulator.upload('digits/', b'')  # as Google's web page makes for a folder
  return url('digits/')


@pytest.fixture(scope='module')
def runs(data, copied, tmp_path_factory):
  """The workdirs of the same run on both, and what the second printed."""
  root = tmp_path_factory.mktemp('runs')
  children = [
    bucket_runs.start(each, root / name, steps=STEPS, every=STEPS)
    for name, each in (('here', data), ('there', copied))
  ]
  for child in children:
    assert child.wait() == 0, child.stderr
  return root / 'here', root / 'there', children[1].stderr


def test_training_reads_the_same_images_as_from_a_disk(runs):
  here, there, _ = runs
  bucket_runs.assert_same_model(there / 'model.npz', here / 'model.npz')
  found, wanted = (
    bucket_runs.metrics((x / 'metrics.jsonl').read_text())
    for x in (there, here)
  )
  assert found == wanted and len(found) == STEPS


def test_training_identifies_the_images_independent_of_their_place(runs):
  found, wanted = (
    json.loads((x / 'manifest.json').read_text())['data'] for x in runs[1::-1]
  )
  for key in ('train_fingerprint', 'test_fingerprint'):
    assert found[key] == wanted[key]


def test_training_notes_what_is_left_out(runs):
  assert f'note: {url("digits/train")}: left out 1 .txt' in runs[2]


def test_evaluate_reads_a_folder_with_a_damaged_image(
  emulator, data, copied, runs, tmp_path
):
  image = next((data / 'train' / 'digit 2').glob('*.png')).read_bytes()
  emulator.upload('digits/test/digit 1/x.png', b'no image')
  emulator.upload('digits/test/digit 2/y.png', image)
  answer = tmp_path / 'evaluated.json'
  code, _, err = run_verb(
    'evaluate',
    f'--weights={runs[0] / "model.npz"}',
    f'--dataset={copied}',
    f'--json={answer}',
  )
  assert code == 0, err
  evaluated = json.loads(answer.read_text())
  assert evaluated['num_examples'] == 2
  (unreadable,) = evaluated['unreadable']
  assert unreadable.startswith(url('digits/test/digit 1/x.png'))


def test_labels_of_a_file_and_classes_without_splits_are_read(
  emulator, data, runs, tmp_path
):
  """A folder of another layout is refused, or read as something else."""
  emulator.upload_folder(data / 'train', 'classes')
  paths = list((data / 'train').rglob('*.png'))
  for path in paths:
    emulator.upload(f'labelled/test/{path.name}', path.read_bytes())
  rows = [f'{path.name},{path.parent.name}' for path in paths]
  table = '\n'.join(['file,label', *rows])
  emulator.upload('labelled/test/labels.csv', table.encode())
  for name, number in (('classes', None), ('labelled', len(paths))):
    answer = tmp_path / f'{name}.json'
    code, _, err = run_verb(
      'evaluate',
      f'--weights={runs[0] / "model.npz"}',
      f'--dataset={url(name)}',
      f'--json={answer}',
    )
    assert code == 0, err
    found = json.loads(answer.read_text())['num_examples']
    assert found == number if number else 0 < found < len(paths)


@pytest.mark.parametrize(
  'address, text',
  [
    ('gs://nowhere/digits', "there is no bucket 'nowhere'"),
    ('gs://photos/empty', 'gs://photos/empty is not a folder'),
  ],
)
def test_wrong_address_is_one_line(emulator, runs, address, text):
  code, out, err = run_verb(
    'evaluate', f'--weights={runs[0] / "model.npz"}', f'--dataset={address}'
  )
  assert (code, out) == (1, '')
  assert text in err.splitlines()[-1] and 'Traceback' not in err


def test_server_that_fails_for_a_while_is_asked_again(
  emulator, copied, data, runs, tmp_path, monkeypatch
):
  proxy = gcs_emulator.Proxy(emulator.port)
  try:
    for name, value in emulator.environment(proxy.address).items():
      monkeypatch.setenv(name, value)
    left = [4]  # one read alone would give up after six

    def applies(line):
      if 'digits%2Ftrain' not in line.replace('/train', '%2Ftrain'):
        return False
      left[0] -= 1
      return left[0] >= 0 and 'alt=media' in line

    proxy.refuse(503, 'busy', applies)
    again = tmp_path / 'again'
    child = bucket_runs.start(copied, again, steps=STEPS, every=STEPS)
    assert child.wait() == 0, child.stderr
  finally:
    proxy.close()
  assert child.stderr.count('it answers with status 503; asking again') == 1
  assert child.stderr.count('it answers again') == 1
  bucket_runs.assert_same_model(again / 'model.npz', runs[0] / 'model.npz')
