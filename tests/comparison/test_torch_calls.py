"""Tensors that modules of PyTorch take and return."""

import pytest

from vit_jax_repro.comparison import torch_calls


@pytest.mark.parametrize('answer', ['tuple', 'mapping', 'nested'])
def test_first_tensor_looks_inside_containers(answer):
  import torch

  x = torch.ones(1)
  value = {
    'tuple': (None, x, 2),
    'mapping': {'a': 3, 'b': x},
    'nested': ([], ({'a': x},)),
  }[answer]
  assert torch_calls.first_tensor(torch, value) is x
