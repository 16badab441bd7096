import errno
import shutil
import socket
import time

import child_processes
import numpy as np
import pytest
import tfds_fixtures

from vit_jax_repro.data import datasets


def message_of(name, split='test', error=(ValueError, OSError), **kwargs):
  with pytest.raises(error) as caught:
    datasets.open_split(name, split, **kwargs)
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  'name, wanted',
  [
    ('cifer10', 'cifar10'),
    ('imagenet2021', 'imagenet2012'),
    ('imagenetv2/topimages', 'imagenet_v2/topimages'),
    ('vtab/clevr_count', 'vtab/clevr-count'),
    ('vtab/dtd:3.0.1', 'vtab/dtd'),
    ('digit', 'digits'),
    ('digts/0-4', 'digits/0-4'),
    ('CIFAR10', 'cifar10'),
    ('oxford_pets', 'oxford_iiit_pet'),
  ],
)
def test_misspelt_name_gets_a_suggestion(tmp_path, name, wanted):
  message = message_of(name, data_dir=tmp_path)
  assert message.startswith(f'unknown data set {name!r}; did you mean ')
  suggested = message.split('?')[0]
  assert repr(wanted) in suggested
  assert len(set(suggested.split(' or '))) == suggested.count(' or ') + 1


def test_dissimilar_name_gets_no_suggestion(tmp_path):
  message = message_of('qqqqqqqqqq', data_dir=tmp_path)
  assert "unknown data set 'qqqqqqqqqq'; choose 'digits', the" in message
  message = message_of('vtab/qqqqqqqqqq', data_dir=tmp_path)
  assert message.count("'vtab/") == 20  # all tasks and the name


@pytest.mark.parametrize(
  'name, message',
  [
    (
      'imagenet_v2/topimage',
      "TFDS data set 'imagenet_v2' has no configuration 'topimage'; choose "
      "from ['matched-frequency', 'threshold-0.7', 'topimages']",
    ),
    (
      'sun397/standard-part1',
      "choose from ['standard-part1-120k', 'standard-part",
    ),
    ('sun397/x', "choose from ['tfds', 'standard-part1-120k'"),
    ('cifar10/x', "'cifar10' has no configurations; leave out 'x'"),
    ('eurosat/rbg:2.0.0', "no configuration 'rbg'; choose from ['rgb', 'all']"),
  ],
)
def test_unknown_configuration_message_lists_similar_ones(
  tmp_path, name, message
):
  assert message in message_of(name, data_dir=tmp_path)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """CIFAR-10 as TFDS prepares it, and the same as a set that TFDS lacks."""
  root = tmp_path_factory.mktemp('prepared')
  image = np.zeros((32, 32, 3), np.uint8)
  splits = {'train': [{'image': image, 'label': 0}]}
  tfds_fixtures.write(root, 'cifar10', splits)
  shutil.copytree(root / 'cifar10' / '3.0.2', root / 'mine' / '1.0.0')
  shutil.copytree(root / 'cifar10' / '3.0.2', root / 'cifar100' / '2.9.9')
  return root


@pytest.mark.parametrize(
  'name, message',
  [
    ('cifar10:9.9.9', 'version 9.9.9 is not prepared; choose from cifar10:3.0'),
    ('cifar10:3', 'version 3 is not prepared; choose from cifar10:3.0.2, or'),
    ('mine:3.0.2', 'version 3.0.2 is not prepared; choose from mine:1.0.0, or'),
    ('cifar100', 'is not prepared: nothing at {root}/cifar100/3.0.2 '),
    ('cifar100', '(prepared there: cifar100:2.9.9)'),
  ],
)
def test_unprepared_version_message_lists_prepared_ones(
  prepared, name, message
):
  """These were unknown data sets, or sets of which nothing is here."""
  found = message_of(name, split='train', data_dir=prepared)
  assert message.format(root=prepared) in found


@pytest.mark.parametrize('name', ['cifar10', 'vtab/clevr-count', 'vtab/dmlab'])
def test_unprepared_set_is_an_immediate_error_without_network_use(
  tmp_path, monkeypatch, name
):
  tried = []

  def connect(*arguments):
    tried.append(arguments)
    raise OSError(errno.ENETUNREACH, 'no network')

  for function in ('connect', 'connect_ex'):
    monkeypatch.setattr(socket.socket, function, connect)
  monkeypatch.setattr(socket, 'getaddrinfo', connect)
  start = time.monotonic()
  message = message_of(name, data_dir=tmp_path / 'my sets')
  (tmp_path / 'manual').mkdir()
  (tmp_path / 'manual' / 'file').write_text('of another set')
  options = dict(data_dir=tmp_path / 'my sets', manual_dir=tmp_path / 'manual')
  assert message_of(name, **options) == message
  assert time.monotonic() - start < 20
  assert not tried
  known = name.removeprefix('vtab/').removesuffix('-count')
  assert message.startswith(f'data set {name!r} is not prepared: nothing at ')
  assert f'run `tfds build {known}:' in message
  assert f"--data_dir='{tmp_path}/my sets'` where there is a network" in message


@pytest.mark.parametrize(
  'name, folder, build, wanted',
  [
    (
      'imagenet2012',
      '',
      'imagenet2012:5.1.0',
      ['ILSVRC2012_img_val.tar and ILSVRC2012_img_train.tar', 'image-net.org'],
    ),
    (
      'imagenet2012_real',
      '',
      'imagenet2012_real:1.0.0',
      ['put ILSVRC2012_img_val.tar (real.json too, without a network) into'],
    ),
    ('vtab/resisc45', '', 'resisc45:3.0.0', ['NWPU-RESISC45']),
    (
      'vtab/diabetic_retinopathy',
      '',
      'diabetic_retinopathy_detection/btgraham-300:3.0.0',
      ['sample and train and test and trainLabels.csv (retinopathy_solution'],
    ),
  ],
)
def test_message_lists_files_for_manual_download(
  tmp_path, name, folder, build, wanted
):
  message = message_of(name, error=FileNotFoundError, data_dir=tmp_path)
  assert 'TFDS cannot download it' in message
  assert f'into {tmp_path}/downloads/manual, from https://' in message
  assert f'run `tfds build {build} --data_dir={tmp_path}`' in message
  for text in wanted:
    assert text in message


def test_message_lists_files_missing_in_the_manual_folder(tmp_path):
  manual = tmp_path / 'manual'
  manual.mkdir()

  def message(split):
    return message_of(
      'imagenet2012',
      split,
      error=FileNotFoundError,
      data_dir=tmp_path,
      manual_dir=manual,
    )

  both = 'lacks ILSVRC2012_img_val.tar and ILSVRC2012_img_train.tar; get them'
  assert f'{manual} {both}' in message('minitrain')
  assert f'{manual} lacks ILSVRC2012_img_val.tar; get' in message('validation')
  (manual / 'ILSVRC2012_img_val.tar').write_bytes(b'')
  assert f'{manual} lacks ILSVRC2012_img_train.tar; get' in message('train')


def test_invalid_archive_has_a_one_line_error(tmp_path):
  (tmp_path / 'manual').mkdir()
  (tmp_path / 'manual' / 'ILSVRC2012_img_val.tar').write_bytes(b'no archive')
  message = message_of(
    'imagenet2012',
    'validation',
    error=OSError,
    data_dir=tmp_path / 'data',
    manual_dir=tmp_path / 'manual',
  )
  assert message.startswith("cannot prepare data set 'imagenet2012' in ")
  assert not list((tmp_path / 'data').rglob('5.1.0'))


def test_manual_dir_prepares_imagenet_from_its_archive(tmp_path):
  names = tfds_fixtures.write_imagenet_archive(tmp_path / 'manual', 3)
  split = datasets.open_split(
    'imagenet2012',
    'validation',
    data_dir=tmp_path / 'data',
    manual_dir=tmp_path / 'manual',
  )
  assert split.num_examples == 3 == len(names)
  # TFDS's own list of the labels of ILSVRC2012_val_00000001 to 3.
  found = [int(r['label']) for r in split.records().as_numpy_iterator()]
  assert {split.class_names[i] for i in found} == {
    'n01751748', 'n09193705', 'n02105855',
  }  # fmt: skip


FULL_DISK = """
import resource, sys
from vit_jax_repro.data import datasets
from vit_jax_repro.data.tf_host import tensorflow
tensorflow()
import tensorflow_datasets
name, split, limit, data_dir, manual_dir = sys.argv[1:]
whole = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), whole[1]))
def opened():
  return datasets.open_split(
    name, split, data_dir=data_dir, manual_dir=manual_dir or None)
try:
  opened()
except OSError as error:
  print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, whole)
import pathlib
left = [p.name for p in pathlib.Path(data_dir).rglob('*')]
print('left:', [n for n in left if n[:1].isdigit() or 'incomplete' in n])
print(opened().num_examples)
"""


@pytest.mark.parametrize('name', ['digits', 'imagenet2012'])
def test_full_disk_has_a_one_line_error(tmp_path, name):
  """Limits file sizes to 2 kB, and then removes the limit."""
  split, manual, size = 'test', '', 360
  if name == 'imagenet2012':
    split, manual, size = 'validation', str(tmp_path / 'manual'), 20
    tfds_fixtures.write_imagenet_archive(tmp_path / 'manual', size)
  data_dir = tmp_path / 'data'
  code, stdout, stderr = child_processes.run_script(
    FULL_DISK, name, split, 2000, data_dir, manual
  )
  assert code == 0, stderr
  lines = stdout.splitlines()  # TFDS prints there too
  (message,) = (line for line in lines if line.startswith('cannot '))
  assert f'{name} data set' in message or f'data set {name!r}' in message
  assert 'File too large' in message and str(data_dir) in message
  assert 'free space ' in message and 'name another TFDS dir' in message
  assert 'left: []' in lines
  assert lines[-1] == str(size)
