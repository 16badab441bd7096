import json
import pathlib
import re
import subprocess
import sys

import child_processes
import pytest
import reference
import tiny_models
from photographs import PHOTOGRAPHS
from port_cases import assert_same
from run_verb import assert_one_line, run_verb

from vit_jax_repro import weights
from vit_jax_repro.ports import state_dicts
from vit_jax_repro.weights import model_card, npz


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
    run_verb('convert', path, path, '--overwrite'),
    'which is read or written, too; give another',
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


# Runs a script in an interpreter that cannot import this package or JAX.
_ALONE = (
  'import runpy, sys; '
  "sys.modules.update(dict.fromkeys(['vit_jax_repro', 'jax'])); "
  "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)


def test_convert_exports_a_model_that_others_run(tmp_path):
  path, out = tmp_path / 'model.npz', tmp_path / 'model.onnx'
  spec = tiny_models.spec(3, num_layers=1)
  model_card.save_model(
    path,
    tiny_models.params_of(spec),
    architecture=spec,
    class_names=('x', 'flower', 'china'),
    image_size=(8, 8),
    preprocessing='timm:crop_pct=0.8',
  )
  code, said, err = run_verb('convert', path, out)
  assert (code, err) == (0, '')
  for batch, line in zip((1, 5), said.splitlines(), strict=False):
    assert re.fullmatch(
      rf'batch of {batch}: differs from JAX by \S+ of the largest of the '
      r'logits \(allowed 1\.0e-05; noise of float32 \S+\)',
      line,
    )
  assert f'wrote {out}: vit, images [batch, 8, 8, 3] to logits' in said
  assert said.endswith(f'wrote {out}.json: preprocessing and class names\n')
  photographs = [str(each) for each in PHOTOGRAPHS.values()]
  results = tmp_path / 'predicted.json'
  code, _, err = run_verb(
    'predict', f'--weights={path}', f'--json={results}', *photographs
  )
  assert (code, err) == (0, '')
  script = pathlib.Path(__file__).parents[1] / 'examples' / 'run_export.py'
  alone = subprocess.run(
    [sys.executable, '-c', _ALONE, script, out, *photographs],
    capture_output=True,
    text=True,
    check=False,
  )
  wanted = []
  for each in json.loads(results.read_text()):
    wanted.append(each['image'])
    wanted += [
      f'  {c["label"]}  {c["name"]}  {c["probability"]:.2%}'
      for c in each['classes']
    ]
  assert alone.stdout.splitlines() == wanted, alone.stderr
  for verb, *arguments in (
    ('predict', f'--weights={out}', photographs[0]),
    ('convert', out, tmp_path / 'model.npz'),
    ('convert', out, tmp_path / 'back.stablehlo'),
  ):
    assert_one_line(
      run_verb(verb, *arguments), 'model.onnx is an export', 'give the weights'
    )
  assert_one_line(
    run_verb('convert', path, tmp_path / 'b.onnx', '--to=timm'), '--to=timm'
  )


def test_convert_names_the_missing_packages_in_one_line(tmp_path):
  path, out = tmp_path / 'model.npz', tmp_path / 'model.onnx'
  weights.save(path, tiny_models.params_of(tiny_models.spec(3)))
  child = child_processes.Child(without_onnxruntime, [str(path), str(out)])
  answer = child.wait(), child.stdout, child.stderr
  assert_one_line(
    answer,
    'ONNX files need onnxruntime',
    "pip install -e '.[export]' && pip install --no-deps jax2onnx==",
  )
  assert not out.exists()


def without_onnxruntime(arguments):
  sys.modules['onnxruntime'] = None
  child_processes.verb('convert', arguments)
