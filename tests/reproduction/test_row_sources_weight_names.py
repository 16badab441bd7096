import pytest

from vit_jax_repro.reproduction import row_sources

pytestmark = pytest.mark.quick


def test_weights_of_accepts_every_name_of_a_file():
  for name, file in {
    'imagenet21k/ViT-B_16.npz': 'imagenet21k/ViT-B_16',
    'BiT-M-R50x1.npz': 'BiT-M-R50x1',
    'distill/R50x1_224.npz': 'distill/R50x1_224',
    'deit_tiny_patch16_224-a1311bcf.pth': None,
  }.items():
    found = row_sources.weights_of(name)
    assert len(found.files) == 1 and not found.pick
    assert file in (None, found.files[0])


def test_weights_of_reads_braces_as_choices():
  name = 'augreg/B_32-x-lr_{0.01|0.03}-res_224.npz'
  found = row_sources.weights_of(name)
  assert not found.files and len(found.choices) == 2
  assert found.choices[1] == 'augreg/B_32-x-lr_0.03-res_224'
  assert found.choices[1] in found.pick


def test_weights_of_reads_runs_and_tasks_as_files():
  name = 'vtab/BiT-M-R152x4-run{0,1,2}-<task>.npz'
  found = row_sources.weights_of(name)
  assert found.files == tuple(
    f'vtab/BiT-M-R152x4-run{run}-<task>' for run in range(3)
  )


@pytest.mark.parametrize(
  'name, query',
  [
    (
      'augreg/L_16-i1k-300ep-lr_0.001-*.npz',
      '--model=L_16 --pretrained_on=i1k --best',
    ),
    (
      'augreg/R26_S_32-i21k-30ep-lr_0.001-*--imagenet2012-steps_20k-lr_*-'
      'res_384.npz',
      '--model=R26_S_32 --pretrained_on=i21k_30 --adapted_to=imagenet2012 '
      '--resolution=384 --best',
    ),
  ],
)
def test_weights_of_turns_stars_into_a_query_of_the_index(name, query):
  assert row_sources.weights_of(name).pick.endswith(query)


def test_weights_of_refuses_other_names():
  with pytest.raises(ValueError, match='is not a pattern of AugReg names'):
    row_sources.weights_of('other/*.npz')
  with pytest.raises(ValueError, match='no published file'):
    row_sources.weights_of('imagenet21k/ViT-X.npz')
