"""Draws the pictures of README.md from a finished quickstart run.

  python examples/readme_pictures.py runs/quickstart docs

quickstart.png shows the training curve and predictions on digits. rollout.png
shows the attention rollout over some digits.
"""

import argparse
import json
import pathlib

import jax
import matplotlib
import numpy as np

from vit_jax_repro.analysis import inspecting, pictures, plots
from vit_jax_repro.data import datasets, pipeline
from vit_jax_repro.inference import classify, restoring
from vit_jax_repro.output import waiting

ROWS, COLUMNS = 4, 8
CORRECT, WRONG = '#2a78b8', '#c0392b'


def read_metrics(workdir):
  """Returns steps, losses, tested steps and accuracies of metrics.jsonl."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  tested = [line for line in lines if 'accuracy_test' in line]
  return (
    [line['step'] for line in lines],
    [line['train_loss'] for line in lines],
    [line['step'] for line in tested],
    [100 * line['accuracy_test'] for line in tested],
  )


def digits_of_test(restored, image_size):
  """Returns a batch of all test images, preprocessed, and labels."""
  split = datasets.open_split('digits', 'test')
  (batch,) = pipeline.evaluation_batches(
    split,
    preprocessing=restored.preprocessing,
    image_size=image_size,
    batch_size=split.num_examples,
  )
  return batch


def predicted_digits(workdir):
  """Returns test images [360, 8, 8] in [-1, 1], labels, predictions [360]."""
  restored = restoring.restore(workdir / 'model.npz')
  batch = digits_of_test(restored, restored.image_size)
  params = jax.device_put(restored.params)
  found = classify.probabilities(restored.model, params, batch['image'])
  return batch['image'][..., 0], batch['label'], found.argmax(-1)


def draw_rollout(workdir, out):
  """Draws attention rollout over the first image of three digits.

  The images have twice the model's size. The position embeddings are resized
  with them.
  """
  weights = workdir / 'model.npz'
  restored = restoring.restore(weights)
  size = tuple(2 * side for side in restored.image_size)
  batch = digits_of_test(restored, size)
  labels = batch['label'].tolist()
  images = batch['image'][[labels.index(digit) for digit in (0, 3, 7)]]
  found = inspecting.rollouts(weights, images)
  pictures.save(plots.rollout(found), out)


def draw_quickstart(workdir, out):
  """Draws the training curve and predictions."""
  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  steps, losses, tested, accuracies = read_metrics(workdir)
  images, labels, predictions = predicted_digits(workdir)
  figure = plt.figure(figsize=(11, 3.6), dpi=120, layout='constrained')
  left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
  axis = left.subplots()
  axis.plot(steps, losses, color='0.6', linewidth=1)
  axis.set(xlabel='step', ylabel='training loss', ylim=(0, None))
  axis.set_title(f'test accuracy {accuracies[-1]:.1f} % of 360 images')
  twin = axis.twinx()
  twin.plot(tested, accuracies, color=CORRECT, marker='o', markersize=4)
  twin.set(ylim=(0, 102))
  twin.set_ylabel('test accuracy, %', color=CORRECT)
  right.suptitle('test images and predictions; mistakes in red, with the truth')
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
  figure.savefig(out)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('folder', type=pathlib.Path, help='for the pictures')
  args = parser.parse_args()
  with waiting.watch('readme_pictures'):
    draw_quickstart(args.workdir, args.folder / 'quickstart.png')
    draw_rollout(args.workdir, args.folder / 'rollout.png')


if __name__ == '__main__':
  main()
