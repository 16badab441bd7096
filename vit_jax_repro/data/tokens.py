"""Texts as numbers, by the vocabulary file of an image-text model.

Both rules are those of vit_jax/preprocess.py of google-research/
vision_transformer. A WordPiece vocabulary (.txt) has a word on each line; a
SentencePiece model (.model) is a file of that library.

The original splits texts into words by tensorflow_text.BertTokenizer, whose
rules differ from those of google-research/bert: letters are folded by Unicode's
NFKC_Casefold ('Straße' has the word 'strasse'), control characters separate
words, and the longest word has 100 bytes.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import is_unicode

CLASS, UNKNOWN = '[CLS]', '[UNK]'  # words of a WordPiece vocabulary
PADDING = 0  # of WordPiece
MAX_WORD = 100  # bytes of UTF-8; a longer word is unknown (tensorflow_text)
SENTENCE_PIECE = '.model'  # ending of its vocabularies; WordPiece's is .txt

# Unicode's Default_Ignorable_Code_Point, which NFKC_Casefold removes.
_IGNORED = re.compile(
  '[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f'
  '\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8'
  '\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]'
)
_CHINESE = re.compile(  # characters that are words (tensorflow_text)
  '[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df'
  '\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f]'
)

Tokenizer = Callable[[Sequence[str]], np.ndarray]  # texts -> [T, N] int32


def tokenizer(
  path: str | os.PathLike, length: int, vocab_size: int | None = None
) -> Tokenizer:
  """Returns a function from texts to tokens [T, length] int32.

  WordPiece: texts in lower case without accents, [CLS] first, at most
  `length - 1` tokens of the text, then 0. SentencePiece: at most `length - 1`
  tokens, then </s>, which so is always the last token.

  Args:
    path: of a vocabulary, which ends in .txt or .model.
    length: number of tokens of a text.
    vocab_size: rows of the model's table of tokens, at least those of the
      vocabulary. Not checked by default.

  Raises:
    InputError: the file is no vocabulary, or that of another model; or the
      package that reads it is not installed. The function raises it for a text
      that is not valid Unicode.
    OSError: the file cannot be read.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'{path} is missing: the vocabulary that belongs to the weights; put it '
      'there (fetch does so for lit/ files)'
    )
  is_sentence_piece = path.endswith(SENTENCE_PIECE)
  read = _sentence_piece if is_sentence_piece else _word_piece
  encode, size, padding = read(path, length)
  if vocab_size is not None and size > vocab_size:
    raise InputError(
      f'{path} has {size:,} tokens, more than the {vocab_size:,} that the '
      'weights have; put the vocabulary that belongs to them there'
    )

  def tokenize(texts):
    for text in texts:
      if not is_unicode(text):
        raise InputError(f'the text {text!r} is not valid Unicode (UTF-8)')
    tokens = np.full((len(texts), length), padding, np.int32)
    for number, row in enumerate(encode(list(texts))):
      tokens[number, : len(row)] = row
    return tokens

  return tokenize


def _require(name):
  """Imports a package of the extra `text`."""
  import importlib

  try:
    return importlib.import_module(name)
  except ImportError:
    raise InputError(
      f'{name} is not installed, which turns texts into tokens; run '
      f"`pip install {name}` (or `pip install -e '.[text]'` in the clone)"
    ) from None


def _word_piece(path, length):
  """Returns a function from texts to rows of tokens, how many tokens there are,
  and the token with which rows are padded.
  """
  library = _require('tokenizers')
  with open(path, encoding='utf-8', errors='replace') as file:
    words = {line.rstrip('\r\n'): row for row, line in enumerate(file)}
  missing = [word for word in (CLASS, UNKNOWN) if word not in words]
  if missing:
    raise InputError(
      f'{path} has no line {" and none ".join(missing)}, so it is no WordPiece '
      'vocabulary'
    )
  tokenize = library.Tokenizer(
    library.models.WordPiece(
      words, unk_token=UNKNOWN, max_input_chars_per_word=MAX_WORD
    )
  )

  def encode(texts):
    found = tokenize.encode_batch(
      [_words(text) for text in texts],
      is_pretokenized=True,
      add_special_tokens=False,
    )
    return [[words[CLASS], *each.ids][:length] for each in found]

  return encode, max(words.values()) + 1, PADDING


class _Characters(dict):
  """Maps the code of a character to what takes its place in a text."""

  def __missing__(self, code):
    char = chr(code)
    kind = unicodedata.category(char)
    if kind == 'Mn':  # an accent
      self[code] = ''
    elif kind in ('Cc', 'Cf'):
      self[code] = ' '
    elif kind[0] == 'P' or char in '$+<=>^`|~' or _CHINESE.match(char):
      self[code] = f' {char} '
    else:
      self[code] = char
    return self[code]


_CHARACTERS = _Characters()


def _words(text):
  """Splits a text into words, in lower case and without accents."""
  text = _IGNORED.sub('', text)
  for form in ('NFD', 'NFKC'):
    text = unicodedata.normalize(form, text).casefold()
  text = unicodedata.normalize('NFKD', text).translate(_CHARACTERS)
  words = [word for word in text.split(' ') if word]
  return [UNKNOWN if len(word.encode()) > MAX_WORD else word for word in words]


def _sentence_piece(path, length):
  """Returns the same as `_word_piece`."""
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
    return [row[: length - 1] for row in processor.EncodeAsIds(texts)]

  return encode, processor.GetPieceSize(), end
