"""Draws images of coloured shapes, with the labels of each in labels.csv.

  python examples/coloured_shapes.py /tmp/shapes

The folder gets 600 images to train on and 150 to test on, each with 0 to 3
shapes, and is a data set whose images have several labels or none.
"""

import argparse
import csv
import itertools
import math
import os

import numpy as np
from PIL import Image, ImageDraw

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files

SIZE = 32  # pixels
SPLITS = {'train': 600, 'test': 150}
COLOURS = {'red': (220, 50, 40), 'green': (40, 170, 60), 'blue': (50, 80, 220)}
CORNERS = {'square': 4, 'triangle': 3, 'disc': 40}
NAMES = [f'{c} {shape}' for c, shape in itertools.product(COLOURS, CORNERS)]
# Around these points, so that no shape covers much of another.
PLACES = [(8, 8), (24, 8), (8, 24), (24, 24)]
MOST = 3  # shapes in an image
NOISE = 40  # standard deviation, in levels of 0 to 255


def draw(names, generator):
  """Returns an image of these shapes, [SIZE, SIZE, 3] uint8."""
  image = Image.new('RGB', (SIZE, SIZE), (235, 235, 235))
  pen = ImageDraw.Draw(image)
  places = generator.permutation(PLACES)[: len(names)]
  for name, place in zip(names, places, strict=True):
    x, y = place + generator.uniform(-3, 3, 2)
    colour, shape = name.split()
    count, radius = CORNERS[shape], generator.uniform(3, 6)
    turn = math.pi / count + math.pi / 2
    angles = [2 * math.pi * i / count + turn for i in range(count)]
    corners = [
      (x + radius * math.cos(angle), y + radius * math.sin(angle))
      for angle in angles
    ]
    pen.polygon(corners, fill=COLOURS[colour])
  noise = generator.normal(0, NOISE, (SIZE, SIZE, 3))
  return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def write_split(folder, number, generator):
  """Writes the images of a split, and labels.csv."""
  os.makedirs(folder)
  rows = [['file', *['label'] * MOST]]
  for i in range(number):
    count = generator.integers(MOST + 1)
    names = generator.choice(NAMES, count, replace=False).tolist()
    file = f'{i:04}.png'
    image = Image.fromarray(draw(names, generator))
    image.save(os.path.join(folder, file))
    rows.append([file, *names, *[''] * (MOST - count)])
  with open(os.path.join(folder, 'labels.csv'), 'w', newline='') as file:
    csv.writer(file).writerows(rows)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('out', help='the folder to make')
  args = parser.parse_args()
  try:
    if os.path.exists(args.out):
      raise InputError(f'{args.out} exists already; give another folder')
    files.check_writable(args.out)
  except (InputError, OSError) as error:
    parser.error(str(error))
  generator = np.random.default_rng(0)
  for split, number in SPLITS.items():
    write_split(os.path.join(args.out, split), number, generator)
  print(f'{args.out}: {SPLITS}, {len(NAMES)} labels')


if __name__ == '__main__':
  main()
