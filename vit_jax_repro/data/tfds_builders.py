"""TFDS data sets by name, and preparing the ones that are not there yet."""

import difflib
import os
import pathlib
import shlex

from vit_jax_repro.data import catalogue, digits, vtab
from vit_jax_repro.data.tf_host import silence, tensorflow
from vit_jax_repro.errors import InputError

_SUGGESTIONS = 3
_TELLING = 3  # letters that the beginning of a name must have to suggest it
_FULL = ('No space left', 'File too large', 'quota')  # a disk, or what it gives


def find(name, data_dir):
  """The builder of a data set, prepared or not; nothing is fetched.

  Args:
    name: as TFDS writes it, such as 'eurosat/rgb:2.0.0'.
    data_dir: the TFDS directory; None means TFDS's own default.

  Returns:
    tfds.core.DatasetBuilder; None when TFDS knows no such name.

  Raises:
    InputError: there is no such configuration or version of it.
  """
  tensorflow()
  import tensorflow_datasets as tfds

  try:
    with silence():
      return tfds.builder(name, data_dir=data_dir, try_gcs=False)
  except tfds.core.DatasetNotFoundError:
    return None
  except (ValueError, AssertionError) as error:
    if 'Parsing builder name string' in str(error):
      return None
    _check_configuration(name)
    raise InputError(
      f'cannot open TFDS data set {name!r}: {first_line(error)}'
    ) from error


def _check_configuration(name):
  import tensorflow_datasets as tfds

  known, _, config = name.partition(':')[0].partition('/')
  configs = list(tfds.builder_cls(known).builder_configs)
  if not config or config in configs:
    return
  if not configs:
    raise InputError(
      f'TFDS data set {known!r} has no configurations; leave out {config!r}'
    )
  if len(configs) > 2 * _SUGGESTIONS:
    close = _nearest(config, configs)
    configs = close or [*configs[: 2 * _SUGGESTIONS], '...']
  raise InputError(
    f'TFDS data set {known!r} has no configuration {config!r}; choose from '
    f'{configs}'
  )


def unknown(name):
  """The message about a name that is none, with the nearest ones there are."""
  tensorflow()
  import tensorflow_datasets as tfds

  tasks = [catalogue.VTAB + task for task in vtab.TASKS]
  names = [digits.NAME, *(f'{digits.NAME}/{part}' for part in digits.CONFIGS)]
  names += [*catalogue.DATA_SETS, *tfds.list_builders()]
  plain = name.partition(':')[0]
  if name.startswith(catalogue.VTAB):
    task = plain.removeprefix(catalogue.VTAB)
    close = [catalogue.VTAB + near for near in _nearest(task, vtab.TASKS)]
    close = close or tasks
  else:
    close = _nearest(plain, names) or _nearest(plain.split('/')[0], names)
  meant = f'; did you mean {" or ".join(map(repr, close))}?' if close else ';'
  return (
    f"unknown data set {name!r}{meant} choose 'digits', the name of a TFDS "
    'data set, a task of VTAB such as vtab/dtd, or a folder ROOT that holds '
    'ROOT/SPLIT/CLASS/*.jpg'
  )


def _nearest(name, names):
  """The few of `names` that are most like `name`, those it begins first."""
  original = {known.lower(): known for known in names}
  name = name.lower()
  begun = sorted(known for known in original if known.startswith(name))
  close = difflib.get_close_matches(name, original, _SUGGESTIONS)
  found = dict.fromkeys([*(begun if len(name) >= _TELLING else []), *close])
  return [original[known] for known in list(found)[:_SUGGESTIONS]]


def prepare(name, builder, split, *, manual_dir=None, download=False):
  """Prepares a data set that is not there, or says what to do.

  Args:
    name: as it shall be called in messages.
    builder: its tfds.core.DatasetBuilder.
    split: the split that is wanted, as TFDS writes it.
    manual_dir: folder of what TFDS cannot fetch itself, for a set of which
      that is true; by itself it is no leave to download any other.
    download: whether TFDS may fetch the rest.

  Raises:
    FileNotFoundError: neither is given, or the folder lacks a file.
    OSError: the set cannot be fetched, understood or written.
  """
  manual = catalogue.manual_of(builder.name)
  where = str(builder.data_dir)
  if not download and manual_dir is None:
    raise FileNotFoundError(_how_to_prepare(name, builder, manual))
  folder = manual_dir or _manual_folder(builder)
  if not download and not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
    raise FileNotFoundError(_how_to_prepare(name, builder, manual))
  if manual:
    _check_manual(name, manual, folder, split)
  import tensorflow_datasets as tfds

  config = tfds.download.DownloadConfig(manual_dir=manual_dir)
  try:
    builder.download_and_prepare(download_config=config)
  except Exception as error:  # TFDS, TensorFlow and what they call have many
    raise OSError(
      f'cannot prepare data set {name!r} in {where}: '
      f'{first_line(error)}{_remedy(error, where)}'
    ) from error


def _how_to_prepare(name, builder, manual):
  root = _root(builder)
  command = f'tfds build {_build_name(builder)} --data_dir={shlex.quote(root)}'
  elsewhere = (
    'or name the TFDS directory that has it (--data_dir, or '
    '--config.tfds_data_dir of main)'
  )
  missing = f'data set {name!r} is not prepared: nothing at {builder.data_dir}'
  if not manual:
    return f'{missing}; run `{command}` where there is a network, {elsewhere}'
  files = ' and '.join((*manual.files, *manual.train_files))
  fetched = f' ({manual.fetched} too, without a network)' * bool(manual.fetched)
  return (
    f'{missing}; TFDS cannot download it: put {files}{fetched} into '
    f'{_manual_folder(builder)}, from {manual.origin}, and run `{command}`, '
    f'{elsewhere}'
  )


def _check_manual(name, manual, folder, split):
  wanted = manual.files
  if 'train' in split:  # TFDS leaves the split out if its archive is missing
    wanted += manual.train_files
  missing = [
    file for file in wanted if not os.path.exists(os.path.join(folder, file))
  ]
  if missing:
    raise FileNotFoundError(
      f'cannot prepare data set {name!r}: {folder} lacks '
      f'{" and ".join(missing)}; get them from {manual.origin}'
    )


def _manual_folder(builder):
  """Where TFDS looks if it is not told."""
  return os.path.join(_root(builder), 'downloads', 'manual')


def _root(builder):
  """The TFDS directory, above NAME[/CONFIG]/VERSION."""
  above = pathlib.Path(builder.data_dir).parents
  return str(above[2 if builder.builder_config else 1])


def _build_name(builder):
  """NAME[/CONFIG]:VERSION, what `tfds build` takes."""
  config = builder.builder_config
  name = f'{builder.name}/{config.name}' if config else builder.name
  return f'{name}:{builder.version}'


def _remedy(error, where):
  text = str(error)
  if any(sign in text for sign in _FULL):
    return f'; free space at {where} or name another TFDS directory'
  if isinstance(error, ImportError) and 'cv2' in text:
    return '; run `pip install opencv-python-headless`'
  return ''


def first_line(error):
  """The first line of an error's message that says something."""
  text = str(error).strip()
  line = text.splitlines()[0].rstrip() if text else type(error).__name__
  if line.endswith(':'):  # a list would follow: leave out its announcement
    line = line.rpartition('. ')[0] or line[:-1]
  return line
