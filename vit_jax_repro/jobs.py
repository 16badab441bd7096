"""The commands as functions for Python and notebooks, with their results."""

from vit_jax_repro.comparison.crosschecking import Crosscheck, crosscheck
from vit_jax_repro.exporting.exports import Exported, export
from vit_jax_repro.inference.evaluation import Evaluation, evaluate
from vit_jax_repro.inference.extraction import Extracted, extract
from vit_jax_repro.inference.fewshot import FewShot, fewshot
from vit_jax_repro.inference.prediction import (
  Prediction,
  predict,
  predict_each,
)
from vit_jax_repro.ports.converting import Converted, convert
from vit_jax_repro.published.fetching import Fetched, fetch
from vit_jax_repro.runs.results import TrainResult
from vit_jax_repro.runs.train import train

__all__ = [
  'Converted',
  'Crosscheck',
  'Evaluation',
  'Exported',
  'Extracted',
  'Fetched',
  'FewShot',
  'Prediction',
  'TrainResult',
  'convert',
  'crosscheck',
  'evaluate',
  'export',
  'extract',
  'fetch',
  'fewshot',
  'predict',
  'predict_each',
  'train',
]
