"""Files that are read, each written by the library that people use.

A writer in `READ` takes a folder and returns the path to read, the parameters
and, if a library's own module wrote them, the module.
"""

import argparse
import json
import os

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp
import timm_stub
import tiny_models
import torch
import torch_vits
import transformers
from flax import serialization
from flax.training import checkpoints

from vit_jax_repro import ports, weights
from vit_jax_repro.output import weight_texts
from vit_jax_repro.ports import (
  state_dicts,
  weight_sources,
)
from vit_jax_repro.weights import layouts, npz, trees

WIDTH, CLASSES = 192, 3  # a published width, whose number of heads is known


def vit(seed=0):
  spec = tiny_models.spec(CLASSES, hidden_size=WIDTH, num_heads=3, num_layers=1)
  return tiny_models.params_of(spec, seed=seed)


def tensors(params, library='timm', start=''):
  return {
    f'{start}{name}': state_dicts.to_torch(torch, array)
    for name, array in ports.to_state_dict(params, library).items()
  }


def timm_module(**arguments):
  module = timm_stub.import_timm().create_model(
    'vit_base_patch16_224', img_size=8, patch_size=4, embed_dim=WIDTH, depth=1,
    num_heads=3, num_classes=CLASSES, **arguments,
  )  # fmt: skip
  return torch_vits.filled(module)


def tree_of(module, heads=3):
  state = {n: a.numpy() for n, a in module.state_dict().items()}
  return ports.from_state_dict(state, num_heads=heads)


def saved_by(save):
  """Returns a writer of our ViT with a function (params, path) -> None."""

  def write(folder):
    params, path = vit(), folder / 'weights'
    save(params, path)
    return path, params

  return write


def torch_saved(wrap, name):
  """Returns a writer of `torch.save` of a function of our ViT's tensors."""

  def write(folder):
    params, path = vit(), folder / name
    torch.save(wrap(params), path)
    return path, params

  return write


def big_vision(params, path):
  with open(path, 'wb') as file:
    np.savez(file, **npz_arrays(params, 'big_vision'))


def npz_arrays(params, layout):
  return layouts.to_file(trees.flatten(params), layout)


def write_big_vision(folder):
  params = vit()
  big_vision(params, folder / 'a.npz')
  return folder / 'a.npz', weights.load(folder / 'a.npz')


def optimizer_target(params, path):
  state = {'optimizer': {'target': params, 'state': params}}
  with open(path, 'wb') as file:
    np.savez(file, **trees.flatten(state))


def write_bfloat16(folder):
  params = jax.tree.map(lambda a: a.astype(npz.BFLOAT16), vit())
  views = {n: a.view('V2') for n, a in trees.flatten(params).items()}
  np.savez(folder / 'a.npz', **views)
  return folder / 'a.npz', params


def write_timm_checkpoint(folder):
  """timm's own saver, with averages: its file is named *.pth.tar."""
  timm_stub.import_timm()
  from timm.utils import ModelEmaV3
  from timm.utils.checkpoint_saver import CheckpointSaver

  module = timm_module()
  average = ModelEmaV3(module)
  with torch.no_grad():
    for value in module.parameters():
      value.mul_(1.1)
  saver = CheckpointSaver(
    module, torch.optim.SGD(module.parameters(), 0.1, momentum=0.9),
    args=argparse.Namespace(model='vit_base_patch16_224', lr=0.1),
    model_ema=average, checkpoint_dir=os.fspath(folder),
  )  # fmt: skip
  saver.save_checkpoint(3, metric=0.5)
  return folder / 'last.pth.tar', module, average.module


def write_timm_raw(folder):
  path, module, _ = write_timm_checkpoint(folder)
  return path, tree_of(module), module


def write_timm_average(folder):
  path, _, average = write_timm_checkpoint(folder)
  return weight_texts.averaged(os.fspath(path)), tree_of(average), average


def write_swa(folder):
  module = timm_module()
  average = torch.optim.swa_utils.AveragedModel(module)
  average.update_parameters(module)
  torch.save(average.state_dict(), folder / 'swa.pt')
  return folder / 'swa.pt', tree_of(module), module


def write_timm_folder(folder):
  timm_stub.import_timm()
  from timm.models import _hub

  arguments = dict(
    img_size=8, patch_size=4, embed_dim=WIDTH, depth=1, num_heads=3,
    init_values=1e-5, no_embed_class=True,
  )  # fmt: skip
  module = timm_module(init_values=1e-5, no_embed_class=True)
  _hub.save_for_hf(module, folder / 'timm', model_args=arguments)
  return folder / 'timm', tree_of(module), module


def by_transformers(name, **options):
  """Returns a writer of `save_pretrained` of a small model of a class."""

  def write(folder):
    cls = getattr(transformers, name)
    mlp = {'mlp_ratio': 2} if 'Dino' in name else {'intermediate_size': 384}
    config = cls.config_class(
      hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=3,
      image_size=8, patch_size=4, num_labels=CLASSES, **mlp,
    )  # fmt: skip
    module = torch_vits.filled(cls(config))
    module.save_pretrained(folder / 'saved', **options)
    return folder / 'saved', tree_of(module), module

  return write


def original_checkpoint(params, path):
  with flax.config.temp_flip_flag('use_orbax_checkpointing', False):
    checkpoints.save_checkpoint(
      os.fspath(path), (params, {'momentum': params}, 100), 100
    )


def write_flax_transformers(folder):
  """transformers 4 wrote these; its names are written out here."""
  write = by_transformers('ViTForImageClassification')
  path, params, module = write(folder)
  flat = trees.flatten(params)
  names = {}
  layer = 'vit/encoder/layer/0'
  inner = f'{layer}/attention/attention'
  for ours, theirs in {
    'embedding': 'vit/embeddings/patch_embeddings/projection',
    'Transformer/encoder_norm': 'vit/layernorm',
    'head': 'classifier',
  }.items():
    names |= {f'{ours}/{leaf}': f'{theirs}/{leaf}' for leaf in LEAVES}
  block = 'Transformer/encoderblock_0'
  attention = f'{block}/MultiHeadDotProductAttention_0'
  for ours, theirs in {
    f'{block}/LayerNorm_0': f'{layer}/layernorm_before',
    f'{block}/LayerNorm_1': f'{layer}/layernorm_after',
    f'{attention}/query': f'{inner}/query',
    f'{attention}/key': f'{inner}/key',
    f'{attention}/value': f'{inner}/value',
    f'{attention}/out': f'{layer}/attention/output/dense',
    f'{block}/MlpBlock_0/Dense_0': f'{layer}/intermediate/dense',
    f'{block}/MlpBlock_0/Dense_1': f'{layer}/output/dense',
  }.items():
    names |= {f'{ours}/{leaf}': f'{theirs}/{leaf}' for leaf in LEAVES}
  names['cls'] = 'vit/embeddings/cls_token'
  names['Transformer/posembed_input/pos_embedding'] = (
    'vit/embeddings/position_embeddings'
  )
  theirs = {
    names[name]: a.reshape(-1, WIDTH)
    if name.endswith('out/kernel')
    else a.reshape(WIDTH, -1)
    if a.ndim == 3 and 'Attention' in name
    else a.reshape(-1)
    if a.ndim == 2 and name.endswith('bias')
    else a
    for name, a in flat.items()
  }
  (path / 'model.safetensors').unlink()
  encoded = serialization.to_bytes(trees.nest(theirs))
  (path / 'flax_model.msgpack').write_bytes(encoded)
  return path, params, module


LEAVES = ('kernel', 'bias', 'scale')


def orbax_standard(params, path):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, {'params': params})


def orbax_items(params, path):
  average = jax.tree.map(lambda a: a / 2, params)
  with ocp.CheckpointManager(path) as manager:
    items = {'ema': average, 'params': params, 'step': {'step': np.int32(3)}}
    items = {n: ocp.args.StandardSave(x) for n, x in items.items()}
    manager.save(3, args=ocp.args.Composite(**items))
    manager.wait_until_finished()


def write_dinov2_hub(folder):
  _, params, _ = by_transformers('Dinov2WithRegistersModel')(folder)
  state = tensors(params, 'dinov2')
  state = {n.replace('blocks.0.', 'blocks.0.0.'): a for n, a in state.items()}
  torch.save(state, folder / 'dinov2_vits14_reg4_pretrain.pth')
  return folder / 'dinov2_vits14_reg4_pretrain.pth', params


def of_module(cls, name):
  def write(folder):
    module = torch_vits.filled(cls())
    torch.save(module.state_dict(), folder / name)
    source = weight_sources.read(str(folder / name), num_heads=2)
    state = {n: a.numpy() for n, a in module.state_dict().items()}
    return (folder / name, 2), ports.from_state_dict(state, num_heads=2), source

  return write


def write_lora(folder, **settings):
  """Returns an adapter and its model, whose products are whole numbers."""
  base, layer = vit(), 'blocks.0.attn.proj'
  weights.save(folder / 'base.npz', base)
  state = ports.to_state_dict(base, 'timm')
  first = np.ones((2, WIDTH), np.float32)
  config = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 3, **settings}
  config['base_model_name_or_path'] = 'base.npz'
  (folder / 'adapter').mkdir()
  (folder / 'adapter/adapter_config.json').write_text(json.dumps(config))
  start = f'base_model.model.{layer}'
  state_dicts.write(
    folder / 'adapter/adapter_model.safetensors',
    {f'{start}.lora_A.weight': first, f'{start}.lora_B.weight': first.T},
  )
  weight = f'{layer}.weight'
  wanted = state | {weight: state[weight] + np.float32(3)}
  return folder / 'adapter', ports.from_state_dict(wanted)


def as_legacy(params, path):
  torch.save(tensors(params), path, _use_new_zipfile_serialization=False)


def safetensors_named_npz(params, path):
  whole = path.with_suffix('.safetensors')
  state_dicts.write(whole, ports.to_state_dict(params, 'timm'))
  os.replace(whole, path)


READ = {
  "the authors' names in .npz": saved_by(
    lambda params, path: weights.save(path, params)
  ),
  "big_vision's .npz": write_big_vision,
  '.npz with optimizer/target/...': saved_by(optimizer_target),
  'bfloat16 in .npz (V2)': write_bfloat16,
  'safetensors without an ending': saved_by(safetensors_named_npz),
  'torch.save, zip, weights.ckpt': torch_saved(tensors, 'weights.ckpt'),
  'torch.save, before 1.6': saved_by(as_legacy),
  "timm's CheckpointSaver": write_timm_raw,
  "timm's CheckpointSaver, --ema": write_timm_average,
  "timm's save_for_hf, DeiT III": write_timm_folder,
  "Lightning's layout": torch_saved(
    lambda params: {
      'epoch': 3,
      'pytorch-lightning_version': '2.6.6',
      'state_dict': tensors(params, start='model.'),
      'optimizer_states': [],
      'hyper_parameters': {'lr': 0.1},
    },
    'last.ckpt',
  ),
  "facebookresearch/deit's layout": torch_saved(
    lambda params: {
      'model': tensors(params), 'args': argparse.Namespace(lr=0.1)
    },
    'checkpoint.pth',
  ),
  'DistributedDataParallel': torch_saved(
    lambda params: tensors(params, start='module.'), 'ddp.pt'
  ),
  'torch.optim.swa_utils.AveragedModel': write_swa,
  'transformers 5, ViT': by_transformers('ViTForImageClassification'),
  'transformers 5, ViT in parts': by_transformers(
    'ViTForImageClassification', max_shard_size='200KB'
  ),
  'transformers 5, DeiT with one head': by_transformers(
    'DeiTForImageClassification'
  ),
  'transformers 5, DeiT with two heads': by_transformers(
    'DeiTForImageClassificationWithTeacher'
  ),
  'transformers 5, DINOv2': by_transformers('Dinov2ForImageClassification'),
  'transformers 5, DINOv2 with registers': by_transformers(
    'Dinov2WithRegistersForImageClassification'
  ),
  'facebookresearch/dinov2, in chunks': write_dinov2_hub,
  'transformers 4, flax_model.msgpack': write_flax_transformers,
  "the original trainer's checkpoint_100": saved_by(original_checkpoint),
  'flax.serialization.to_bytes': saved_by(
    lambda params, path: path.write_bytes(serialization.to_bytes(params))
  ),
  "Orbax's StandardCheckpointer": saved_by(orbax_standard),
  "Orbax's CheckpointManager, items": saved_by(orbax_items),
  "LoRA in PEFT's layout": write_lora,
}  # fmt: skip
