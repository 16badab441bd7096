"""The README.md of a port's folder: a model card as the Hub reads them.

Its first part is metadata in YAML, which huggingface_hub writes. The rest is
for people: what the model is, how it is loaded, how images are read.
"""

import dataclasses
import os
import re
from typing import Any

from flax import traverse_util

from vit_jax_repro.data import datasets
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages, run_files
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import configs
from vit_jax_repro.weights import model_card

FILE = 'README.md'
UNKNOWN_LICENSE = 'unknown'  # a value of the Hub's metadata
_TASK, _FEATURES = 'image-classification', 'image-feature-extraction'
_FAMILIES = {'vit': 'a Vision Transformer', 'bit_resnetv2': 'a BiT ResNet'}
_FOLDER = 'imagefolder'  # the Hub's type of a folder of images
# {name in the card: (metric of the Hub, key of result.json)}
_RESULTS = {
  'top-1 accuracy': ('accuracy', 'accuracy'),
  'top-5 accuracy': ('accuracy', 'top5_accuracy'),
}
_BEST_RESULTS = {'top-1 accuracy': ('accuracy', 'best_accuracy')}
_LABEL_RESULTS = {  # of images with several labels
  'mean average precision': (
    'mean_average_precision',
    'multi_label.mean_average_precision',
  ),
  'F1 (micro)': ('f1', 'multi_label.micro.f1'),
  'F1 (macro)': ('f1', 'multi_label.macro.f1'),
}
_BEST_LABEL_RESULTS = {
  'mean average precision': (
    'mean_average_precision',
    'best_mean_average_precision',
  )
}
_RUN_FILES = ('model.npz', 'best.npz')
_MARKDOWN = re.compile(r'([\\`*_{}\[\]<>#|~])')


@dataclasses.dataclass(frozen=True)
class Run:
  """Contents of a run's folder that concern one of its models.

  Attributes:
    config: the settings of the run.
    dataset: name of the data set; of a folder of images only its own name.
    is_folder: whether the data set is a folder of images.
    split: the test split.
    results: {name: (metric of the Hub, value)}; empty if not known.
  """

  config: dict[str, Any]
  dataset: str
  is_folder: bool
  split: str
  results: dict[str, tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where weights come from, for the model card.

  Attributes:
    base_model: name on the Hub of the published weights that these are, or
      were trained from; None if it is not known.
    datasets: names of the data sets that they were trained on.
    license: the Hub's name of their licence; None if it is not known.
    run: the run that trained them; None if they are not the model of a run.
  """

  base_model: str | None = None
  datasets: tuple[str, ...] = ()
  license: str | None = None
  run: Run | None = None


def read_origin(weights_path: str) -> Origin:
  """Reads what a run wrote next to its model.

  A note reports a file of the run that cannot be read.

  Args:
    weights_path: path of any weights; only those of a run have an origin.
  """
  run = _read_run(weights_path)
  return Origin() if run is None else Origin(datasets=(run.dataset,), run=run)


def _read_run(weights_path):
  folder, name = os.path.split(weights_path)
  paths = [os.path.join(folder, n) for n in ('config.json', 'result.json')]
  is_run = os.path.exists(os.path.join(folder, 'manifest.json'))
  if name not in _RUN_FILES or not is_run or not os.path.exists(paths[0]):
    return None
  try:
    config = run_files.read(paths[0])
    result = {}
    if os.path.exists(paths[1]):
      result = run_files.read(paths[1])
  except InputError as error:
    note(f'{error}; the model card leaves the run out')
    return None
  flat = traverse_util.flatten_dict(result, sep='.')
  given = str(config.get('dataset'))
  is_folder = datasets.may_be_folder(given)
  shown = os.path.basename(os.path.abspath(given)) if is_folder else given
  several = result.get('multi_label') is not None
  tested = _LABEL_RESULTS if several else _RESULTS
  wanted = tested
  if name == 'best.npz':  # of which the run keeps one number
    wanted = _BEST_LABEL_RESULTS if several else _BEST_RESULTS
  if config.get('objective') == 'masked_patches':  # measured on patches
    wanted = {}
  elif isinstance(result.get('validation_accuracy'), int | float):
    # The test split is measured with one model, and chose none.
    chosen = 'best.npz' if result.get('best_model') else 'model.npz'
    wanted = tested if name == chosen else {}
  return Run(
    config=config,
    dataset=messages.short(shown),
    is_folder=is_folder,
    split=messages.short((config.get('pp') or {}).get('test', 'test')),
    results={
      text: (metric, flat[key])
      for text, (metric, key) in wanted.items()
      if isinstance(flat.get(key), int | float)
    },
  )


def write(
  folder: str,
  *,
  name: str,
  library: str,
  model: str,
  num_parameters: int,
  card: model_card.ModelCard,
  origin: Origin,
  is_measured: bool,
) -> None:
  """Writes README.md into a folder that has the port's other files.

  Args:
    folder: the folder.
    name: name of the model in the card.
    library: one of ports.LIBRARIES that has folders.
    model: published name of the model, or its family.
    num_parameters: number of parameters.
    card: description of the weights.
    origin: where the weights come from.
    is_measured: whether the accuracies of the run are those of this model.

  Raises:
    OSError: the file cannot be written.
  """
  from huggingface_hub import EvalResult, ModelCard, ModelCardData

  config = files.read_json(os.path.join(folder, configs.CONFIG), 'config')
  library = library.partition('_')[0]  # transformers_v4 is for transformers
  has_head = bool(card.architecture.get('num_classes'))
  name, run = messages.short(name), origin.run
  results = []
  if run is not None and is_measured:
    results = [
      EvalResult(
        task_type=_TASK,
        task_name='Image classification',
        dataset_type=_FOLDER if run.is_folder else run.dataset,
        dataset_name=run.dataset,
        dataset_split=run.split,
        metric_type=metric,
        metric_name=text,
        metric_value=value,
      )
      for text, (metric, value) in run.results.items()
    ]
  data = ModelCardData(
    license=origin.license or UNKNOWN_LICENSE,
    library_name=library,
    pipeline_tag=_TASK if has_head else _FEATURES,
    base_model=origin.base_model,
    datasets=list(origin.datasets) or None,
    metrics=sorted({result.metric_type for result in results}) or None,
    model_name=name,
    eval_results=results or None,
    tags=['vision'],
  )
  body = [
    f'# {_plain(name)}',
    _description(model, num_parameters, card, origin, library),
    '## How to load it',
    _loading(library, config, has_head, card.loss),
    '## Images',
    _images(folder, library, config, card),
  ]
  if results:
    body += ['## Results', _table(run)]
  if origin.license is None:
    body += [
      '## Licence',
      'The licence of these weights is not known. Write it into the first '
      'lines of this file before you publish the folder.',
    ]
  text = '\n\n'.join(body)
  ModelCard(f'---\n{data.to_yaml()}\n---\n\n{text}\n').save(
    os.path.join(folder, FILE)
  )


def _description(model, num_parameters, card, origin, library):
  lines = [
    f'This is {_FAMILIES.get(model, _plain(model))}, with {num_parameters:,} '
    'parameters. '
    'vit_jax_repro, a reproduction of the Vision Transformer paper '
    '(arXiv:2010.11929) in JAX, converted its weights to the names of '
    f'{library} without changing a number.'
  ]
  if origin.base_model:
    lines.append(
      'They are, or were trained from, the published weights of '
      f'[{origin.base_model}](https://huggingface.co/{origin.base_model}).'
    )
  number = card.architecture.get('num_classes')
  if not number:
    lines.append('It has no classifier and returns features.')
  elif card.loss == 'regression':
    lines.append(
      f'It was trained for regression and returns {number:,} numbers.'
    )
  elif card.class_names:
    lines.append(
      f'It knows {number:,} classes, among them '
      f'{_plain(messages.listed(card.class_names))}.'
    )
  else:
    lines.append(f'It knows {number:,} classes.')
  return ' '.join(lines)


def _loading(library, config, has_head, loss):
  """Returns the lines of Python that load the folder, and a sentence."""
  if library == 'timm':
    code = (
      'import timm\n\n'
      "model = timm.create_model('local-dir:FOLDER', pretrained=True).eval()\n"
      'images = timm.data.resolve_model_data_config(model)\n'
      'transform = timm.data.create_transform(**images, is_training=False)'
    )
    where = '`hf-hub:USER/NAME` in place of `local-dir:FOLDER`'
  else:
    kind = config['architectures'][0]
    code = (
      f'from transformers import AutoImageProcessor, {kind}\n\n'
      "processor = AutoImageProcessor.from_pretrained('FOLDER')\n"
      f"model = {kind}.from_pretrained('FOLDER')"
    )
    where = '`USER/NAME` in place of `FOLDER`'
  gives = 'logits of the classes' if has_head else 'features of an image'
  if has_head and loss == 'regression':
    gives = 'numbers of the regression'
  if has_head and loss == 'sigmoid':
    gives += (
      '. It decides each class on its own: the sigmoid of a logit is the '
      'probability of its class, and an image may have several classes'
    )
  return (
    f'```python\n{code}\n```\n\nFOLDER is the folder with this file; for a '
    f'copy on the Hub, write {where}. The model returns the {gives}.'
  )


def _images(folder, library, config, card):
  """Describes what the port's own files say about reading images."""
  if library == 'timm':
    cfg = config['pretrained_cfg']
    height, width = cfg['input_size'][1:]
    mean, std, is_cut = cfg['mean'], cfg['std'], cfg['crop_mode'] == 'center'
  else:
    path = os.path.join(folder, configs.PREPROCESSOR)
    read = files.read_json(path, 'preprocessing')
    is_cut = bool(read.get('do_center_crop'))
    size = read['crop_size'] if is_cut else read['size']
    height, width = size['height'], size['width']
    mean, std = read['image_mean'], read['image_std']
  how = 'resized to'
  if is_cut:
    how = 'resized, keeping their proportions, and cut at the centre to'
  text = (
    f'Images are {how} {height}x{width} pixels (height x width). Of their '
    f'values between 0 and 1 the mean {mean} is subtracted, and the result is '
    f'divided by {std}.'
  )
  if card.preprocessing:
    text += (
      f' In vit_jax_repro this is `{card.preprocessing}`; '
      f"{library}'s resizing may differ slightly from it."
    )
  return text


def _table(run):
  lines = ['| data set | split | metric | value |', '| --- | --- | --- | --- |']
  lines += [
    f'| {_plain(run.dataset)} | {_plain(run.split)} | {text} | {value!r} |'
    for text, (_, value) in run.results.items()
  ]
  return '\n'.join(
    [*lines, '', 'vit_jax_repro measured these fractions with its own reading '
     'of images.']
  )  # fmt: skip


def _plain(text):
  """Returns a text of users so that Markdown shows it as it is."""
  return _MARKDOWN.sub(r'\\\1', text)
