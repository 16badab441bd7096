"""PyTorch's models, as large as those of this package."""

import dataclasses

import pytest
import timm_stub

from vit_jax_repro import models
from vit_jax_repro.analysis import cost
from vit_jax_repro.benchmarks import programs, torch_models

CASE = programs.Case('infer', 'ViT-Ti_16', 1, 'float32', (64, 64))


def parameters(module):
  return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
  'library, name',
  [
    ('timm', 'ViT-Ti_16'),
    ('timm', 'BiT-M-R50x1'),
    ('timm', 'DeiT-Ti_16'),
    ('transformers', 'ViT-Ti_16'),
    ('transformers', 'DeiT-Ti_16-distilled'),
    ('transformers', 'BiT-M-R50x1'),
  ],
)
def test_create_has_as_many_parameters_as_the_flax_model(
  library, name, monkeypatch
):
  timm = timm_stub.import_timm()
  monkeypatch.setitem(__import__('sys').modules, 'timm', timm)
  case = dataclasses.replace(CASE, model=name)
  module = torch_models.create(library, case)
  model = models.create(name, num_classes=1000)
  assert parameters(module) == cost.parameters(model, (64, 64))


def test_timm_table_has_names_of_models_and_of_timm():
  timm = timm_stub.import_timm()
  for ours, theirs in torch_models.TIMM.items():
    assert models.canonical_name(ours) == ours
    assert timm.is_model(theirs), theirs


def test_step_changes_weights_only_in_training():
  import torch

  torch.manual_seed(0)
  for kind, changed in (('train', True), ('infer', False)):
    case = dataclasses.replace(CASE, kind=kind, dtype='bfloat16')
    module = torch_models.create('transformers', case)
    before = [p.detach().float().clone() for p in module.parameters()]
    step = torch_models.step(torch, module, case, compiled=False, device='cpu')
    step()
    after = [p.detach().float() for p in module.parameters()]
    same = [
      torch.allclose(a, b, rtol=1e-2, atol=1e-6)
      for a, b in zip(before, after, strict=True)
    ]
    assert all(same) is not changed
