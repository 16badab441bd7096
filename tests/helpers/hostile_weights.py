"""Hostile weights files and indices of files in several parts."""

import struct

import hostile_files as files
from hostile import Hostile
from hostile_cards import deep, read


def _without_code(path):
  """Opens a file; raises if it ran code of its own."""
  try:
    return read(path)
  finally:
    folder = path if path.is_dir() else path.parent
    ran = (folder / files.MARK).exists()
    assert not ran, f'{path} ran code'


def _is(name, make, shows):
  return Hostile(name, make, _without_code, shows)


_ARRAY = files.npy_header((3,)) + bytes(12)
CASES = (
  _is(
    '.npz of 4 MB that unpacks to 4 GB', files.bomb(2**32 - 2**20), '100 times'
  ),
  _is('.npz of 1 MB that unpacks to 1 GB', files.bomb(2**30), '100 times'),
  _is('.npz whose 200 members are one', files.overlapping, '100 times'),
  _is('.npz of 1,000,000 members', files.many_members, 'list of members of'),
  _is('.npz with Python objects', files.objects, 'pickled Python objects'),
  _is(
    '.npz: 10**12 numbers in 8 bytes',
    files.npz(files.npy_header((10**12,)) + bytes(8)),
    'but 8 are stored',
  ),
  _is(
    '.npz: array header of 4 GB',
    files.npz(b'\x93NUMPY\2\0\xff\xff\xff\xff{'),
    'header of 4294967295 bytes',
  ),
  _is(
    '.npz: array header nested 9,000 deep',
    files.npz(b'\x93NUMPY\1\0' + struct.pack('<H', 9000) + b'(' * 9000),
    'is not a NumPy array',
  ),
  _is(
    '.npz: member ../../evil',
    files.npz(_ARRAY, '../../evil'),
    "extra=['../../evil'",
  ),
  _is(
    '.npz: array named by terminal escapes',
    files.npz(_ARRAY, '\x1b[31mevil\n'),
    "extra=['?[31mevil'",
  ),
  _is('gzip bomb named .npz', files.gzip_bomb, 'compressed with gzip'),
  _is('pickle that runs a shell', files.pickled(files.Runs), 'is refused'),
  _is(
    'PyTorch file that runs a shell',
    files.torch_objects(files.Runs),
    'could run any code',
  ),
  _is(
    'PyTorch file that calls eval',
    files.torch_objects(files.Evaluates),
    'could run any code',
  ),
  _is('TorchScript program', files.torchscript, 'holds code and is not run'),
  _is(
    'PyTorch file of 3 MB that unpacks to 3 GB', files.torch_bomb, '100 times'
  ),
  _is(
    'PyTorch tensor that repeats one number to 4 TB',
    files.expanded,
    'claim 4,398,046,511,104 bytes',
  ),
  _is(
    'PyTorch file that makes a bytearray of 16 GB',
    files.allocating('builtins.bytearray'),
    'makes a bytearray',
  ),
  _is(
    'PyTorch file nested 200,000 deep',
    files.deep_pickle,
    'no state dict but a list',
  ),
  _is('PyTorch dicts with 10**12 paths', files.shared_dicts, 'not a tensor'),
  _is(
    'safetensors: header of 4 GB',
    files.safetensors(b'{}', 2**32),
    'no weights file of a known kind',
  ),
  _is(
    'safetensors: header longer than the file',
    files.safetensors(b'{}', 99 * 10**6),
    'damaged safetensors',
  ),
  _is(
    'safetensors: 1,000,000 tensors',
    files.safetensors(files.many_tensors),
    'no model has that many',
  ),
  _is(
    'safetensors: header nested 200,000 deep',
    files.safetensors(deep('{"a":', '}').encode()),
    'recursion limit',
  ),
  _is(
    'safetensors: 4 TB in an empty file',
    files.safetensors(files.tensor([10**12], 4 * 10**12)),
    'not fully covered',
  ),
  _is(
    'safetensors: 70 dimensions',
    files.safetensors(files.tensor([1] * 70, 4), rest=bytes(4)),
    'maximum supported dimension',
  ),
  _is(
    'safetensors: a dimension of 2**63',
    files.safetensors(files.tensor([0, 2**63], 0)),
    'damaged safetensors',
  ),
  _is(
    'safetensors: no values in 2**124 rows',
    files.safetensors(files.tensor([0, 2**62, 2**62], 0)),
    'array is too big',
  ),
  _is(
    'index of parts: ../../secret',
    files.index('../../secret.safetensors'),
    'in the same folder',
  ),
  _is(
    'index of parts: /etc/passwd',
    files.index('/etc/passwd'),
    'in the same folder',
  ),
  _is(
    'index of parts nested 200,000 deep',
    files.written('model.safetensors.index.json', deep),
    'nested too deep',
  ),
  _is(
    'index of parts of 6 GB',
    files.sparse('model.safetensors.index.json', b'{', 6 * 2**30),
    'over 33,554,432 bytes',
  ),
  _is(
    'msgpack: lists that claim 10**9 items',
    files.flax_file(files.nested_lists(400, 2**24)),
    'truncated file of Flax',
  ),
  _is(
    'msgpack nested 1,000,000 deep',
    files.flax_file(b'\x81\xa1x' + b'\x91' * 10**6 + b'\xc0'),
    'msgpack, or damaged',
  ),
  _is(
    'msgpack: array of Python objects',
    files.msgpack_array([1], 'object'),
    'cannot create an OBJECT',
  ),
  _is(
    'msgpack: 10**12 numbers in 8 bytes',
    files.msgpack_array([10**12], 'float32'),
    'cannot reshape',
  ),
  _is(
    'tar: member ../../evil.npz',
    files.tar(['../../evil.npz']),
    'unpack it: tar',
  ),
  _is(
    'tar: name of 8 GB', files.tar(['a'], 8 * 2**30 - 1), 'damaged tar archive'
  ),
  _is('Orbax: 4 TB in an empty folder', files.orbax, 'claims'),
  _is('pipe in place of a file', files.fifo, 'device or pipe'),
)
