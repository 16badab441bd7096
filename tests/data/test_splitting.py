import collections
import hashlib

import pytest

from vit_jax_repro.data import percent_parts, split_records, splitting
from vit_jax_repro.output import files

pytestmark = pytest.mark.quick

HALF = {'train': 'train[:50%]', 'test': 'train[50%:]'}


def contents(*sizes):
  """Returns the hashes and labels of classes of these sizes."""
  labels = [label for label, size in enumerate(sizes) for _ in range(size)]
  hashes = [hashlib.sha256(b'%d' % i).hexdigest() for i in range(len(labels))]
  return hashes, labels


def counts(divided, hashes, labels):
  """Returns [{side: images}] of each class."""
  found = [collections.Counter() for _ in range(max(labels) + 1)]
  for content, label in zip(hashes, labels, strict=True):
    found[label][divided.sides[content]] += 1
  return [dict(sorted(each.items())) for each in found]


@pytest.mark.parametrize(
  'fields, wanted',
  [
    ({}, {'train': ((0, 80),), 'test': ((80, 100),)}),
    ({'train': 'train[:90%]'}, {'train': ((0, 90),), 'test': ((90, 100),)}),
    ({'test': 'train[-10%:]'}, {'train': ((0, 90),), 'test': ((90, 100),)}),
    ({'test': 'train[:10%]'}, {'train': ((10, 100),), 'test': ((0, 10),)}),
    (
      {'validation': 'validation'},
      {
        'train': ((0, 60),),
        'validation': ((60, 80),),
        'test': ((80, 100),),
      },
    ),
    (
      {'train': 'train[:20%]+train[40%:60%]', 'validation': 'train[20%:30%]'},
      {
        'train': ((0, 20), (40, 60)),
        'validation': ((20, 30),),
        'test': ((30, 40), (60, 100)),
      },
    ),
    (HALF, {'train': ((0, 50),), 'test': ((50, 100),)}),
  ],
)
def test_parts_give_bare_names_the_rest(fields, wanted):
  """--config.pp.train='train[:90%]' alone tested on training images."""
  assert splitting.Division(**fields).parts() == wanted


@pytest.mark.parametrize(
  'fields, message',
  [
    (
      {'train': 'train[:90%]', 'test': 'train[80%:]'},
      r"train='train\[:90%\]' and config.pp.test='train\[80%:\]' have images",
    ),
    ({'train': 'train[:100%]'}, "test='test' gets no image"),
    (
      {'validation': 'train[70%:90%]'},
      r"config.pp.test='test' \(train\[80%:\] of the folder\) have images in",
    ),
    (
      {'train': 'train[:60%]', 'validation': 'val'},
      'which part is for validation and which for test',
    ),
    ({'train': 'train[:100]'}, 'in percent'),
    ({'train': 'train800val200'}, "choose 'train' or a part in percent"),
    ({'test': 'train'}, "choose 'test' or a part in percent"),
    ({'test': 'train[80%:70%]'}, 'from 0 to 100 percent that is not empty'),
    ({'train': 'train[:120%]'}, 'from 0 to 100 percent'),
    ({'train': 'train[:20%]+train[10%:30%]'}, 'has images twice'),
  ],
)
def test_parts_refuses_what_would_mix_sides(fields, message):
  with pytest.raises(ValueError, match=message) as caught:
    splitting.Division(**fields).parts()
  assert '\n' not in str(caught.value)


def test_divide_cuts_each_class_alone():
  hashes, labels = contents(20, 50, 7, 3, 2, 1)
  divided = splitting.Division().divide(hashes, labels)
  assert counts(divided, hashes, labels) == [
    {'test': 4, 'train': 16},
    {'test': 10, 'train': 40},
    {'test': 1, 'train': 6},
    {'test': 1, 'train': 2},
    {'test': 1, 'train': 1},
    {'train': 1},
  ]


def test_divide_fills_three_sides_of_small_classes_in_order():
  """A class of two images had none to test on."""
  hashes, labels = contents(1, 2, 3, 4, 10)
  division = splitting.Division(validation='validation')
  assert counts(division.divide(hashes, labels), hashes, labels) == [
    {'train': 1},
    {'test': 1, 'train': 1},
    {'test': 1, 'train': 1, 'validation': 1},
    {'test': 1, 'train': 2, 'validation': 1},
    {'test': 2, 'train': 6, 'validation': 2},
  ]


def test_divide_trains_on_a_class_of_one_image_also_with_a_small_part():
  division = splitting.Division(train='train[:20%]', test='train[90%:]')
  divided = division.divide(*contents(1))
  assert [*divided.sides.values()] == ['train']


def test_divide_depends_on_contents_and_seed_alone():
  """Sides followed the order of names, so renamed files changed them."""
  hashes, labels = contents(30, 30)
  sides = splitting.Division().divide(hashes, labels).sides
  order = [*reversed(range(60))]
  turned = splitting.Division().divide(
    [hashes[i] for i in order], [labels[i] for i in order]
  )
  assert turned.sides == sides
  assert splitting.Division(seed=1).divide(hashes, labels).sides != sides


def test_divide_keeps_recorded_sides_when_images_come_and_go(tmp_path):
  hashes, _ = contents(40)
  labels = [i // 5 for i in range(40)]  # five images of each class
  first = splitting.Division().divide(hashes[:20], labels[:20])
  files.write_json(tmp_path / split_records.FILE, first.record())
  division = split_records.of_weights(tmp_path / 'model.npz')
  for part in (slice(10, 40), slice(5, 25)):
    found = division.divide(hashes[part], labels[part]).sides
    for content in hashes[part]:
      side = first.sides.get(content)
      assert side is None or found[content] == side
  # New images have sides of their own, whatever else is new.
  alone = division.divide([hashes[0], hashes[30]], [0, 0]).sides
  assert alone[hashes[30]] == division.divide(hashes, labels).sides[hashes[30]]
  grown = division.divide(hashes, labels)
  assert (grown.num_recorded, len(grown.record()['images'])) == (20, 40)
  assert grown.text.endswith(f'{split_records.FILE} (20 images are new)')
  assert {grown.sides[x] for x in hashes[20:]} == {'train', 'test'}


def test_divide_refuses_training_images_of_the_weights_as_test_images(tmp_path):
  hashes, labels = contents(40)
  record = splitting.Division().divide(hashes, labels).record()
  files.write_json(tmp_path / split_records.FILE, record)
  old = split_records.read(tmp_path).record
  for fields in ({'seed': 1}, HALF):
    division = splitting.Division(**fields, record=old)
    with pytest.raises(ValueError, match='are training images of the run'):
      division.divide(hashes, labels)
  # Another record, but the test images are among those of the other run.
  less = splitting.Division(test='train[90%:]', record=old)
  assert less.divide(hashes, labels).num_recorded == 0
  # Images that the run never saw.
  others = [hashlib.sha256(x.encode()).hexdigest() for x in hashes]
  splitting.Division(**HALF, record=old).divide(others, labels)


def test_chosen_takes_a_part_of_each_class_unless_sides_are_recorded(tmp_path):
  hashes, labels = contents(20, 40)
  divided = splitting.Division().divide(hashes, labels)
  part = divided.chosen('train[:10%]', hashes, labels)
  assert [sum(x in part for x in h) for h in (hashes[:20], hashes[20:])] == [
    2,
    4,
  ]
  assert {divided.sides[x] for x in part} == {'train'}
  files.write_json(tmp_path / split_records.FILE, divided.record())
  again = split_records.read(tmp_path).divide(hashes, labels)
  with pytest.raises(ValueError, match='may mix training and test images'):
    again.chosen('train[:10%]', hashes, labels)


@pytest.mark.parametrize(
  'text, side',
  [
    ('train', 'train'),
    ('train[:70%]', 'train'),
    ('train[70%:]', 'test'),
    ('validation', 'test'),  # as the configuration calls it
    ('test', 'test'),
    ('train[:10%]', None),
    ('test[:10%]', None),
  ],
)
def test_side_of_knows_names_and_parts(text, side):
  division = splitting.Division(train='train[:70%]', test='validation')
  assert division.side_of(text) == side


def test_asked_takes_parts_of_a_side_for_the_whole_side():
  asked = split_records.asked('train@5#1', 'test[:50%]', 3)
  assert asked == splitting.Division(seed=3)


@pytest.mark.parametrize(
  'change',
  [
    {'images': {'ab': 'exam'}},
    {'images': None},
    {'seed': 'x'},
    {'train': 'train[:90'},
    {'more': 1},
  ],
)
def test_read_refuses_a_damaged_record(tmp_path, change):
  record = splitting.Division().divide(*contents(4)).record()
  files.write_json(tmp_path / split_records.FILE, record | change)
  with pytest.raises(ValueError, match='put back a copy') as caught:
    split_records.read(tmp_path)
  assert '\n' not in str(caught.value)


def test_side_of_spreads_new_images_by_the_percents():
  segments = percent_parts.segments_of(splitting.Division().parts())
  hashes, _ = contents(2000)
  share = sum(percent_parts.side_of(x, 0, segments) == 'test' for x in hashes)
  assert 340 < share < 460  # 20 % of 2000, within three deviations
