"""Files of the Hub with random weights, and its answers for them."""

import hashlib

import numpy as np
from file_server import Served


def safetensors_of(params, library):
  """Returns the bytes of a port's safetensors file."""
  import safetensors.numpy

  from vit_jax_repro import ports

  state = ports.to_state_dict(params, library)
  state = {name: np.ascontiguousarray(array) for name, array in state.items()}
  return safetensors.numpy.save(state, metadata={'format': 'pt'})


def hub_files(content, path):
  """Returns the Hub's responses for a large file: a redirect and the bytes."""
  digits = hashlib.sha256(content).hexdigest()
  redirect = {'Location': '/blob', 'X-Linked-Etag': f'"{digits}"'}
  return {path: Served(b'', 302, headers=redirect), 'blob': Served(content)}
