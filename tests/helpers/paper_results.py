"""Measured results of rows of the paper."""

from vit_jax_repro.paper import verdict
from vit_jax_repro.paper.results import Result

L16 = 'vit-table-5-vit-l-16-imagenet-21k-30-or-90ep-imagenet'
B16 = 'vit-table-5-vit-b-16-imagenet-21k-90ep-imagenet'
SCRATCH = 'vit-table-5-vit-b-16-imagenet-300ep-imagenet'


def result(row, accuracy):
  measurement = verdict.Measurement((accuracy,), 50_000)
  return Result(row, f'results/{row}.json', measurement, {})


RESULTS = {L16: result(L16, 0.8522), B16: result(B16, 0.8452)}
