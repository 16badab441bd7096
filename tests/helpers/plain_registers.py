"""A plain PyTorch ViT with LayerScale and registers, and faults to plant in it.

It has names of its own, like `plain_vit`, whose blocks it uses.
"""

import dataclasses

import plain_vit
import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Settings:
  """Properties of the port; the defaults are the reference's."""

  pool: str = 'token'  # the reference's classifier, or a fault
  fc_norm: bool = False  # the last norm is after the mean
  gains: str = 'both'  # 'none', 'attention', 'mlp', 'exchanged'
  # 'none', 'first', 'last': before the class token or after the patches.
  registers: str = 'between'
  places: str = 'patches'  # 'in order', 'as the token': the registers', too


class Gain(nn.Module):
  def __init__(self, width):
    super().__init__()
    self.gamma = nn.Parameter(torch.ones(width))

  def forward(self, x):
    return x * self.gamma


class Layer(plain_vit.Layer):
  def __init__(self, width, inner, heads, settings, number):
    super().__init__(width, inner, heads, plain_vit.Settings(act='erf'), number)
    self.gains = settings.gains
    self.gain_a, self.gain_b = Gain(width), Gain(width)

  def forward(self, x):
    gain_a, gain_b = self.gain_a, self.gain_b
    if self.gains == 'exchanged':
      gain_a, gain_b = gain_b, gain_a
    y = self.mix(self.ln_a(x))
    x = x + (gain_a(y) if self.gains not in ('none', 'mlp') else y)
    y = self.ffn(self.ln_b(x))
    return x + (gain_b(y) if self.gains not in ('none', 'attention') else y)


class PlainRegisters(nn.Module):
  def __init__(self, sizes, number, inputs, settings):
    super().__init__()
    width, inner, heads, layers, patch, tokens, classes = sizes
    self.settings, self.number = settings, number
    self.to_patches = nn.Conv2d(3, width, patch, patch)
    self.token = nn.Parameter(torch.zeros(1, 1, width))
    self.registers = nn.Parameter(torch.zeros(1, number, width))
    self.places = nn.Parameter(torch.zeros(1, tokens, width))
    self.tower = nn.ModuleList(
      Layer(width, inner, heads, settings, i) for i in range(layers)
    )
    self.ln_end = nn.LayerNorm(width, 1e-6)
    self.classify = nn.Linear(inputs, classes)

  def forward(self, images):
    s = self.settings
    patches = self.to_patches(images).flatten(2).transpose(1, 2)
    x = self.tokens(patches)
    for layer in self.tower:
      x = layer(x)
    x = self.pooled(x if s.fc_norm else self.ln_end(x))
    return self.classify(self.ln_end(x) if s.fc_norm else x)

  def tokens(self, patches):
    s, number = self.settings, self.number
    token = self.token.expand(len(patches), -1, -1)
    registers = self.registers.expand(len(patches), -1, -1)
    if s.places == 'in order':
      x = torch.cat([token, registers, patches], 1)
      size = self.places.shape[1]
      return torch.cat([x[:, :size] + self.places, x[:, size:]], 1)
    if s.places == 'as the token':
      registers = registers + self.places[:, :1]
    token = token + self.places[:, :1]
    patches = patches + self.places[:, 1:]
    order = {
      'between': [token, registers, patches],
      'first': [registers, token, patches],
      'last': [token, patches, registers],
      'none': [token, patches],
    }
    assert number == registers.shape[1]
    return torch.cat(order[s.registers], 1)

  def pooled(self, x):
    first = 1 + self.number
    parts = {
      'token': [x[:, 0]],
      'register': [x[:, 1]],
      'gap': [x[:, first:].mean(1)],
      'registers too': [x[:, 1:].mean(1)],
      'all': [x.mean(1)],
      'token_and_gap': [x[:, 0], x[:, first:].mean(1)],
      'gap and token': [x[:, first:].mean(1), x[:, 0]],
      'token and registers too': [x[:, 0], x[:, 1:].mean(1)],
      'token and all': [x[:, 0], x.mean(1)],
      'token and nothing': [x[:, 0], torch.zeros_like(x[:, 0])],
    }
    return torch.cat(parts[self.settings.pool], -1)


def vit(params, num_heads, **settings):
  """Returns the port with the weights of a canonical tree."""
  sizes = plain_vit.sizes_of(params, num_heads)
  module = PlainRegisters(
    sizes,
    params['registers'].shape[1],
    params['head']['kernel'].shape[0],
    Settings(**settings),
  )
  return plain_vit.filled(module, plain_vit.state_of(params))
