import pytest
import reference
import tiny_models
from port_cases import assert_same
from run_verb import assert_one_line, run_verb

from vit_jax_repro import weights
from vit_jax_repro.ports import state_dicts
from vit_jax_repro.weights import npz


@pytest.mark.quick
def test_convert_writes_an_npz_in_another_layout(tmp_path):
  path, out = tmp_path / 'a.npz', tmp_path / 'b.npz'
  params = tiny_models.params_of(tiny_models.spec(3, representation_size=16))
  weights.save(path, params)
  code, said, err = run_verb(
    'convert', path, out, '--to=linen', '--drop=pre_logits,head'
  )
  assert (code, err) == (0, '')
  arrays = dict(npz.read(out))
  count = sum(array.size for array in arrays.values())
  assert said == (
    f'wrote {out}: vit as linen, {len(arrays)} arrays, {count} parameters, '
    f'{4e-6 * count:.1f} MB\n'
  )
  assert weights.load(out).keys() == params.keys() - {'pre_logits', 'head'}


def test_convert_refuses_wrong_command_lines_in_one_line(tmp_path):
  path = tmp_path / 'a.npz'
  npz.write(path, reference.checkpoint('vit_token').items())
  out = tmp_path / 'b.npz'
  assert_one_line(run_verb('convert', path), '1 paths given', 'IN OUT')
  assert_one_line(
    run_verb('convert', path, path, '--overwrite'), 'is read; give another'
  )
  assert_one_line(
    run_verb('convert', path, tmp_path / 'port', '--to=tranformers'),
    "unknown --to=tranformers; did you mean 'transformers'",
    'choose from timm, transformers,',
  )
  assert not out.exists()


def test_convert_writes_a_state_dict_as_npz_and_folder(tmp_path):
  path, out = tmp_path / 'deit.safetensors', tmp_path / 'deit.npz'
  state = reference.checkpoint('deit_distilled_tiny')
  state_dicts.write(path, state)
  assert_one_line(run_verb('convert', path, out), '--num_heads', 'size 48')
  code, said, err = run_verb('convert', path, out, '--num_heads=3')
  assert (code, err) == (0, '') and 'vit as official, 59 arrays' in said
  folder = tmp_path / 'port'
  code, said, err = run_verb('convert', out, folder, '--to=timm')
  assert (code, err) == (0, '') and f'wrote {folder}: vit as timm' in said
  assert_same(state_dicts.read(folder), state)
  assert 'license: unknown' in (folder / 'README.md').read_text()
  code, said, err = run_verb(
    'convert', out, folder, '--to=timm', '--overwrite', '--license=mit'
  )
  assert (code, err) == (0, '')
  assert '\nlicense: mit\n' in (folder / 'README.md').read_text()
