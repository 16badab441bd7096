"""PyTorch ViTs with the structure and names of two libraries.

There is no torchvision for the CPU build of torch in the package index, and
jeonsworld/ViT-pytorch is no package.
"""

import torch
from torch import nn

PATCH, WIDTH, LAYERS, HEADS, HIDDEN, CLASSES, SIZE = 4, 24, 2, 3, 40, 5, 12
TOKENS = (SIZE // PATCH) ** 2 + 1


class _TorchvisionBlock(nn.Module):
  def __init__(self, names):
    super().__init__()
    self.ln_1 = nn.LayerNorm(WIDTH, eps=1e-6)
    self.self_attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    self.ln_2 = nn.LayerNorm(WIDTH, eps=1e-6)
    layers = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
    self.mlp = nn.ModuleDict(dict(zip(names, layers, strict=True)))

  def forward(self, x):
    y = self.ln_1(x)
    x = x + self.self_attention(y, y, y, need_weights=False)[0]
    first, second = self.mlp.values()
    return x + second(nn.functional.gelu(first(self.ln_2(x))))


class Torchvision(nn.Module):
  """torchvision's VisionTransformer.

  Args:
    pre_logits: width of a tanh layer before the head, or None.
    names: names of the layers of the MLP.
  """

  def __init__(self, pre_logits=None, names=('0', '3')):
    super().__init__()
    self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
    self.conv_proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
    self.encoder = nn.Module()
    self.encoder.pos_embedding = nn.Parameter(torch.zeros(1, TOKENS, WIDTH))
    blocks = {f'encoder_layer_{i}': _TorchvisionBlock(names) for i in range(2)}
    self.encoder.layers = nn.ModuleDict(blocks)
    self.encoder.ln = nn.LayerNorm(WIDTH, eps=1e-6)
    self.heads = nn.ModuleDict()
    if pre_logits:
      self.heads['pre_logits'] = nn.Linear(WIDTH, pre_logits)
    self.heads['head'] = nn.Linear(pre_logits or WIDTH, CLASSES)

  def forward(self, images):  # [B, 3, H, W]
    x = self.conv_proj(images).flatten(2).transpose(1, 2)
    x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
    x = x + self.encoder.pos_embedding
    for block in self.encoder.layers.values():
      x = block(x)
    x = self.encoder.ln(x)[:, 0]
    if 'pre_logits' in self.heads:
      x = torch.tanh(self.heads['pre_logits'](x))
    return self.heads['head'](x)


class _JeonsworldBlock(nn.Module):
  def __init__(self):
    super().__init__()
    self.attention_norm = nn.LayerNorm(WIDTH, eps=1e-6)
    self.ffn_norm = nn.LayerNorm(WIDTH, eps=1e-6)
    self.ffn = nn.Module()
    self.ffn.fc1 = nn.Linear(WIDTH, HIDDEN)
    self.ffn.fc2 = nn.Linear(HIDDEN, WIDTH)
    self.attn = nn.ModuleDict(
      {part: nn.Linear(WIDTH, WIDTH) for part in ('query', 'key', 'value')}
    )
    self.attn['out'] = nn.Linear(WIDTH, WIDTH)

  def forward(self, x):
    y = self.attention_norm(x)
    q, k, v = (
      self.attn[part](y).unflatten(-1, (HEADS, -1)).transpose(1, 2)
      for part in ('query', 'key', 'value')
    )
    y = nn.functional.scaled_dot_product_attention(q, k, v)
    x = x + self.attn['out'](y.transpose(1, 2).flatten(2))
    y = nn.functional.gelu(self.ffn.fc1(self.ffn_norm(x)))
    return x + self.ffn.fc2(y)


class Jeonsworld(nn.Module):
  """jeonsworld/ViT-pytorch's VisionTransformer; returns only the logits."""

  def __init__(self):
    super().__init__()
    embeddings, encoder = nn.Module(), nn.Module()
    embeddings.patch_embeddings = nn.Conv2d(3, WIDTH, PATCH, PATCH)
    embeddings.position_embeddings = nn.Parameter(torch.zeros(1, TOKENS, WIDTH))
    embeddings.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
    encoder.layer = nn.ModuleList(_JeonsworldBlock() for _ in range(LAYERS))
    encoder.encoder_norm = nn.LayerNorm(WIDTH, eps=1e-6)
    self.transformer = nn.Module()
    self.transformer.embeddings, self.transformer.encoder = embeddings, encoder
    self.head = nn.Linear(WIDTH, CLASSES)

  def forward(self, images):  # [B, 3, H, W]
    embeddings = self.transformer.embeddings
    x = embeddings.patch_embeddings(images).flatten(2).transpose(1, 2)
    x = torch.cat([embeddings.cls_token.expand(len(x), -1, -1), x], 1)
    x = x + embeddings.position_embeddings
    for block in self.transformer.encoder.layer:
      x = block(x)
    return self.head(self.transformer.encoder.encoder_norm(x)[:, 0])


def filled(module):
  """Sets every parameter of a module at random; returns the module."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for value in module.parameters():
      scale = max(1, value[0].numel()) ** -0.5
      value.copy_(scale * torch.randn(value.shape, generator=generator))
  return module.eval()
