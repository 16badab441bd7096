"""A small image-text model, trained here on pictures of digits and words."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sentencepiece
from PIL import Image, ImageDraw, ImageFont

from vit_jax_repro import models
from vit_jax_repro.data import tokens
from vit_jax_repro.inference import zero_shot
from vit_jax_repro.weights import model_card

WORDS = (
  'zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'
)  # fmt: skip
SIZE, LENGTH, UPDATES, EACH = 20, 12, 150, 4


def picture(digit, rng):
  """Returns a grey picture [SIZE, SIZE, 3] of a digit at a random place."""
  image = Image.new('RGB', (SIZE, SIZE), (int(rng.integers(0, 60)),) * 3)
  place = tuple(rng.integers(3, 5, 2).tolist())
  font = ImageFont.load_default(size=14)
  draw = ImageDraw.Draw(image)
  draw.text(place, str(digit), (int(rng.integers(180, 256)),) * 3, font=font)
  noise = rng.normal(0, 4, (SIZE, SIZE, 3))
  return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def write_pictures(root, number, seed):
  """Writes ROOT/test/WORD/*.png, `number` of each digit."""
  rng = np.random.default_rng(seed)
  for digit, word in enumerate(WORDS):
    folder = root / 'test' / word
    folder.mkdir(parents=True)
    for each in range(number):
      Image.fromarray(picture(digit, rng)).save(folder / f'{each}.png')


def write_vocabulary(path):
  """Trains a SentencePiece model on the words and templates."""
  lines = [
    template.replace('{}', word)
    for word in WORDS
    for template in zero_shot.TEMPLATES
  ]
  stream = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(lines * 20),
    model_writer=stream,
    vocab_size=80,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  path.write_bytes(stream.getvalue())


def write_model(path):
  """Trains the model and writes its weights, card and vocabulary."""
  vocabulary = path.with_suffix('.model')
  write_vocabulary(vocabulary)
  tokenize = tokens.tokenizer(vocabulary, LENGTH)
  fields = dict(
    text_model='text_transformer',
    image=dict(
      patch_size=(5, 5), hidden_size=48, num_layers=1, mlp_dim=96, num_heads=3
    ),
    text=dict(
      hidden_size=32, num_layers=1, mlp_dim=64, num_heads=2, vocab_size=100
    ),
    out_dim=(None, 48),
    max_len=LENGTH,
  )
  model = models.create(fields)
  params = train(model, tokenize)
  card = json.loads(json.dumps(fields))
  model_card.save_model(
    path, params, architecture=card, image_size=(SIZE, SIZE)
  )


def train(model, tokenize):
  """Returns parameters after updates with the softmax loss over the texts."""
  rng = np.random.default_rng(0)
  digits = np.repeat(np.arange(10), EACH)
  rows = np.stack(
    [
      tokenize([each.replace('{}', word) for word in WORDS])
      for each in zero_shot.TEMPLATES
    ]
  )  # [templates, 10, LENGTH]
  params = start(model, rows[0])
  tx = optax.adam(optax.warmup_cosine_decay_schedule(0, 3e-3, 20, UPDATES))

  def loss(params, images, texts):
    zimg, ztxt, t = model.apply({'params': params}, images, texts)
    logits = t[0] * zimg @ ztxt.T
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, digits
    ).mean()

  @jax.jit
  def update(params, state, images, texts):
    grads = jax.grad(loss)(params, images, texts)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for number in range(UPDATES):
    images = np.stack([picture(digit, rng) for digit in digits])
    images = (images / 127.5 - 1).astype(np.float32)
    params, state = update(params, state, images, rows[number % len(rows)])
  return jax.device_get(params)


def start(model, tokens):
  """Returns fresh parameters; `model.init` would compile for seconds."""
  images = jnp.zeros((1, SIZE, SIZE, 3))
  shapes = jax.eval_shape(model.init, jax.random.key(0), images, tokens)
  rng = np.random.default_rng(0)

  def leaf(path, shape):
    if path[-1].key in ('scale', 't'):
      return np.ones(shape.shape, np.float32)
    scale = 0 if path[-1].key == 'bias' else 0.1
    return (scale * rng.normal(size=shape.shape)).astype(np.float32)

  return jax.tree.map_with_path(leaf, shapes['params'])
