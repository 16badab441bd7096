"""Files that are refused by name, and a pattern of the line for each."""

import numpy as np
import torch
from files_that_are_read import READ, tensors, vit, write_lora

from vit_jax_repro import ports
from vit_jax_repro.ports import state_dicts


def write_float8(folder):
  from safetensors.torch import save_file

  state = tensors(vit())
  state['blocks.0.mlp.fc1.weight'] = state['blocks.0.mlp.fc1.weight'].to(
    torch.float8_e4m3fn
  )
  save_file(state, folder / 'a.safetensors')
  return folder / 'a.safetensors'


def write_int8(folder):
  state = ports.to_state_dict(vit(), 'timm')
  name = 'blocks.0.mlp.fc1.weight'
  state[name] = state[name].astype(np.int8)
  state_dicts.write(folder / 'a.safetensors', state)
  return folder / 'a.safetensors'


def parts(folder):
  path, *_ = READ['transformers 5, ViT in parts'](folder)
  return sorted(path.glob('*-of-*.safetensors'))


def write_missing_part(folder):
  first = parts(folder)[0]
  first.unlink()
  return first.parent


def write_module(folder):
  torch.save(torch.nn.Linear(2, 2), folder / 'a.pth')
  return folder / 'a.pth'


def write_script(folder):
  traced = torch.jit.trace(torch.nn.Linear(3, 2), torch.ones(1, 3))
  torch.jit.save(traced, folder / 'a.pt')
  return folder / 'a.pt'


def write_program(folder):
  program = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),))
  torch.export.save(program, folder / 'a.pt2')
  return folder / 'a.pt2'


def write_optimizer(folder):
  module = torch.nn.Linear(2, 2)
  optimizer = torch.optim.Adam(module.parameters())
  torch.save({'optimizer': optimizer.state_dict()}, folder / 'optimizer.pt')
  return folder / 'optimizer.pt'


def write_dino(folder):
  student, teacher = (
    tensors(vit(), start='backbone.'),
    tensors(vit(1)),
  )
  torch.save({'student': student, 'teacher': teacher}, folder / 'a.pth')
  return folder / 'a.pth'


def write_moco(folder):
  encoders = tensors(vit(), start='module.base_encoder.')
  encoders |= tensors(vit(1), start='module.momentum_encoder.')
  torch.save({'state_dict': encoders}, folder / 'a.pth.tar')
  return folder / 'a.pth.tar'


def write_onnx(folder):
  import onnx
  from onnx import helper

  node = helper.make_node('Identity', ['x'], ['y'])
  values = [helper.make_tensor_value_info(name, 1, [1]) for name in 'xy']
  graph = helper.make_graph([node], 'graph', values[:1], values[1:])
  onnx.save(helper.make_model(graph), folder / 'a.onnx')
  return folder / 'a.onnx'


def of_bytes(content):
  def write(folder):
    (folder / 'a.pth').write_bytes(content)
    return folder / 'a.pth'

  return write


NAMED = {
  'float8 safetensors': (write_float8, 'quantised weights'),
  'int8 safetensors': (write_int8, r'\(int8\) is of a quantised model'),
  'a part alone': (lambda f: parts(f)[0], 'one part of a model: give its f'),
  'a part that is missing': (write_missing_part, 'is not in its folder'),
  'a whole torch.nn.Module': (write_module, 'Linear'),
  'TorchScript': (write_script, 'a TorchScript program'),
  'torch.export (.pt2)': (write_program, r'a program of torch\.export'),
  "an optimizer's state alone": (write_optimizer, 'optimizer'),
  "DoRA in PEFT's layout": (
    lambda f: write_lora(f, use_dora=True)[0],
    'PEFT adapter with use_dora',
  ),
  "DINO's student and teacher": (write_dino, r"several.*\['teacher'\]"),
  "MoCo v3's two encoders": (write_moco, 'MoCo v3 .*12 heads'),
  'ONNX': (write_onnx, 'an export in ONNX'),
  'GGUF': (of_bytes(b'GGUF\x03' + bytes(90)), 'a GGUF file'),
  'an LFS pointer': (
    of_bytes(b'version https://git-lfs.github.com/spec/v1\n'),
    'a Git LFS pointer',
  ),
  'an HTML page': (of_bytes(b'<!doctype html><p>Sorry'), 'an HTML or XML page'),
}
