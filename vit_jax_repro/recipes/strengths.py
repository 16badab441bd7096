"""AugReg's seven strengths of augmentation."""

from typing import Any

# AugReg (arXiv:2106.10270), section 3.4, by the names that its released files
# carry: (RandAugment's layers, its magnitude, mixup's alpha), as spelled out
# in big_vision/configs/vit_i21k.py.
AUGREG_STRENGTHS = {
  'none': (0, 0, 0.0),
  'light1': (2, 0, 0.0),  # not nothing: see data/randaugment.py
  'light2': (2, 10, 0.2),
  'medium1': (2, 15, 0.2),
  'medium2': (2, 15, 0.5),
  'strong1': (2, 20, 0.5),
  'strong2': (2, 20, 0.8),
}


def augreg_strength(name: str) -> dict[str, Any]:
  """AugReg's augmentation: dict(layers, magnitude, mixup_alpha).

  Layers 0 and alpha 0.0 mean none.

  Raises:
    ValueError: a name that is not in `AUGREG_STRENGTHS`.
  """
  if name not in AUGREG_STRENGTHS:
    raise ValueError(
      f'unknown augmentation strength {name!r}; choose from '
      f'{list(AUGREG_STRENGTHS)}'
    )
  layers, magnitude, mixup_alpha = AUGREG_STRENGTHS[name]
  return dict(layers=layers, magnitude=magnitude, mixup_alpha=mixup_alpha)
