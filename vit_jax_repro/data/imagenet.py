"""The classes of ImageNet in the label order of the published weights.

That order is the sorted order of the WordNet ids, for the 1000 classes of
ILSVRC-2012 and for the 21843 of ImageNet-21k: the 21841 classes of the 2011
release and two more, n03931044 and n09859684. Ids and names are WordNet's.
"""

import functools
import gzip
import importlib.resources
import itertools

FILES = {
  1000: 'imagenet_classes.tsv',  # id, names
  21843: 'imagenet21k_classes.tsv.gz',  # id minus the id before it, names
}


def class_names(num_classes: int = 1000) -> tuple[str, ...]:
  """Readable names, synonyms separated by ', '."""
  return _classes(num_classes)[1]


def wordnet_ids(num_classes: int = 1000) -> tuple[str, ...]:
  """WordNet ids such as 'n01440764'."""
  return _classes(num_classes)[0]


@functools.cache
def _classes(num_classes):
  if num_classes not in FILES:
    raise ValueError(
      f'no ImageNet class list of {num_classes=}; choose from {sorted(FILES)}'
    )
  name = FILES[num_classes]
  data = importlib.resources.files(__package__).joinpath(name).read_bytes()
  if name.endswith('.gz'):
    data = gzip.decompress(data)
  rows = [line.split('\t') for line in data.decode().splitlines()]
  ids, names = zip(*rows, strict=True)
  if name.endswith('.gz'):
    ids = tuple(f'n{n:08}' for n in itertools.accumulate(map(int, ids)))
  return ids, names
