"""The studies: the papers' claims and the sides that each study compares.

A side is one chain of trainings. The published number next to a side is only
for comparison: its model and data are of another size.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.paper import table
from vit_jax_repro.studies.outcome import ACCURACY, LOCALITY, Claim

_VIT = 'ViT paper, arXiv:2010.11929'
_WARM = 'Ash & Adams, arXiv:1910.08475'


@dataclasses.dataclass(frozen=True)
class Study:
  """The subject of a study.

  Fields:
    title: the subject in words.
    claims: the claims to be judged.
    published: for some sides, the id of a row of `paper.table`.
    measures: quantities measured for each side: ACCURACY, LOCALITY.
  """

  title: str
  claims: tuple[Claim, ...]
  published: Mapping[str, str] = dataclasses.field(default_factory=dict)
  measures: tuple[str, ...] = (ACCURACY,)

  def published_values(self) -> dict[str, str]:
    """Returns {side: the published number as it is printed}."""
    return {
      side: table.find(row).published for side, row in self.published.items()
    }

  def published_on(self) -> str:
    """Returns the data set of the published numbers, '' if there are none."""
    rows = map(table.find, self.published.values())
    return ' or '.join(
      sorted(
        {
          row.eval_dataset
          if row.metric == 'top1_pct'
          else f'{row.eval_dataset} ({table.METRICS[row.metric]})'
          for row in rows
        }
      )
    )


def more(
  text: str, source: str, better: str, worse: str, **fields: Any
) -> Claim:
  """Returns the claim that side `better` is above side `worse`."""
  return Claim(text, source, {better: 1.0, worse: -1.0}, **fields)


# Sides of Table 8, in its order: (kind, place). The paper has only one place
# for relative embeddings; the others are ours.
POSITIONS = {
  'none': ('none', 'stem'),
  '1-D, stem': ('learned', 'stem'),
  '1-D, every layer': ('learned', 'every_layer'),
  '1-D, shared': ('learned', 'shared'),
  '2-D, stem': ('learned2d', 'stem'),
  '2-D, every layer': ('learned2d', 'every_layer'),
  '2-D, shared': ('learned2d', 'shared'),
  'relative, stem': ('relative', 'stem'),
  'relative, every layer': ('relative', 'every_layer'),
  'relative, shared': ('relative', 'shared'),
}
_ROW = 'vit-table-8-vit-b-16-posemb-{}-jft-300m-imagenet-5shot-linear-top1-pct'
_WORDS = {'1-D': '1-d-learned', '2-D': '2-d-learned'}
_PLACES = {
  'stem': 'added-at-stem',
  'every layer': 'added-at-every-layer',
  'shared': 'added-at-every-layer-shared',
}


def _table_8():
  rows = {'none': _ROW.format('none-added-at-stem')}
  for side in POSITIONS:
    kind, _, place = side.partition(', ')
    if kind in _WORDS:
      rows[side] = _ROW.format(f'{_WORDS[kind]}-{_PLACES[place]}')
  # The paper's only number for relative positions; models/positions.py explains
  # why it belongs to this side.
  rows['relative, every layer'] = _ROW.format('relative-added-at-stem')
  return rows


_TABLE_6 = 'vit-table-6-{}-16-jft-300m-7ep-imagenet'
_RESNET = (
  'vit-table-7-resnet50x1-{}-pre-training-jft-300m-7ep-average-5-datasets'
)

STUDIES = {
  'transfer': Study(
    title='Few examples of new classes: pre-trained or from scratch',
    claims=(
      more(
        'Pre-training helps where examples are few',
        f'{_VIT}, 4.2 and Table 5',
        'pre-trained',
        'from scratch',
      ),
    ),
    published={
      'pre-trained': 'vit-table-5-vit-b-16-imagenet-21k-90ep-imagenet',
      'from scratch': 'vit-table-5-vit-b-16-imagenet-300ep-imagenet',
    },
  ),
  'position_embeddings': Study(
    title='Kinds of position embedding, and where they are added',
    claims=(
      more(
        'Position embeddings help',
        f'{_VIT}, D.4 and Table 8',
        '1-D, stem',
        'none',
      ),
      *(
        Claim(
          f'"{other}" and "{one}" differ little, compared with having none',
          f'{_VIT}, D.4 and Table 8',
          {other: 1.0, one: -1.0},
          kind='alike',
          margin=0.25,  # in the paper no two differ by more than an eighth
          gap={'1-D, stem': 1.0, 'none': -1.0},
        )
        for one, other in (
          ('1-D, stem', '1-D, every layer'),
          ('1-D, stem', '1-D, shared'),
          ('1-D, stem', '2-D, stem'),
          ('1-D, stem', 'relative, every layer'),
        )
      ),
    ),
    published=_table_8(),
  ),
  'pooling': Study(
    title='Class token or the mean of all patches',
    claims=(
      Claim(
        'With its own learning rate for each, both work equally well',
        f'{_VIT}, D.3 and Figure 9',
        {'mean': 1.0, 'class token': -1.0},
        kind='alike',
      ),
      more(
        "At the class token's learning rate the mean works worse",
        f'{_VIT}, D.3 and Figure 9',
        'mean',
        "mean, the token's rate",
      ),
    ),
  ),
  'data_size': Study(
    title='ViT and BiT on subsets of the training images',
    claims=(
      more(
        'With few images a ResNet is ahead',
        f'{_VIT}, 4.3 and Figure 4',
        'BiT, few',
        'ViT, few',
      ),
      Claim(
        'With more images a ViT gains more than a ResNet',
        f'{_VIT}, 4.3 and Figure 4',
        {'ViT, all': 1.0, 'ViT, few': -1.0, 'BiT, all': -1.0, 'BiT, few': 1.0},
      ),
    ),
  ),
  'families': Study(
    title='ViT and BiT, pre-trained once, each fine-tuned at its own rate',
    claims=(
      more(
        'A ViT is ahead of a BiT that was pre-trained on the same data',
        f'{_VIT}, 4.2 and Table 2',
        'ViT',
        'BiT',
      ),
    ),
    published={
      'ViT': 'vit-table-2-vit-l-16-jft-300m-14ep-imagenet',
      'BiT': 'vit-table-2-bit-l-r152x4-jft-300m-imagenet',
    },
  ),
  'scaling': Study(
    title='Hybrids and ViTs of two sizes',
    claims=(
      more(
        'With little compute a hybrid is ahead',
        f'{_VIT}, 4.4 and Figure 5',
        'hybrid, small',
        'ViT, small',
      ),
      Claim(
        'The larger the models, the smaller the difference',
        f'{_VIT}, 4.4 and Figure 5',
        {
          'hybrid, small': 1.0,
          'ViT, small': -1.0,
          'hybrid, large': -1.0,
          'ViT, large': 1.0,
        },
      ),
    ),
    published={
      'ViT, small': _TABLE_6.format('vit-b'),
      'hybrid, small': _TABLE_6.format('r50x1-vit-b'),
      'ViT, large': _TABLE_6.format('vit-l'),
      'hybrid, large': _TABLE_6.format('r50x1-vit-l'),
    },
  ),
  'adam_vs_sgd': Study(
    title='A ResNet pre-trained with Adam or SGD, fine-tuned with SGD',
    claims=(
      more(
        'A ResNet pre-trained with Adam transfers better',
        f'{_VIT}, D.1 and Table 7',
        'Adam',
        'SGD',
      ),
    ),
    published={'Adam': _RESNET.format('adam'), 'SGD': _RESNET.format('sgd')},
  ),
  'hyperparameters': Study(
    title='Learning rate, number of updates, and position embeddings',
    claims=tuple(
      Claim(
        f'How position embeddings resemble each other depends on {what}',
        f'{_VIT}, D.4 and Figure 10',
        {one: 1.0, other: -1.0},
        kind='differs',
        margin=0.05,
        measure=LOCALITY,
      )
      for what, one, other in (
        ('the learning rate', 'high rate, short', 'low rate, short'),
        ('the number of updates', 'high rate, long', 'high rate, short'),
      )
    ),
    measures=(ACCURACY, LOCALITY),
  ),
  'masked_patches': Study(
    title='Pre-trained by masked patch prediction, with labels, or not',
    claims=(
      more(
        'Masked patch prediction is better than no pre-training',
        f'{_VIT}, 4.6',
        'masked patches',
        'none',
      ),
      more(
        'Pre-training with labels is better still',
        f'{_VIT}, 4.6',
        'labels',
        'masked patches',
      ),
    ),
    published={
      'none': 'vit-table-5-vit-b-16-imagenet-300ep-imagenet',
      'masked patches': (
        'vit-section-4-6-vit-b-16-masked-patch-prediction-jft-300m-'
        'self-supervised-14ep-imagenet'
      ),
      'labels': 'vit-table-5-vit-b-16-jft-300m-7ep-imagenet',
    },
  ),
  'warm_start': Study(
    title='On growing data: from scratch, warm, or shrunk and perturbed',
    claims=(
      more(
        'A warm start ends worse than a fresh one',
        f'{_WARM}, section 2',
        'fresh',
        'warm',
      ),
      more(
        'Shrinking and perturbing makes a warm start better',
        f'{_WARM}, section 4',
        'shrunk and perturbed',
        'warm',
      ),
    ),
  ),
}
