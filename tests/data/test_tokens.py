"""Tokens of texts, against those of the original's libraries."""

import io

import numpy as np
import pytest

from vit_jax_repro.data import tokens

pytest.importorskip('tokenizers')
sentencepiece = pytest.importorskip('sentencepiece')
LENGTH = 16
WORDS = (
  'a', 'photo', 'of', 'the', 'cat', 'dog', 'un', '##affable', '##s', '##ing',
  'cafe', 'uber', 'pla', '##y', '中', '文', '日', '!', ',', '.', '-', "'",
  '\ufffd', '##か', 'か',
)  # fmt: skip
PIECES = {  # text: words of BasicTokenizer of tensorflow_text 2.21.1
  'a photo of': 'a photo of', 'Ünaffable': 'unaffable', 'CAFÉ': 'cafe',
  'café': 'cafe', 'über': 'uber', '中文cat': '中 文 cat', '日本': '日 本',
  'plays': 'plays', 'playing': 'playing', "the cat's": "the cat ' s",
  'dog-dog': 'dog - dog', '🐈': '🐈', '👩\u200d🚀 cat': '👩🚀 cat', '': '',
  '   ': '', '\tthe\n': 'the', 'a!b,c': 'a ! b , c', 'x' * 101: 'x' * 101,
  'ｄｏｇ': 'dog', 'naïve': 'naive', 'İstanbul': 'istanbul',
  'Straße': 'strasse', '\u200bcat': 'cat', 'cat\u0301': 'cat',
  '\ufffd': '\ufffd', '\x00dog': 'dog', '½': '1⁄2', '한국어': '한국어',
  'ไทย': 'ไทย', '$5': '$ 5', '[CLS]': '[ cls ]', 'a\u00a0cat': 'a cat',
  'a\u2028cat': 'a\u2028cat', 'ﬁ': 'fi', 'Σίσυφος': 'σισυφοσ',
  'cat\u00addog': 'catdog', 'a\x07cat': 'a cat', 'a\ufeffcat': 'acat',
  'か' * 40: 'か' * 40, 'a+b': 'a + b', '①': '1', '😀\ufe0f': '😀',
}  # fmt: skip


def texts():
  """Returns {text: its words} of 200 texts, the short ones first."""
  rng = np.random.default_rng(0)
  found = {text: words.split(' ') for text, words in PIECES.items()}
  while len(found) < 200:
    pieces = rng.choice(list(PIECES), int(rng.integers(2, 14)))
    found[' '.join(pieces)] = [x for piece in pieces for x in found[piece]]
  return found


def pieces_of(word, vocabulary):
  """Splits a word greedily, the longest piece first."""
  if len(word.encode()) > 100:
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
def test_word_piece_tokens_are_those_of_tensorflow_text(tmp_path):
  vocabulary = write_vocabulary(tmp_path / 'v.txt')
  found = tokens.tokenizer(tmp_path / 'v.txt', LENGTH)(texts())
  assert found.shape == (200, LENGTH)
  assert found.dtype == np.int32
  is_long = 0
  for (text, words), row in zip(texts().items(), found, strict=True):
    ids = [
      vocabulary[piece]
      for word in filter(None, words)
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
