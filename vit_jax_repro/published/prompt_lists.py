"""Class names and prompt templates that CLIP and big_vision publish.

`fetch` puts the files into the folder of an image-text model. They are
parsed, and never run. ImageNet and V2 have big_vision's names and the 81
templates of its `clip_paper`, in lower case without punctuation, as its
evaluator has them; the others have CLIP's, as they are.
"""

import ast
import dataclasses
import os
import re
import string
from collections.abc import Sequence

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import variants
from vit_jax_repro.output import files
from vit_jax_repro.published import catalogue, download, mirrors

_RAW = 'https://raw.githubusercontent.com/'
_CLIP = f'{_RAW}openai/CLIP/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/'
_BIG_VISION = (
  f'{_RAW}google-research/big_vision/0127fb6b337ee2a27bf4e54dea79cff176527356/'
  'big_vision/'
)
# {name in the folder of the weights: (address, SHA-256)}; the hashes are those
# of the files in the repositories at these commits.
FILES = {
  'clip_prompts.md': (
    f'{_CLIP}data/prompts.md',
    'f98d2d25e78cc1fee650240b519f7cb58a83cfcc5aa538cde52514809cf4a1c9',
  ),
  'imagenet_class_names.py': (
    f'{_BIG_VISION}datasets/imagenet/class_names.py',
    '314a107b4fe15bc163030517d1191d8e6eef4d474fbaf09472323ced989cd46a',
  ),
  'imagenet_prompts.py': (
    f'{_BIG_VISION}evaluators/proj/image_text/prompt_engineering_constants.py',
    '08b6bfd94da4ad774a87246c615bae191ecf7db47477c4b98e8b7a759aff00d2',
  ),
}
IMAGENETS = ('imagenet2012', 'imagenet_v2')
CLIP_SECTIONS = {  # TFDS name: heading of clip_prompts.md
  'cifar100': 'CIFAR100',
  'oxford_iiit_pet': 'OxfordPets',
  'resisc45': 'RESISC45',
}


@dataclasses.dataclass(frozen=True)
class Prompts:
  """The published names and templates of a data set."""

  names: tuple[str, ...]
  templates: tuple[str, ...]
  origin: str


def fetch_all(
  entry: catalogue.Published,
  path: str,
  *,
  mirror: str | None = None,
  waits: Sequence[float] = download.WAITS,
) -> list[str]:
  """Downloads the vocabulary and the lists that are not there yet.

  No hash of a vocabulary is known here, so only that of the server is compared.

  Args:
    entry: the weights file of an image-text model.
    path: of this file on this machine; the others get into its folder.
    mirror: see mirrors.sources.
    waits: see download.download.

  Returns:
    A line on each file that no source gives.
  """
  text_model = variants.variant(entry.model or '')['text_model']
  vocabulary = dataclasses.replace(
    entry, path=vocabulary_path(entry.path, text_model)
  )
  folder = os.path.dirname(path)
  wanted = {
    vocabulary_path(path, text_model): (
      [each.url for each in mirrors.sources(vocabulary, mirror=mirror)],
      (),
    )
  }
  for name, (url, digits) in FILES.items():
    wanted[os.path.join(folder, name)] = [url], (f'sha256:{digits}',)
  lines = []
  for file, (urls, hashes) in wanted.items():
    if not os.path.exists(file):
      lines += _fetch(urls, file, hashes, waits)
  return lines


def vocabulary_path(weights: str, text_model: str) -> str:
  """Returns the path of the vocabulary that belongs to a weights file.

  Args:
    weights: path of the weights, 'NAME.npz'.
    text_model: 'bert' (NAME.txt) or 'text_transformer' (NAME.model).
  """
  ending = '.txt' if text_model == 'bert' else '.model'
  return os.path.splitext(weights)[0] + ending


def _fetch(urls, path, hashes, waits):
  """Downloads a file from the first address that gives it."""
  answers = []
  for url in urls:
    try:
      download.download(url, path, hashes=hashes, waits=waits)
      return []
    except (OSError, InputError) as error:
      answers.append(f'{os.path.basename(path)} is not fetched: {url}: {error}')
  return answers


def of(dataset: str, folder: str | os.PathLike) -> Prompts | None:
  """Returns the lists of a data set; None if there are none in the folder.

  Args:
    dataset: TFDS name, with or without configuration and version.
    folder: of the weights.

  Raises:
    InputError: a file has changed.
  """
  base = re.split('[/:]', dataset)[0]
  if base in IMAGENETS:
    texts = [
      _read(folder, name)
      for name in ('imagenet_class_names.py', 'imagenet_prompts.py')
    ]
    if None in texts:
      return None
    names = _assigned(texts[0], 'CLIP_IMAGENET_CLASS_NAMES')
    templates = _assigned(texts[1], 'CLIP_PAPER_PROMPT_TEMPLATES')
    names = [canonical(name, ',').split(',')[0] for name in names]
    templates = [canonical(each, '{}') for each in templates]
    origin = "CLIP's names and templates as big_vision publishes them"
  elif base in CLIP_SECTIONS:
    text = _read(folder, 'clip_prompts.md')
    if text is None:
      return None
    heading = CLIP_SECTIONS[base]
    start = text.index(f'## {heading}\n')
    code = text[start:].split('```')[1].partition('\n')[2]
    names, templates = _assigned(code, 'classes'), _assigned(code, 'templates')
    origin = f"CLIP's names and templates of {heading} (clip_prompts.md)"
  else:
    return None
  return Prompts(tuple(names), tuple(templates), origin)


def _read(folder, name):
  """Returns the text of a list; None if it is missing."""
  path = os.path.join(folder, name)
  if not os.path.exists(path):
    return None
  if files.file_hash(path) != FILES[name][1]:
    raise InputError(
      f'{path} is not the published file (its SHA-256 differs); remove it, and '
      'fetch it again'
    )
  with open(path, encoding='utf-8') as file:
    return file.read()


def _assigned(code, name):
  """Returns the literal that a module assigns to a name."""
  for node in ast.parse(code).body:
    if isinstance(node, ast.Assign) and any(
      isinstance(target, ast.Name) and target.id == name
      for target in node.targets
    ):
      return ast.literal_eval(node.value)
  raise InputError(f'the published file has no list {name}')


def canonical(text: str, kept: str) -> str:
  """Returns a text in lower case, without punctuation but for `kept`.

  Source: big_vision, evaluators/proj/image_text/prompt_engineering.py.
  """
  table = str.maketrans('', '', string.punctuation)
  parts = text.replace('_', ' ').split(kept)
  joined = kept.join(part.translate(table) for part in parts)
  return ' '.join(joined.lower().split())
