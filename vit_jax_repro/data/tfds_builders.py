"""TFDS builders by name, and preparation of data sets that are missing."""

import os
import pathlib
import re
import shlex
from typing import Any

from vit_jax_repro.data import catalogue, digits, vtab
from vit_jax_repro.data.tf_host import silence, tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages

_MOST_CONFIGURATIONS = 6  # listed in a message
_FULL = ('No space left', 'File too large', 'quota')  # no space left


def find(name: str, data_dir: str | os.PathLike | None) -> Any:
  """Returns the builder of a data set, prepared or not; downloads nothing.

  Args:
    name: in TFDS's notation, such as 'eurosat/rgb:2.0.0'.
    data_dir: the TFDS directory; None means TFDS's own default.

  Returns:
    tfds.core.DatasetBuilder, or None if TFDS has no data set of that name.

  Raises:
    InputError: the data set has no such configuration or version; the message
      has the versions that are prepared.
  """
  tensorflow()
  import tensorflow_datasets as tfds

  try:
    with silence():
      return tfds.builder(name, data_dir=data_dir, try_gcs=False)
  except tfds.core.DatasetNotFoundError:
    _check_version(name, data_dir)
    return None
  except (ValueError, AssertionError) as error:
    _check_version(name, data_dir)
    if 'Parsing builder name string' in str(error):
      return None
    _check_configuration(name)
    raise InputError(
      f'cannot open TFDS data set {name!r}: {first_line(error)}'
    ) from error


def _check_version(name, data_dir):
  """Refuses a version that is not prepared where others are."""
  base, _, version = name.partition(':')
  found = prepared_versions(base, data_dir)
  if version and found and version not in found:
    raise InputError(
      f'data set {name!r}: version {version} is not prepared; choose from '
      f'{", ".join(f"{base}:{each}" for each in found)}, or {base} for the '
      'newest'
    )


def prepared_versions(
  name: str, data_dir: str | os.PathLike | None
) -> list[str]:
  """Returns the prepared versions of a data set, sorted.

  Args:
    name: NAME or NAME/CONFIG, without a version.
    data_dir: the TFDS directory; None means TFDS's own default.
  """
  import tensorflow_datasets as tfds

  root = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  try:
    files = list((root / name).glob('*/dataset_info.json'))
  except OSError:
    return []
  return sorted(
    path.parent.name
    for path in files
    if re.fullmatch(r'\d+\.\d+\.\d+', path.parent.name)
  )


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
  if len(configs) > _MOST_CONFIGURATIONS:
    close = messages.nearest(config, configs)
    configs = close or [*configs[:_MOST_CONFIGURATIONS], '...']
  raise InputError(
    f'TFDS data set {known!r} has no configuration {config!r}; choose from '
    f'{configs}'
  )


def unknown(name: str) -> str:
  """Returns the message about an unknown name, with the most similar names."""
  tensorflow()
  import tensorflow_datasets as tfds

  names = [digits.NAME, *(f'{digits.NAME}/{part}' for part in digits.CONFIGS)]
  names += [*catalogue.DATA_SETS, *tfds.list_builders()]
  plain = name.partition(':')[0]
  if name.startswith(catalogue.VTAB):
    task = plain.removeprefix(catalogue.VTAB)
    tasks = {task: catalogue.VTAB + task for task in vtab.TASKS}
    hint = messages.did_you_mean(task, tasks)
    hint = hint or f'the tasks are {list(tasks.values())}; '
  else:
    hint = messages.did_you_mean(plain, names)
    hint = hint or messages.did_you_mean(plain.split('/')[0], names)
  return (
    f"unknown data set {name!r}; {hint}choose 'digits', the name of a TFDS "
    'data set, a task of VTAB such as vtab/dtd, or a folder ROOT that holds '
    'ROOT/SPLIT/CLASS/*.jpg'
  )


def prepare(
  name: str,
  builder: Any,
  split: str,
  *,
  manual_dir: str | os.PathLike | None = None,
  download: bool = False,
) -> None:
  """Prepares a missing data set, or raises an error with instructions.

  Args:
    name: the data set's name in messages.
    builder: its tfds.core.DatasetBuilder.
    split: the requested split in TFDS's notation.
    manual_dir: folder of the files that TFDS cannot download for this data set.
      It does not permit downloads of data sets that need no such files.
    download: whether TFDS may download the other files.

  Raises:
    FileNotFoundError: neither `manual_dir` nor `download` permits preparing
      this set, or the folder lacks a file.
    OSError: the set cannot be downloaded, read or written.
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
  except Exception as error:  # TFDS and TensorFlow raise many types
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
  base = _build_name(builder).partition(':')[0]
  others = prepared_versions(base, root)
  if others:
    shown = ', '.join(f'{base}:{version}' for version in others)
    missing += f' (prepared there: {shown})'
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
  """Returns TFDS's default manual folder."""
  return os.path.join(_root(builder), 'downloads', 'manual')


def _root(builder):
  """Returns the TFDS directory, above NAME[/CONFIG]/VERSION."""
  above = pathlib.Path(builder.data_dir).parents
  return str(above[2 if builder.builder_config else 1])


def _build_name(builder):
  """Returns NAME[/CONFIG]:VERSION for `tfds build`."""
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


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message, or the error's type.

  If the line introduces a list, the introduction is removed.
  """
  text = str(error).strip()
  line = text.splitlines()[0].rstrip() if text else type(error).__name__
  if line.endswith(':'):
    line = line.rpartition('. ')[0] or line[:-1]
  return line
