"""Tokens of texts, against the published algorithms written out here."""

import io
import unicodedata

import numpy as np
import pytest

from vit_jax_repro.data import tokens

pytest.importorskip('tokenizers')
sentencepiece = pytest.importorskip('sentencepiece')
LENGTH = 16
WORDS = (
  'a', 'photo', 'of', 'the', 'cat', 'dog', 'un', '##affable', '##s', '##ing',
  'cafe', 'uber', 'pla', '##y', '中', '文', '日', '!', ',', '.', '-', "'",
)  # fmt: skip
PIECES = (
  'a photo of', 'Ünaffable', 'CAFÉ', 'café', 'über', '中文cat', '日本', 'plays',
  'playing', "the cat's", 'dog-dog', '🐈', '👩‍🚀 cat', '', '   ', '\tthe\n',
  'a!b,c', 'x' * 101, 'ｄｏｇ', 'naïve', 'İstanbul', 'Straße', '\u200bcat',
  'cat\u0301', '\ufffd', '\x00dog', '½', '한국어', 'ไทย', '$5', '[CLS]',
)  # fmt: skip


def texts():
  """Returns 200 texts, the short ones first."""
  rng = np.random.default_rng(0)
  found = list(PIECES)
  while len(found) < 200:
    number = int(rng.integers(2, 14))
    found.append(' '.join(rng.choice(PIECES, number)))
  return found


def bert_words(text):
  """Splits a text as BasicTokenizer of google-research/bert does."""
  clean = []
  for char in text:
    kind = unicodedata.category(char)
    if char in '\t\n\r ' or kind == 'Zs':
      clean.append(' ')
    elif char in '\x00\ufffd' or kind.startswith('C'):
      continue
    elif 0x4E00 <= ord(char) <= 0x9FFF:
      clean.append(f' {char} ')
    else:
      clean.append(char)
  words = []
  for word in ''.join(clean).split():
    plain = unicodedata.normalize('NFD', word.lower())
    plain = ''.join(c for c in plain if unicodedata.category(c) != 'Mn')
    part = ''
    for char in plain:
      code = ord(char)
      is_sign = unicodedata.category(char).startswith('P') or (
        33 <= code < 127 and not char.isalnum()
      )
      if is_sign:
        words += [part, char]
        part = ''
      else:
        part += char
    words.append(part)
  return [word for word in words if word]


def pieces_of(word, vocabulary):
  """Splits a word greedily, the longest piece first."""
  if len(word) > 100:
    return ['[UNK]']
  found, start = [], 0
  while start < len(word):
    for end in range(len(word), start, -1):
      piece = ('##' if start else '') + word[start:end]
      if piece in vocabulary:
        break
    else:
      return ['[UNK]']
    found.append(piece)
    start = end
  return found


def write_vocabulary(path):
  letters = 'abcdefghijklmnopqrstuvwxyz'
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *WORDS]
  words += [
    *(c for c in letters if c != 'a'),
    *(f'##{c}' for c in letters if c not in 'sy'),
  ]
  path.write_text('\n'.join(words) + '\n', encoding='utf-8')
  return {word: number for number, word in enumerate(words)}


@pytest.mark.quick
def test_word_piece_tokens_are_those_of_the_published_algorithm(tmp_path):
  vocabulary = write_vocabulary(tmp_path / 'v.txt')
  found = tokens.tokenizer(tmp_path / 'v.txt', LENGTH)(texts())
  assert found.shape == (200, LENGTH)
  assert found.dtype == np.int32
  is_long = 0
  for text, row in zip(texts(), found, strict=True):
    ids = [
      vocabulary[piece]
      for word in bert_words(text)
      for piece in pieces_of(word, vocabulary)
    ]
    is_long += len(ids) > LENGTH - 1
    wanted = [vocabulary['[CLS]'], *ids[: LENGTH - 1]]
    wanted += [0] * (LENGTH - len(wanted))
    assert row.tolist() == wanted, text
  assert is_long > 20


@pytest.mark.quick
def test_sentence_piece_tokens_end_in_the_end_of_sentence(tmp_path):
  stream = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter([text for text in texts() if text.strip()] * 3),
    model_writer=stream,
    vocab_size=150,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  (tmp_path / 'v.model').write_bytes(stream.getvalue())
  processor = sentencepiece.SentencePieceProcessor(
    model_proto=stream.getvalue()
  )
  found = tokens.tokenizer(tmp_path / 'v.model', LENGTH)(texts())
  end = processor.piece_to_id('</s>')
  for text, row in zip(texts(), found, strict=True):
    wanted = processor.encode(text)[: LENGTH - 1]
    assert row.tolist() == wanted + [end] * (LENGTH - len(wanted)), text
  assert (found[:, -1] == end).all()


@pytest.mark.quick
@pytest.mark.parametrize('name', ['v.txt', 'v.model'])
def test_tokenizer_names_a_missing_file_and_package(
  name, tmp_path, monkeypatch
):
  with pytest.raises(FileNotFoundError, match='is missing: the vocabulary'):
    tokens.tokenizer(tmp_path / name, LENGTH)
  (tmp_path / name).write_text('cat\n')
  with pytest.raises(ValueError, match=r'no line \[CLS\]|no SentencePiece'):
    tokens.tokenizer(tmp_path / name, LENGTH)

  def missing(wanted):
    raise ImportError(wanted)

  monkeypatch.setattr('importlib.import_module', missing)
  with pytest.raises(ValueError, match='pip install') as error:
    tokens.tokenizer(tmp_path / name, LENGTH)
  assert '\n' not in str(error.value)
