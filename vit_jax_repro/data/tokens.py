"""Texts as numbers, by the vocabulary file of an image-text model.

Both rules are those of vit_jax/preprocess.py of google-research/
vision_transformer. A WordPiece vocabulary (.txt) has a word on each line; a
SentencePiece model (.model) is a file of that library.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np

from vit_jax_repro.errors import InputError

CLASS, UNKNOWN = '[CLS]', '[UNK]'  # words of a WordPiece vocabulary
PADDING = 0  # of WordPiece
MAX_WORD = 100  # characters; a longer word is unknown (google-research/bert)
SENTENCE_PIECE = '.model'  # ending of its vocabularies; WordPiece's is .txt

Tokenizer = Callable[[Sequence[str]], np.ndarray]  # texts -> [T, N] int32


def tokenizer(path: str | os.PathLike, length: int) -> Tokenizer:
  """Returns a function from texts to tokens [T, length] int32.

  WordPiece: texts in lower case without accents, [CLS] first, at most
  `length - 1` tokens of the text, then 0. SentencePiece: at most `length - 1`
  tokens, then </s>, which so is always the last token.

  Args:
    path: of a vocabulary, which ends in .txt or .model.
    length: number of tokens of a text.

  Raises:
    InputError: the file is no vocabulary, or the package that reads it is not
      installed.
    OSError: the file cannot be read.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'{path} is missing: the vocabulary that belongs to the weights; put it '
      'there (fetch does so for lit/ files)'
    )
  if path.endswith(SENTENCE_PIECE):
    return _sentence_piece(path, length)
  return _word_piece(path, length)


def _require(name):
  """Imports a package of the extra `text`."""
  import importlib

  try:
    return importlib.import_module(name)
  except ImportError:
    raise InputError(
      f'{name} is not installed, which turns texts into tokens; run '
      f"`pip install {name}` (or this package's extra: vit_jax_repro[text])"
    ) from None


def _word_piece(path, length):
  library = _require('tokenizers')
  with open(path, encoding='utf-8', errors='replace') as file:
    words = {line.rstrip('\r\n'): row for row, line in enumerate(file)}
  missing = [word for word in (CLASS, UNKNOWN) if word not in words]
  if missing:
    raise InputError(
      f'{path} has no line {" and none ".join(missing)}, so it is no WordPiece '
      'vocabulary'
    )
  model = library.models.WordPiece(
    words, unk_token=UNKNOWN, max_input_chars_per_word=MAX_WORD
  )
  tokenize = library.Tokenizer(model)
  tokenize.normalizer = library.normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=True,
    strip_accents=True,
    lowercase=True,
  )
  tokenize.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()

  def encode(texts):
    found = tokenize.encode_batch(list(texts), add_special_tokens=False)
    rows = [[words[CLASS], *each.ids] for each in found]
    return _padded(rows, length, PADDING)

  return encode


def _sentence_piece(path, length):
  library = _require('sentencepiece')
  processor = library.SentencePieceProcessor()
  try:
    processor.Load(path)
  except (RuntimeError, OSError) as error:
    reason = ' '.join(str(error).split())
    raise InputError(f'{path} is no SentencePiece model: {reason}') from None
  end = processor.eos_id()
  if end < 0:
    raise InputError(f'{path} has no </s>, with which texts are padded')

  def encode(texts):
    rows = [row[: length - 1] for row in processor.EncodeAsIds(list(texts))]
    return _padded(rows, length, end)

  return encode


def _padded(rows, length, padding):  # -> [T, length] int32
  tokens = np.full((len(rows), length), padding, np.int32)
  for number, row in enumerate(rows):
    tokens[number, : min(len(row), length)] = row[:length]
  return tokens
