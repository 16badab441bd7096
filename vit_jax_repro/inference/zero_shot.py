"""Zero-shot classification: an image-text model whose classes are texts.

The vector of a class is the mean of the unit vectors of its texts, one for each
template, divided by its length (CLIP, arXiv:2103.00020, section 3.1.4; LiT,
arXiv:2111.07991). A logit is the product with the image's vector times the
temperature.
"""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro import models
from vit_jax_repro.data import datasets, labels, tokens
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import restoring
from vit_jax_repro.inference.restoring import Restored
from vit_jax_repro.models import bert, variants
from vit_jax_repro.models.two_towers import unit
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import listed, note
from vit_jax_repro.published import prompt_lists, weight_names
from vit_jax_repro.weights import adapt, layouts, model_card

TEMPLATES = (
  '{}', 'a photo of a {}', 'a picture of the {}', 'an image of one {}',
)  # fmt: skip
PREPROCESSING = 'lit'
_BATCH = 256  # texts at once


@dataclasses.dataclass(frozen=True)
class ZeroShot:
  """A classifier that compares images with the vectors of texts.

  Its parameters are `towers`, those of `model`, and `classes` [K, D].

  Fields:
    model: a `models.TwoTowers`.
    num_classes: K.
  """

  model: Any
  num_classes: int

  def apply(
    self, variables: Mapping[str, Any], images: jax.Array, *, train: bool
  ) -> jax.Array:
    """Returns logits [B, K] of images [B, H, W, 3]."""
    params = variables['params']
    zimg, _, temperature = self.model.apply(
      {'params': params['towers']}, images=images, train=train
    )
    return temperature[0] * zimg @ params['classes'].T


@dataclasses.dataclass(frozen=True)
class Towers:
  """An image-text model with its vocabulary."""

  restored: Restored  # its model is a TwoTowers, without classes
  tokenize: tokens.Tokenizer
  folder: str  # of the weights, where lists of class names may be, too

  def vectors(self, texts: Sequence[str]) -> np.ndarray:  # [T, D]
    """Returns the unit vector of each text."""
    rows = self.tokenize(texts)
    step = _text_step(self.restored.model)
    params = {k: v for k, v in self.restored.params.items() if k != 'img'}
    params = jax.device_put(params)  # once for all steps
    found = []
    with waiting.doing(f'reading {len(texts):,} texts'):
      for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        full = np.pad(part, ((0, min(_BATCH, len(rows)) - len(part)), (0, 0)))
        found.append(np.asarray(step(params, full))[: len(part)])
    return np.concatenate(found)

  def classifier(
    self, names: Sequence[str], templates: Sequence[str] = ('{}',)
  ) -> Restored:
    """Returns a classifier of classes with these names.

    Args:
      names: of the classes, as a text has them.
      templates: texts with one {} each, the place of the name.

    Raises:
      InputError: there is no name.
    """
    if not names:
      raise InputError('there is no text to compare images with')
    doubled = [name for name, n in Counter(names).items() if n > 1]
    if doubled:
      note(
        f'several classes are the same text, so images are never taken for the '
        f'last of them: {listed(doubled)}'
      )
    texts = [each.replace('{}', name) for name in names for each in templates]
    vectors = self.vectors(texts).reshape(len(names), len(templates), -1)
    params = {k: v for k, v in self.restored.params.items() if k != 'txt'}
    return dataclasses.replace(
      self.restored,
      model=ZeroShot(self.restored.model, len(names)),
      params={
        'towers': params,
        'classes': np.asarray(unit(jnp.asarray(vectors.mean(axis=1)))),
      },
      class_names=tuple(names),
    )


@functools.lru_cache(maxsize=4)
def _text_step(model):
  return jax.jit(
    lambda params, rows: model.apply({'params': params}, None, rows)[1]
  )


def restore(
  weights: str | os.PathLike,
  model: str | None = None,
  image_size: int | tuple[int, ...] | list[int] | None = None,
  preprocessing: str | None = None,
  *,
  orientation: str | None = None,
) -> Towers:
  """Reads an image-text model with its vocabulary.

  The vocabulary of NAME.npz is NAME.txt (BERT) or NAME.model in its folder.

  Args:
    weights: a file of two towers, or its published name.
    model: a name that overrides the architecture of the file.
    image_size: S or (H, W) pixels; by default the file's.
    preprocessing: see `restoring.restore`; by default `lit`.
    orientation: see `restoring.restore`.

  Raises:
    InputError: the file has no text tower, or an argument is wrong.
    OSError: a file is missing or cannot be read.
  """
  path = weight_names.find(weights)
  if not path.endswith('.npz'):
    raise InputError(
      f'{path} is no .npz file, which texts need; give the result of '
      f'`convert {path} NAME.npz`'
    )
  read = model_card.load(path, both_towers=True)
  if not layouts.has_two_towers(read.params):
    raise InputError(
      f'{path} has no text tower, so texts cannot be its classes; give an '
      'image-text model such as lit/LiT-B16B_2'
    )
  fields = variants.variant(model) if model else read.card.architecture
  if not fields.get('text_model'):
    raise InputError(
      f'{model or read.card_file} names a model without a text tower for '
      f'{path}, which has one; choose from {sorted(variants.LITS)}'
    )
  card = dataclasses.replace(read.card, architecture=fields)
  preferred = card.preprocessing if read.has_card else None
  image = restoring.restore(
    path,
    image_size=image_size,
    preprocessing=preprocessing or preferred or PREPROCESSING,
    read=model_card.image_tower(dataclasses.replace(read, card=card)),
    orientation=orientation,
  )
  module = models.create(fields)
  restored = dataclasses.replace(
    image,
    model=module,
    params=adapt(
      read.params,
      module,
      image_size=image.image_size,
      source_image_size=card.image_size,
    ),
    name=models.name_of(module) or 'two towers',
    class_names=None,
    loss='softmax',
  )
  vocabulary = prompt_lists.vocabulary_path(path, fields['text_model'])
  tokenize = tokens.tokenizer(
    vocabulary, _length(read, fields), module.txt.vocab_size
  )
  if isinstance(module.txt, bert.Bert) and fields is read.spec:
    _note_on_heads(module.txt, path)
  return Towers(restored, tokenize, os.path.dirname(path))


def _length(read, fields):
  """Returns the number of tokens of a text."""
  if fields['text_model'] != 'bert':  # the positions of its file show it
    return read.spec['max_len']
  length = fields.get('max_len') or read.spec['max_len']
  if not isinstance(length, int) or length < 1:
    raise InputError(
      f'max_len={length!r} must be a number of tokens, 1 or more'
    )
  return length


def _note_on_heads(text, path):
  """Notes that the number of heads of a BERT of unpublished size is a guess."""
  if text.hidden_size not in [size[0] for size in bert.SIZES.values()]:
    note(
      f'no array of {path} shows the number of heads of its BERT of width '
      f'{text.hidden_size}; using {text.num_heads}; if this is wrong, write '
      f'the architecture into {model_card.card_path(path)}'
    )


def of_data(
  found: Towers, source: datasets.Split, prompts: str | None = None
) -> tuple[Restored, str]:
  """Returns a classifier of the classes of a data set, and a line on it.

  Published lists (see prompt_lists) in the folder of the weights are used.
  Else the names are those of the data set, and the templates `TEMPLATES`.

  Args:
    found: the model.
    source: the data set.
    prompts: path of a file with a template on each line, which replace others.

  Raises:
    InputError: the data set has no names, or a file is wrong.
    OSError: a file cannot be read.
  """
  lists = prompt_lists.of(source.name, found.folder)
  if lists is None:
    names, templates = _names(source), TEMPLATES
    line = f"the data set's class names and {len(templates)} own templates"
  else:
    names = _in_order(lists.names, source)
    templates, line = lists.templates, lists.origin
  if prompts is not None:
    templates = read_templates(prompts)
    line += f'; templates of {prompts}'
  line = f'zero-shot: {line}; {len(names)} classes, {len(templates)} templates'
  note(line)
  return found.classifier(names, templates), line


def _names(source):
  """Returns the names of the classes as texts have them."""
  names = source.class_names
  if names is None:
    raise InputError(f'{source.name} has no class names, which zero-shot needs')
  own = labels.class_names_of(len(names))
  if own is not None and all(
    name[:1] == 'n' and name[1:].isdecimal() for name in names
  ):
    # ImageNet's, whose data set has WordNet ids; the first of their synonyms
    names = [name.split(',')[0] for name in own]
  return [_words(name) for name in names]


def _words(name):
  return name.replace('_', ' ').strip()


def _in_order(names, source):
  """Returns published names in the order of the data set's classes."""
  if len(names) != source.num_classes:
    raise InputError(
      f'{len(names)} published class names for the {source.num_classes} '
      f'classes of {source.name}'
    )
  by_key = {_words(name).lower(): name for name in names}
  keys = [_words(name).lower() for name in source.class_names or ()]
  if len(by_key) == len(names) and set(keys) == set(by_key):
    return [by_key[key] for key in keys]
  for name, key in zip(names, keys, strict=False):
    if key in by_key and by_key[key] != name:
      raise InputError(
        f'the published class names are not in the order of {source.name}: '
        f'{name!r} for its class {key!r}'
      )
  return list(names)  # spelt differently, in the same order


def read_texts(path: str | os.PathLike) -> list[str]:
  """Reads a text file with a text on each line; blank lines do not count.

  Raises:
    OSError: the file cannot be read.
  """
  with open(path, encoding='utf-8-sig', errors='replace') as file:
    return [line.strip() for line in file if line.strip()]


def read_templates(path: str | os.PathLike) -> tuple[str, ...]:
  """Reads a text file with a template on each line; blank lines do not count.

  Raises:
    InputError: a line has not exactly one {}, or there is no line.
    OSError: the file cannot be read.
  """
  lines = read_texts(path)
  wrong = [line for line in lines if line.count('{}') != 1]
  if wrong or not lines:
    raise InputError(
      f'{path}: each line must have {{}} once, the place of the class name, '
      f'such as "a photo of a {{}}": {listed(wrong)}'
    )
  return tuple(lines)
