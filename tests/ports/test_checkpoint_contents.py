"""Training checkpoints of PyTorch: which of their tensors are the model's."""

import argparse
import collections
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS
from run_verb import run_verb

from vit_jax_repro import ports, weights
from vit_jax_repro.ports import state_dicts
from vit_jax_repro.published import weight_names
from vit_jax_repro.runs import pretrained
from vit_jax_repro.runs import settings as run_settings

torch = pytest.importorskip('torch')


@pytest.fixture(scope='module')
def states():
  """Returns state dicts of (raw, averaged) weights as tensors."""
  spec = tiny_models.spec(3, hidden_size=192, num_heads=3, num_layers=1)
  return [
    {
      name: state_dicts.to_torch(torch, array)
      for name, array in ports.to_state_dict(
        tiny_models.params_of(spec, seed=seed), 'timm'
      ).items()
    }
    for seed in (0, 1)
  ]


def assert_read(path, wanted, **options):
  found = state_dicts.read(path, **options)
  assert found.keys() == wanted.keys()
  for name, tensor in wanted.items():
    np.testing.assert_array_equal(found[name], tensor.numpy(), name)


def under(prefix, state):
  return {f'{prefix}{name}': tensor for name, tensor in state.items()}


def test_read_takes_averages_only_with_ema(states, tmp_path, capsys):
  raw, average = states
  other = {'epoch': 3, 'args': argparse.Namespace(lr=0.1), 'optimizer': {}}
  averaged = {'n_averaged': torch.tensor(3), **under('module.', average)}
  for saved, place in [
    ({'state_dict': raw, 'state_dict_ema': average}, 'state_dict_ema'),
    ({'model': raw, 'model_ema': average}, 'model_ema'),
    ({'model': raw, 'shadow': averaged}, 'shadow.module'),
    (
      {'state_dict': under('net.', raw) | under('ema.module.', average)},
      'state_dict.ema.module',
    ),
    (
      {'current_model_state': raw, 'state_dict': average}
      | {'averaging_state': {'n_averaged': torch.tensor(3)}},
      'state_dict',
    ),
  ]:
    path = tmp_path / 'last.ckpt'
    torch.save(saved | other, path)
    assert_read(path, raw)
    assert f'(EMA) too, in {place}; --ema takes them' in capsys.readouterr().err
    assert_read(path, average, ema=True)
  torch.save({'state_dict': raw} | other, path)
  with pytest.raises(ValueError, match=r'no averaged.*args, epoch, optim.*out'):
    state_dicts.read(path, ema=True)
  torch.save(averaged, path)
  assert_read(path, average)
  assert 'these are averaged weights' in capsys.readouterr().err


def test_read_leaves_out_other_tensors_of_a_trainer(states, tmp_path, capsys):
  path = tmp_path / 'last.ckpt'
  lightning = {
    'state_dict': under('model.', states[0])
    | {'criterion.weight': torch.ones(3), 'model.seen': torch.tensor(9)},
    'hyper_parameters': {'lr': 0.1, 'where': pathlib.Path('a')},
    'callbacks': {'best': np.float64(0.5)},
    'counts': collections.defaultdict(dict),
    'optimizer_states': [{'state': {0: {'step': torch.tensor(1)}}}],
  }
  torch.save(lightning, path)
  assert_read(path, states[0])
  left_out = 'left out are criterion.weight, model.seen, which'
  assert left_out in capsys.readouterr().err


def test_read_leaves_out_counters_of_norms_in_silence(states, tmp_path, capsys):
  counter = {'norm.num_batches_tracked': torch.tensor(9)}
  torch.save(states[0] | counter, tmp_path / 'a.pth')
  assert_read(tmp_path / 'a.pth', states[0])
  assert not capsys.readouterr().err


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda t: t.to(torch.int8), r'\(int8\) is of a quantised model'),
    (lambda t: t > 0, 'is of bool, and parameters are real numbers'),
    (lambda t: t.to_sparse(), 'is a sparse or nested tensor'),
    (lambda t: t.to('meta'), 'is a tensor without values'),
  ],
)
def test_load_refuses_tensors_that_are_no_parameters(
  change, message, states, tmp_path
):
  name = 'blocks.0.mlp.fc1.weight'
  path = tmp_path / 'a.pth'
  torch.save(states[0] | {name: change(states[0][name])}, path)
  with pytest.raises(ValueError, match=f'{name}.*{message}') as caught:
    weight_names.load(path)
  assert '\n' not in str(caught.value) and 'download' not in str(caught.value)


@pytest.mark.parametrize('end', ['qweight', 'weight.absmax', 'SCB'])
def test_load_names_quantised_models_by_their_names(end, states, tmp_path):
  state = states[0] | {f'blocks.0.mlp.fc1.{end}': torch.ones(3)}
  torch.save(state, tmp_path / 'a.pth')
  with pytest.raises(ValueError, match=f'{end}.*is of a quantised model'):
    weight_names.load(tmp_path / 'a.pth')


def test_read_refuses_several_models_and_optimizers(states, tmp_path):
  path = tmp_path / 'a.pth'
  for saved, message in [
    ({'student': states[0], 'teacher': states[1]}, 'student, teacher; save'),
    ({'state': {}, 'param_groups': []}, 'optimizer and no weights'),
    ({'optimizer': {'state': {}, 'param_groups': []}}, 'optimizer and no w'),
  ]:
    torch.save(saved, path)
    with pytest.raises(ValueError, match=message):
      state_dicts.read(path)


def test_read_names_the_line_that_saves_a_teacher(
  states, tmp_path, monkeypatch
):
  """DINO saves a student and the teacher, which is evaluated."""
  student, teacher = (under('backbone.', state) for state in states)
  both = under('student.', student) | under('teacher.', teacher)
  monkeypatch.chdir(tmp_path)
  for saved in (
    {'student': under('module.', student), 'teacher': teacher, 'epoch': 3},
    {'model': both},
  ):
    torch.save(saved, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='several models: ') as caught:
      state_dicts.read('a.pth')
    exec('import torch\n' + str(caught.value).partition('trust it: ')[2])
    assert_read('weights.pth', states[1])


def test_read_names_both_encoders_of_moco(states, tmp_path):
  both = under('module.base_encoder.', states[0])
  both |= under('module.momentum_encoder.', states[1])
  torch.save({'state_dict': both}, tmp_path / 'a.pth')
  with pytest.raises(ValueError, match=r'a\.pth: .*MoCo v3 .*--num_heads=12'):
    state_dicts.read(tmp_path / 'a.pth')


def test_read_names_refused_classes_with_advice_that_works(
  states, tmp_path, monkeypatch
):
  path = tmp_path / 'a.pth'
  module = torch.nn.Linear(2, 3)
  wrapped = torch.nn.ModuleDict({'model': module})
  for saved, wanted in [
    ({'state_dict': states[0], 'module': module}, states[0]),
    ({'net': states[0], 'module': module}, states[0]),
    (module, module.state_dict()),
    ({'epoch': 3, 'model': module}, module.state_dict()),
    (wrapped, wrapped.state_dict()),
  ]:
    torch.save(saved, path)
    with pytest.raises(ValueError, match=r'torch\.nn.*Linear') as caught:
      state_dicts.read(path)
    # The advice is run here, where the file is trusted.
    monkeypatch.chdir(tmp_path)
    exec('import torch\n' + str(caught.value).partition('alone: ')[2])
    assert_read(tmp_path / 'weights.pth', wanted)


def test_read_never_runs_code_to_give_advice(states, tmp_path):
  other = tmp_path / 'other'
  other.touch()

  class Evil:
    def __reduce__(self):
      return shutil.copy, (str(other), str(tmp_path / 'ran'))

  path = tmp_path / 'a.pth'
  torch.save({'state_dict': states[0], 'evil': Evil()}, path)
  with pytest.raises(ValueError, match=r"shutil.*\)\['state_dict'\]"):
    state_dicts.read(path)
  assert not (tmp_path / 'ran').exists()


def renamed(path, old, new):
  """Replaces a module's name in a pickle, by one of the same length."""
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in members.items():
      archive.writestr(name, content.replace(old, new))


class Settings:
  """Replaces a class of OmegaConf."""


def test_read_ignores_settings_of_omegaconf(states, tmp_path):
  path, settings = tmp_path / 'a.ckpt', Settings()
  settings.lr = 0.1
  torch.save({'state_dict': states[0], 'hyper_parameters': settings}, path)
  with pytest.raises(ValueError, match='holds Python objects'):
    state_dicts.read(path)
  module = Settings.__module__
  renamed(
    path, module.encode(), f'omegaconf.{"d" * (len(module) - 10)}'.encode()
  )
  assert_read(path, states[0])


def test_ema_of_commands_and_texts(states, tmp_path):
  path = tmp_path / 'model_best.pth.tar'
  torch.save({'state_dict': states[0], 'state_dict_ema': states[1]}, path)
  out = tmp_path / 'a.npz'
  code, _, err = run_verb('convert', path, out, '--ema')
  assert not code, err
  wanted = weights.load(out)['head']['kernel']
  found = weight_names.load(f'{path}#ema').params
  np.testing.assert_array_equal(found['head']['kernel'], wanted)
  run = dict(dataset='digits', base_lr=0.1, total_steps=1, model={})
  chosen = run_settings.Settings(
    pp=run_settings.Preprocessing(train='train', test='test', crop=8),
    pretrained_dir=str(path),
    pretrained_ema=True,
    **run,
  )
  started = pretrained.load(chosen).params['head']['kernel']
  np.testing.assert_array_equal(started, wanted)
  raw = weight_names.load(path).params['head']['kernel']
  assert not np.array_equal(raw, wanted)
  photograph = next(iter(PHOTOGRAPHS.values()))
  for each, wanted in ((path, 0), (out, 1)):
    answer = run_verb('predict', f'--weights={each}', '--ema', photograph)
    assert answer[0] == wanted, answer
  with pytest.raises(ValueError, match=r'a\.npz is an \.npz.*--ema takes'):
    weight_names.load(f'{out}#ema')
