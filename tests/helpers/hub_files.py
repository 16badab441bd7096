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


COMMIT = '0123456789abcdef0123456789abcdef01234567'


def repository(name, folder):
  """Returns the Hub's answers for the files of a repository.

  Args:
    name: 'USER/REPO'.
    folder: its files; weights get the SHA-256 that the Hub has of large files.
  """
  answers = {}
  for file in folder.iterdir():
    content, headers = file.read_bytes(), {'X-Repo-Commit': COMMIT}
    if file.suffix == '.safetensors':
      digits = hashlib.sha256(content).hexdigest()
      headers['X-Linked-Etag'] = f'"{digits}"'
    for revision in ('main', COMMIT):
      path = f'{name}/resolve/{revision}/{file.name}'
      answers[path] = Served(content, headers=headers)
  return answers
