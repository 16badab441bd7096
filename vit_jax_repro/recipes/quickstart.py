"""Settings for scikit-learn's digits; training takes minutes on a CPU."""

from typing import Any

# A ViT small enough to learn the 8x8-pixel digits on a CPU in minutes.
QUICKSTART_MODEL: dict[str, Any] = dict(
  model='vit',
  patch_size=(2, 2),
  hidden_size=64,
  transformer=dict(
    num_layers=4,
    mlp_dim=128,
    num_heads=4,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
  ),
  classifier='token',
)
QUICKSTART: dict[str, Any] = dict(
  dataset='digits',
  base_lr=3e-3,
  total_steps=2400,
  warmup_steps=100,
  optim='adamw',
  weight_decay=0.5,
  weight_decay_on='kernels',
  mixup_alpha=0.2,
  batch=64,
  batch_eval=360,
  shuffle_buffer=2000,
  eval_every=200,
  progress_every=20,
  checkpoint_every=400,
  pp=dict(
    train='train',
    test='test',
    crop=8,
    inception_crop=False,
    flip=False,
    shift=1,
  ),
)
