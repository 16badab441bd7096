"""Hostile descriptions of models: cards, and configurations of libraries."""

import json

import tiny_models
from hostile import Hostile

from vit_jax_repro.inference import restoring


def read(path):
  """Opens weights as every command does."""
  return restoring.restore(path).name


def card(**fields):
  """Makes a sound model whose card has other fields."""

  def make(folder):
    path = tiny_models.save_run(folder / 'model.npz')
    card = json.loads(path.with_suffix('.json').read_text())
    architecture = card['architecture'] | fields.pop('architecture', {})
    card |= {'architecture': architecture} | fields
    path.with_suffix('.json').write_text(json.dumps(card))
    return path

  return make


def card_text(text):
  def make(folder):
    path = tiny_models.save_run(folder / 'model.npz')
    path.with_suffix('.json').write_text(text)
    return path

  return make


def library(name='config.json', **fields):
  """Makes a folder of transformers whose configuration has other values."""

  def make(folder):
    from hub_files import safetensors_of

    params = tiny_models.params_of(tiny_models.spec(3))
    content = safetensors_of(params, 'transformers')
    (folder / 'model.safetensors').write_bytes(content)
    config = {
      'model_type': 'vit',
      'num_attention_heads': 2,
      'image_size': 8,
      'architectures': ['ViTForImageClassification'],
    }
    written = {'config.json': config}
    written[name] = written.get(name, {}) | fields
    if 'architecture' in fields:  # a file of timm
      del written[name]['model_type']
    for file, value in written.items():
      (folder / file).write_text(json.dumps(value))
    return folder

  return make


def million_classes(folder):
  names = {str(label): 'x' for label in range(10**6)}
  return library(id2label=names)(folder)


def deep(opening='[', closing=']', depth=200_000):
  return opening * depth + '1' + closing * depth


def _is(name, make, shows):
  return Hostile(name, make, read, shows)


def _fields(name, shows, /, **fields):
  return _is(name, card(architecture=fields), shows)


CASES = (
  _is('card nested 200,000 deep', card_text(deep()), 'form a square'),
  _is(
    'card with a number of 10,000 digits',
    card_text(f'{{"architecture":{{"hidden_size":{"9" * 10_000}}}}}'),
    'form a square',
  ),
  _is(
    'card with 1e400',
    card_text('{"architecture":{"layer_norm_eps":1e400}}'),
    'must be a finite number',
  ),
  _fields('card with NaN', 'a finite number', layer_norm_eps=float('nan')),
  _fields('text for a width', "hidden_size='x' must be", hidden_size='x'),
  _fields('mapping for a size', 'not be a mapping', patch_size={'a': 1}),
  _fields('patches of 10**9 pixels', 'no patch', patch_size=[10**9, 10**9]),
  _fields('10**9 layers', 'must be at most 1024', num_layers=10**9),
  _fields('width of 10**30', 'must be at most', hidden_size=10**30),
  _fields('0 heads', 'must be an integer of at least 1', num_heads=0),
  _fields('list for a kind of model', 'unknown kind', model=['vit']),
  _fields('field named \\x1b[2J', r"['\x1b[2J']", **{'\x1b[2J': 1}),
  _fields('text for a group of fields', 'a mapping', transformer='x'),
  _fields('10**12 register tokens', 'do not fit', num_registers=10**12),
  _fields('dtype of Python objects', 'unknown dtype', dtype='object'),
  _fields('dtype of 1 GB', 'unknown dtype', dtype='V1000000000'),
  _fields('10**12 classes', '3 class names for', num_classes=10**12),
  _fields('fields of Flax modules', 'unknown fields', parent='x', name=5),
  _is(
    'lists for class names', card(class_names=[['x'], {}, 1]), 'list of names'
  ),
  _is(
    'class name of 30 MB',
    card(class_names=['cat', 'dog', 'x' * 30_000_000]),
    'of 30,000,000 characters',
  ),
  _is(
    'class name with half of a surrogate pair',
    card(class_names=['cat', 'dog', '\ud800']),
    'form a square',
  ),
  _is('loss of 30 MB', card(loss='x' * 30_000_000), '... 30,000,'),
  _is('images of 10**9 pixels', card(image_size=[10**9, 10**9]), 'is above'),
  _is('images of -8 pixels', card(image_size=[-8, 8]), 'must be a positive'),
  _is('true for an image size', card(image_size=[True, 8]), 'or null, not'),
  _is(
    'Python for a preprocessing',
    card(preprocessing='__import__("os").system("true")'),
    'unknown preprocessing',
  ),
  _is('list for a loss', card(loss=[1]), "'loss' must be"),
  _is('config.json: text for heads', library(num_attention_heads='two'), 'two'),
  _is(
    'config.json: 1e400 heads',
    library(num_attention_heads=1e400),
    'a value of the wrong type',
  ),
  _is('config.json: -2 heads', library(num_attention_heads=-2), 'must divide'),
  _is('config.json: three sides', library(image_size=[8, 8, 8]), 'unpack'),
  _is('config.json: 10**12 pixels', library(image_size=10**12), 'is above'),
  _is(
    'config.json: 1,000,000 classes',
    million_classes,
    '1000000 class names for 3',
  ),
  _is(
    'config.json: class name of 30 MB',
    library(id2label={'0': 'x' * 30_000_000, '1': 'a', '2': 'b'}),
    'of 30,000,000 characters',
  ),
  _is(
    'config.json: class name of 30 MB, of timm',
    library(
      architecture='vit_tiny_patch16_224',
      label_names=['x' * 30_000_000, 'a', 'b'],
    ),
    'of 30,000,000 characters',
  ),
  _is(
    'config.json: class name with half of a surrogate pair',
    library(id2label={'0': '\udfff\ud800', '1': 'a', '2': 'b'}),
    "it holds '\\udfff', half of a character",
  ),
  _is('config.json: list of classes', library(id2label=[1]), 'wrong type'),
  _is(
    'config.json: escapes in an activation',
    library(hidden_act='\x1b[2J\n\x07'),
    r"'\x1b[2J\n\x07'",
  ),
  _is(
    'preprocessor_config.json: division by zero',
    library(
      'preprocessor_config.json', do_center_crop=True, size=0, crop_size=0
    ),
    'wrong type',
  ),
)
