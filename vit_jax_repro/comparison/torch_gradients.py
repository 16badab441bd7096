"""Gradients of a port; see `gradients` for the loss."""

from collections.abc import Mapping

import numpy as np

from vit_jax_repro import ports
from vit_jax_repro.comparison import gradients, torch_calls, torch_models
from vit_jax_repro.errors import InputError
from vit_jax_repro.weights import trees


def of_port(
  port: torch_models.Port,
  images: np.ndarray,
  places: Mapping[str, torch_calls.Place],
  *,
  dtype: str,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray | None]]:
  """Returns a port's gradients.

  Args:
    port: the port, in evaluation mode.
    images: [B, H, W, 3].
    places: {name of the reference: place of the activation}.
    dtype: dtype of the computation.

  Returns:
    {name: gradient by the activation}; zeros where none arrives. {name in the
    port: gradient by the parameter, or None where none arrives}.

  Raises:
    InputError: the port fails, or its logits cannot be differentiated.
  """
  torch = torch_models.require_torch()
  module = port.module.to(getattr(torch, dtype))
  kept = {}

  def keep(name, tensor):
    if name not in kept:
      kept[name] = torch.zeros_like(tensor)
      if tensor.requires_grad:
        # `retain_grad` would keep the gradient after a change in place.
        tensor.register_hook(
          lambda gradient: kept.update({name: gradient.detach().clone()})
        )

  module.zero_grad(set_to_none=True)
  with torch.enable_grad(), torch_calls.watching(torch, module, places, keep):
    with torch_models.failing_in_one_line(port, images):
      tensor = torch_models.as_tensor(images, dtype)
      logits = torch_models.logits_of(module(tensor, **port.keywords))
    if not isinstance(logits, torch.Tensor) or not logits.requires_grad:
      raise InputError(
        f'the logits of {port.name} do not depend on parameters that require '
        'gradients; leave out --gradients'
      )
    keep('logits', logits)
    labels = torch.from_numpy(gradients.labels(*logits.shape))
    with torch_models.guarded(
      f'the backward pass of {port.name} fails', 'leave out --gradients'
    ):
      torch.nn.functional.cross_entropy(logits, labels).backward()
  by_parameter = {
    name: None if value.grad is None else value.grad.numpy().copy()
    for name, value in module.named_parameters()
  }
  module.zero_grad(set_to_none=True)
  return {n: g.numpy() for n, g in kept.items()}, by_parameter


def canonical(
  port: torch_models.Port,
  by_parameter: Mapping[str, np.ndarray | None],
  library: str | None,
  num_heads: int | None,
) -> dict[str, np.ndarray] | None:
  """Returns gradients by parameters under canonical names, flat.

  Returns None if the names of the port's parameters are unknown. A parameter
  without a gradient counts as one with a gradient of zeros. Statistics are
  left out.

  Args:
    port: the port.
    by_parameter: result of `of_port`.
    library: library whose names the port has, or None.
    num_heads: A of the attention.
  """
  if library is None:
    return None
  state = {}
  for name, value in port.module.state_dict().items():
    given = by_parameter.get(name)
    state[name] = np.zeros(tuple(value.shape)) if given is None else given
  tree = ports.from_state_dict(state, num_heads=num_heads, library=library)
  flat = trees.flatten(tree)
  return {name: a for name, a in flat.items() if not trees.is_statistic(name)}
