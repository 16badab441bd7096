"""Writes hostile archives and weights files; for `hostile_weights`."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import tiny_models

from vit_jax_repro.weights import trees

_BLOCK = 2**20  # bytes of zeros in one piece of a bomb
MARK = 'executed'  # a file that hostile code would write


def zeros(size):
  """Returns zeros, deflated, without holding them."""
  packer = zlib.compressobj(9, zlib.DEFLATED, -15)
  block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
  return block * (size // _BLOCK) + deflated(b'')


def raw_zip(path, members):
  """Writes a zip archive of deflated members with the sizes that they claim.

  Args:
    path: of the archive.
    members: (name, deflated bytes, claimed size, checksum). Equal bytes are
      stored once.
  """
  places, body, listing = {}, [], []
  place = 0
  for name, packed, size, crc in members:
    encoded = name.encode()
    fields = struct.pack('<HHHHHI', 20, 0, 8, 0, 33, crc)
    fields += struct.pack('<IIHH', len(packed), size, len(encoded), 0)
    if packed not in places:
      places[packed] = place
      body += [b'PK\3\4' + fields + encoded, packed]
      place += len(body[-2]) + len(packed)
    listing.append(b'PK\1\2' + struct.pack('<H', 20) + fields)
    listing.append(struct.pack('<HHHII', 0, 0, 0, 0, places[packed]) + encoded)
  listed = b''.join(listing)
  count = len(members) % 2**16
  end = struct.pack('<HHHHIIH', 0, 0, count, count, len(listed), place, 0)
  path.write_bytes(b''.join([*body, listed, b'PK\5\6', end]))
  return path


def deflated(content):
  packer = zlib.compressobj(9, zlib.DEFLATED, -15)
  return packer.compress(content) + packer.flush()


def member(name, content):
  return name, deflated(content), len(content), zlib.crc32(content)


def sound():
  """Returns {name: contents} of a sound model's .npz file."""
  found = {}
  params = tiny_models.params_of(tiny_models.spec(3))
  for name, array in trees.flatten(params).items():
    file = io.BytesIO()
    np.save(file, array)
    found[name] = file.getvalue()
  return found


def replaced(name, *others):
  """Makes a sound .npz file in which one array is replaced."""

  def make(folder):
    members = [member(f'{n}.npy', x) for n, x in sound().items() if n != name]
    return raw_zip(folder / 'model.npz', [*members, *others])

  return make


def npy_header(shape, descr='<f4'):
  """Returns the .npy header for an array of any size."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    file, {'descr': descr, 'fortran_order': False, 'shape': shape}
  )
  return file.getvalue()


def npz(content, name='head/bias'):
  return replaced('head/bias', member(f'{name}.npy', content))


def bomb(size):
  def make(folder):
    bomb = 'head/kernel.npy', zeros(size), size, 0
    return replaced('head/kernel', bomb)(folder)

  return make


def overlapping(folder):
  packed, size = zeros(2**25), 2**25
  members = [(f'a{i}.npy', packed, size, 0) for i in range(200)]
  return replaced('', *members)(folder)


def many_members(folder):
  packed = deflated(b'')
  members = [(f'{"x" * 100}{i}.npy', packed, 0, 0) for i in range(1_000_000)]
  return raw_zip(folder / 'many.npz', members)


class Runs:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f'touch {self.path}',)


class Evaluates(Runs):
  def __reduce__(self):
    return eval, (f'open({str(self.path)!r}, "w")',)


def objects(folder):
  file = io.BytesIO()
  np.save(file, np.array([Runs(folder / MARK)] * 3, object))
  return npz(file.getvalue())(folder)


def pickled(kind):
  """Makes a plain pickle with an object that runs code."""

  def make(folder):
    path = folder / 'model.pth'
    path.write_bytes(pickle.dumps({'x': kind(folder / MARK)}, protocol=2))
    return path

  return make


def torch_objects(kind):
  """Makes a PyTorch file with an object that runs code."""

  def make(folder):
    content = pickle.dumps({'x': kind(folder / MARK)}, protocol=2)
    return torch_archive(folder / 'model.pth', content)

  return make


def torch_archive(path, content):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a/data.pkl', content)
    archive.writestr('a/version', '3\n')
  return path


def torch_bomb(folder):
  size = 3 * 2**30
  packed = zeros(size)
  return raw_zip(
    folder / 'bomb.pth',
    [('a/data.pkl', packed, size, 0), member('a/version', b'3\n')],
  )


def expanded(folder):
  import torch

  path = folder / 'expanded.pth'
  torch.save({'head.weight': torch.zeros(1).expand(2**20, 2**20)}, path)
  return path


def allocating(code):
  """Makes a PyTorch file whose pickle calls a permitted class with 2**34."""

  def make(folder):
    module, name = code.rsplit('.', 1)
    content = (
      b'\x80\x02}X\x01\x00\x00\x00x'
      + f'c{module}\n{name}\n'.encode()
      + b'\x8a\x05'
      + (2**34).to_bytes(5, 'little')
      + b'\x85Rs.'
    )
    return torch_archive(folder / 'allocating.pth', content)

  return make


def deep_pickle(folder):
  content = b'\x80\x02' + b']' * 200_000 + b'a' * 199_999 + b'.'
  return torch_archive(folder / 'deep.pth', content)


def shared_dicts(folder):
  """Writes dicts in which 10**12 paths lead to the same dict."""
  content, inner = [b'\x80\x02}q\x00'], b'h\x00'
  for place in range(1, 5):
    keys = [
      b'X\x04\x00\x00\x00' + f'{key:04}'.encode() + inner for key in range(1000)
    ]
    inner = b'h' + bytes([place])
    content += [b'}q' + bytes([place]), b'(', *keys, b'u']
  return torch_archive(folder / 'shared.pth', b''.join(content) + b'.')


def torchscript(folder):
  path = torch_archive(folder / 'script.pt', b'\x80\x02}.')
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('a/constants.pkl', b'\x80\x02).')
    archive.writestr('a/code/x.py', f'open("{folder / MARK}", "w")')
  return path


def safetensors(header, length=None, rest=b''):
  def make(folder):
    path = folder / 'model.safetensors'
    encoded = header() if callable(header) else header
    size = len(encoded) if length is None else length
    path.write_bytes(struct.pack('<Q', size) + encoded + rest)
    return path

  return make


def tensor(shape, end):
  """Returns the header of a file with one array, which ends at a byte."""
  entry = {'dtype': 'F32', 'shape': shape, 'data_offsets': [0, end]}
  return json.dumps({'a': entry}).encode()


def many_tensors():
  entries = (
    f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    for i in range(1_000_000)
  )
  return f'{{{",".join(entries)}}}'.encode()


def written(name, content):
  """Makes a file of bytes or a text, or of what a function returns."""

  def make(folder):
    found = content() if callable(content) else content
    path = folder / name
    path.write_bytes(found.encode() if isinstance(found, str) else found)
    return path

  return make


def index(part):
  return written(
    'model.safetensors.index.json',
    json.dumps({'weight_map': {'head.weight': part}}),
  )


def sparse(name, start, size):
  """Makes a file that claims gigabytes and occupies one block."""

  def make(folder):
    path = folder / name
    with open(path, 'wb') as file:
      file.write(start)
      file.truncate(size)
    return path

  return make


def flax_file(content):
  return written('checkpoint_1', content)


def msgpack_array(shape, dtype, data=b'\0' * 8):
  import msgpack

  packed = msgpack.packb((shape, dtype, data))
  return flax_file(
    msgpack.packb({'params': {'head': msgpack.ExtType(1, packed)}})
  )


def nested_lists(depth, size):
  """Returns msgpack of lists in lists, each of which claims many items."""
  claims = b'\xdd' + size.to_bytes(4, 'big')
  return b'\x81\xa1x' + claims * depth + bytes(size)


def tar(names, size=0):
  def make(folder):
    path = folder / 'weights.tar'
    with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as archive:
      for name in names:
        archive.addfile(tarfile.TarInfo(name))
    if size:
      info = tarfile.TarInfo('././@LongLink')
      info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
      path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    return path

  return make


def orbax(folder):
  """Writes a checkpoint that claims an array of 4 TB and has no bytes of it."""
  import orbax.checkpoint as ocp

  path = folder / 'checkpoint'
  params = tiny_models.params_of(tiny_models.spec(3))
  saver = ocp.PyTreeCheckpointer(use_ocdbt=False, use_zarr3=False)
  saver.save(path, {'params': params})
  array = path / 'params.head.kernel' / '.zarray'
  described = json.loads(array.read_text())
  described['shape'] = described['chunks'] = [10**6, 10**6]
  array.write_text(json.dumps(described))
  for chunk in array.parent.glob('[0-9]*'):
    chunk.unlink()
  return path


def gzip_bomb(folder):
  path = folder / 'model.npz'
  start = b'\x1f\x8b\x08\0\0\0\0\0\2\xff'
  path.write_bytes(start + zeros(2**30) + bytes(8))
  return path


def fifo(folder):
  os.mkfifo(folder / 'pipe.npz')
  return folder / 'pipe.npz'
