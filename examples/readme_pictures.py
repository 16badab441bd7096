"""Draws the pictures of README.md from a finished quickstart run.

  python examples/readme_pictures.py runs/quickstart docs

quickstart.png shows the training curves and predictions on digits. rollout.png
shows the attention rollout over two photographs, positions.png the position
embeddings before and after training, figure5.png published numbers.
"""

import argparse
import pathlib

import jax
import numpy as np
import sklearn

from vit_jax_repro.analysis import (
  charts,
  inspecting,
  pictures,
  plots,
  saved_results,
)
from vit_jax_repro.data import datasets, pipeline
from vit_jax_repro.inference import classify, restoring
from vit_jax_repro.output import waiting
from vit_jax_repro.paper import points

ROWS, COLUMNS = 4, 8
CORRECT, WRONG = pictures.BLUE, pictures.RED


def predicted_digits(workdir):
  """Returns test images [360, 8, 8] in [-1, 1], labels, predictions [360]."""
  restored = restoring.restore(workdir / 'model.npz')
  split = datasets.open_split('digits', 'test')
  (batch,) = pipeline.evaluation_batches(
    split,
    preprocessing=restored.preprocessing,
    image_size=restored.image_size,
    batch_size=split.num_examples,
  )
  params = jax.device_put(restored.params)
  found = classify.probabilities(restored.model, params, batch['image'])
  return batch['image'][..., 0], batch['label'], found.argmax(-1)


def draw_rollout(workdir, out):
  """Draws attention rollout over the photographs that scikit-learn ships.

  The images have many times the model's size. The position embeddings are
  resized with them.
  """
  folder = pathlib.Path(sklearn.__file__).parent / 'datasets' / 'images'
  photographs = [folder / f'{name}.jpg' for name in ('china', 'flower')]
  found = inspecting.rollouts(
    workdir / 'model.npz', photographs, image_size=(64, 96)
  )
  pictures.save(plots.rollout(found), out)


def draw_positions(workdir, out):
  """Draws the position embeddings of the model and of random weights."""
  found = [
    inspecting.positions(workdir / 'model.npz', untrained=untrained)
    for untrained in (False, True)
  ]
  pictures.save(plots.similarity(*found), out, width=8)


def draw_quickstart(workdir, out):
  """Draws the training curves and predictions."""
  run = saved_results.curves(workdir)
  steps, parts = run.evaluated['test']
  images, labels, predictions = predicted_digits(workdir)
  figure = pictures.new(11, 3.8)
  left, right = figure.subfigures(1, 2, width_ratios=(1, 1.05))
  loss, accuracy = left.subplots(1, 2)
  loss.plot(run.steps, run.losses, color=pictures.BLUE, alpha=0.25)
  means = charts.smoothed(run.losses)
  loss.plot(run.steps, means, color=pictures.BLUE)
  loss.set(xlabel='step', ylim=(0, None))
  loss.set_title(f'training loss (mixup): {means[-1]:.2g}', fontsize=10)
  accuracy.plot(steps, 100 * parts, color=CORRECT, marker='o', markersize=4)
  accuracy.set(xlabel='step', ylim=charts.accuracy_limits([run]))
  accuracy.set_title(f'test accuracy: {100 * parts[-1]:.1f} %', fontsize=10)
  for axis in (loss, accuracy):
    axis.grid(alpha=0.3)
  right.suptitle(
    f'predictions on test images; {(predictions != labels).sum()} of '
    f'{len(labels)} are wrong: in red, with the truth',
    fontsize=10,
  )
  # First the mistakes that fit into one row, then correct images in order.
  order = np.argsort(predictions == labels, kind='stable')
  mistakes = order[: (predictions != labels).sum()][:COLUMNS]
  others = order[(predictions != labels).sum() :]
  shown = [*mistakes, *others][: ROWS * COLUMNS]
  for panel, i in zip(right.subplots(ROWS, COLUMNS).flat, shown, strict=True):
    panel.imshow(images[i], cmap='gray_r', interpolation='nearest')
    panel.set(xticks=[], yticks=[])
    right_one = predictions[i] == labels[i]
    text = (
      f'{predictions[i]}' if right_one else f'{predictions[i]} ({labels[i]})'
    )
    panel.set_title(
      text, fontsize=9, pad=2, color=CORRECT if right_one else WRONG
    )
  pictures.save(figure, out)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('folder', type=pathlib.Path, help='for the pictures')
  args = parser.parse_args()
  with waiting.watch('readme_pictures'):
    draw_quickstart(args.workdir, args.folder / 'quickstart.png')
    draw_rollout(args.workdir, args.folder / 'rollout.png')
    draw_positions(args.workdir, args.folder / 'positions.png')
    figure = charts.compute(points.compute())
    pictures.save(figure, args.folder / 'figure5.png')


if __name__ == '__main__':
  main()
