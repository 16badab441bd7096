"""Which data set and split a published number is of."""

import dataclasses

from vit_jax_repro.data import catalogue

# As the numbers call them: (name for datasets.open_split, split).
_NAMED = {
  'ImageNet': ('imagenet2012', 'validation'),
  'ImageNet ReaL': ('imagenet2012_real', 'validation'),
  'ImageNet-V2 matched-frequency': ('imagenet_v2/matched-frequency', 'test'),
  'CIFAR-10': ('cifar10', 'test'),
  'CIFAR-100': ('cifar100', 'test'),
  'Oxford-IIIT Pets': ('oxford_iiit_pet', 'test'),
  'Oxford Flowers-102': ('oxford_flowers102', 'test'),
  'Stanford Cars': ('cars196', 'test'),
  'iNaturalist 2018': ('i_naturalist2018', 'validation'),
}
# Not in TFDS: what a person has to give instead.
_BY_HAND = {
  'ObjectNet': 'the images of the 113 classes of ObjectNet that ImageNet has '
  'too, as FOLDER/test/CLASS/*.png with the WordNet ids for class names',
  'iNaturalist 2019': 'iNaturalist 2019 as FOLDER/train/CLASS/*.jpg and '
  'FOLDER/validation/CLASS/*.jpg',
}
_HAND_SPLITS = {'ObjectNet': 'test', 'iNaturalist 2019': 'validation'}
_GROUPS = ('natural', 'specialized', 'structured')
# Of VTAB's tasks in the numbers: with 1000 training examples, or all.
_VTAB = ('VTAB-1k', 'VTAB (full data)')


@dataclasses.dataclass(frozen=True)
class Target:
  """What is measured: one data set, or the tasks that a mean is over."""

  datasets: tuple[str, ...]  # names for datasets.open_split; empty: by hand
  split: str
  pick: str = ''  # what has to be given in place of a name


def target_of(eval_dataset: str) -> Target:
  """The target of a number, by the `eval_dataset` of its row.

  Raises:
    ValueError: a name that is not known.
  """
  if eval_dataset in _NAMED:
    name, split = _NAMED[eval_dataset]
    return Target((name,), split)
  if eval_dataset in _BY_HAND:
    return Target((), _HAND_SPLITS[eval_dataset], pick=_BY_HAND[eval_dataset])
  for prefix in _VTAB:
    if eval_dataset.startswith(prefix):
      tasks = _tasks(eval_dataset.removeprefix(prefix).strip())
      return Target(tasks, 'test')
  raise ValueError(
    f'unknown evaluation data set {eval_dataset!r}; known are '
    f'{sorted(_NAMED | _BY_HAND)} and the tasks of VTAB'
  )


def trained_on(finetune_dataset: str, dataset: str) -> str:
  """The data set that a model was fine-tuned on.

  Args:
    finetune_dataset: of the row; '' where it was trained on one alone.
    dataset: that it is evaluated on. ReaL and V2 are other labels and other
      images for the classes of ImageNet.
  """
  if finetune_dataset in _NAMED:
    return _NAMED[finetune_dataset][0]
  return 'imagenet2012' if dataset.startswith('imagenet') else dataset


def _tasks(text):
  """Names of VTAB tasks: a column of Table 9, a group's mean, or all 19."""
  rows = [row for row in catalogue.DATA_SETS.values() if row.group]
  if text in ('', '(19 tasks)', 'Mean'):
    return tuple(row.name for row in rows)
  group = text.removesuffix(' mean')
  if group in _GROUPS:
    return tuple(row.name for row in rows if row.group == group)
  found = tuple(row.name for row in rows if row.column == text)
  if not found:
    raise ValueError(
      f'unknown VTAB task {text!r}; columns are {[row.column for row in rows]}'
    )
  return found
