"""Tests the verb `main` on real data."""

import dataclasses
import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys

import child_processes
import jax
import numpy as np
import pytest
import run_lines
import tiny_models
from photographs import PHOTOGRAPHS

from vit_jax_repro import jobs, main, models, weights
from vit_jax_repro.runs import settings
from vit_jax_repro.weights import npz, trees

CONFIGS = os.path.join(os.path.dirname(__file__), '..', 'configs')
# Eight devices, sixteen images, a model of one narrow layer.
TINY = (
  '--config.total_steps=4',
  '--config.warmup_steps=1',
  '--config.batch=16',
  '--config.batch_eval=100',
  '--config.progress_every=1',
  '--config.model.hidden_size=16',
  '--config.model.transformer.num_layers=1',
  '--config.model.transformer.mlp_dim=16',
  '--config.model.transformer.num_heads=2',
)


def flags(config, workdir, *more):
  return [f'--config={CONFIGS}/{config}', f'--workdir={workdir}', *more]


def run(monkeypatch, config, workdir, *more):
  """Runs `main` in this process and returns its metrics."""
  monkeypatch.setattr(sys, 'argv', ['main', *flags(config, workdir, *more)])
  main.main()
  return read_metrics(workdir)


def read_json(path):
  return json.loads(path.read_text())


def read_metrics(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def parameters(workdir):
  return dict(npz.read(workdir / 'model.npz'))


def assert_same_parameters(left, right):
  left, right = parameters(left), parameters(right)
  assert left.keys() == right.keys()
  for name, array in left.items():
    np.testing.assert_array_equal(array, right[name], err_msg=name)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder of 48 crops of two real photographs, JPEG and PNG."""
  from PIL import Image

  root = tmp_path_factory.mktemp('photos')
  rng = np.random.default_rng(0)
  for name, path in PHOTOGRAPHS.items():
    image = Image.open(path)
    for i in range(24):
      split = 'test' if i % 3 == 0 else 'train'
      x, y = rng.integers(0, 400), rng.integers(0, 200)
      target = root / split / name / f'{i}.{"png" if i % 2 else "JPG"}'
      target.parent.mkdir(parents=True, exist_ok=True)
      crop = image.crop((x, y, x + 200, y + 200)).resize((40, 32))
      crop.save(target, 'PNG' if i % 2 else 'JPEG')
  return root


def small_vit_on(folder):
  """A configuration for `jobs.train`."""
  return dict(
    dataset=str(folder),
    model=dict(
      model='vit',
      patch_size=(8, 8),
      hidden_size=16,
      num_layers=1,
      mlp_dim=16,
      num_heads=2,
    ),
    base_lr=0.05,
    total_steps=8,
    batch=16,
    batch_eval=7,
    progress_every=1,
    pp=dict(train='train', test='test', crop=16),
  )


def keys_of(cls, prefix=''):
  """Returns the fields of a dataclass of settings and of its groups, by key."""
  fields = {}
  for field in dataclasses.fields(cls):
    group = field.metadata.get('keys')
    if group is None:
      fields[prefix + field.name] = field
    else:
      fields |= keys_of(group, prefix=f'{field.name}.')
  return fields


KEYS = keys_of(settings.Settings)


@pytest.fixture(scope='module')
def config_help():
  """The output of --help_config, and its CPU time in seconds."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  command = (
    'import sys; from vit_jax_repro import main; main.main(); '
    "assert 'tensorflow' not in sys.modules"
  )
  done = subprocess.run(
    [sys.executable, '-c', command, '--help_config'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0 and not done.stderr, done.stderr
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  return done.stdout, seconds


def squeezed(text):
  return re.sub(r'\s', '', text)


@pytest.mark.quick
def test_help_config_shows_every_key_with_its_help(config_help):
  out, seconds = config_help
  found = dict(
    re.findall(r'^  --config\.([\w.]+)=(.+(?:\n      .+)*)', out, re.M)
  )
  assert found.keys() == KEYS.keys()
  for name, field in KEYS.items():
    entry, rules = squeezed(found[name]), field.metadata
    assert rules['help'].strip() and squeezed(rules['help']) in entry, name
    assert '|'.join(rules['choices']) in entry
    if field.default is not dataclasses.MISSING:
      assert squeezed(f'(default {field.default!r}') in entry
    for words in ('at least', 'below', 'at most'):
      limit = rules[words.split()[-1]]
      assert limit is None or squeezed(f'{words} {limit}') in entry
  assert max(map(len, out.splitlines())) <= 79
  assert seconds < 4.0  # on a busy machine, too


@pytest.mark.quick
@pytest.mark.parametrize(
  'line',
  [
    'Optimiser:',
    '--config.dataset=STRING',
    '--config.optim=STRING  <sgd|adamw>: The optimiser.',
    '--config.shrink=FLOAT',
    '(default 1.0; at least 0; needs pretrained_dir)',
    '--config.batch=INT',
    '--config.keep_best=BOOL',
    '--config.decay_steps=LIST',
    "(default (); needs decay_type='steps')",
    '--config.pp.crop=SIZE',
    '--config.mesh.fsdp=INT',
  ],
)
def test_help_config_shows_types_and_conditions(config_help, line):
  assert squeezed(line) in squeezed(config_help[0])


@pytest.mark.quick
def test_settings_have_a_sentence_of_help_for_every_key():
  for name, field in KEYS.items():
    assert 'help' in field.metadata, f'{name} is not declared by `setting`'
    assert re.fullmatch(r"['\w].+\.", field.metadata['help']), name


@pytest.mark.quick
def test_help_config_heads_groups_by_their_help(config_help):
  fields = {
    field.name: field for field in dataclasses.fields(settings.Settings)
  }
  for name in ('pp', 'mesh'):
    assert f'\n{fields[name].metadata["help"]}:\n' in config_help[0]


@pytest.mark.quick
def test_help_names_help_config(capsys):
  with pytest.raises(SystemExit) as exit:
    main.main(['main', '--help'])
  assert exit.value.code == 0
  assert '--help_config' in capsys.readouterr().out


OPTIONS = {
  'sgd, bfloat16 momentum, linear; inception crop, flip, shift': (
    '--config.optim=sgd',
    '--config.weight_decay=0',
    '--config.weight_decay_on=',
    '--config.optim_dtype=bfloat16',
    '--config.decay_type=linear',
    '--config.pp.inception_crop=True',
    '--config.pp.flip=True',
    '--config.pp.shift=2',
  ),
  'adamw on all, bfloat16, constant, unclipped; smoothing, every flip': (
    '--config.optim_dtype=bfloat16',
    '--config.weight_decay_on=all',
    '--config.decay_type=constant',
    '--config.grad_norm_clip=0',
    '--config.label_smoothing=0.1',
    '--config.pp.legacy_always_flip=True',
  ),
  'averages, accumulation, mixup, sigmoid, fsdp': (
    '--config.polyak_decay=0.5',
    '--config.accum_steps=2',
    '--config.mixup_alpha=0.2',
    '--config.loss=sigmoid',
    '--config.mesh.fsdp=8',
  ),
  'copies, erasing, CutMix or mixup, smoothing, on uint8; resize, crop': (
    '--config.repeated_augmentation=3',
    '--config.random_erasing=0.5',
    '--config.cutmix_alpha=1.0',
    '--config.mixup_alpha=0.8',
    '--config.label_smoothing=0.1',
    '--config.transfer_dtype=uint8',
    '--config.accum_steps=2',
    '--config.pp.resize=12',
    '--config.preprocessing=bit',
  ),
  "AugReg's strength, DeiT's scale; all axes": (
    '--config.augreg_strength=light2',
    '--config.mixup_alpha=0',
    '--config.preprocessing=deit',
    '--config.pp.exact_decode=True',
    '--config.mesh.fsdp=2',
    '--config.mesh.model=2',
  ),
  'steps; bfloat16, scan, remat; gap, sincos': (
    '--config.decay_type=steps',
    '--config.decay_steps=(2,3)',
    '--config.model.dtype=bfloat16',
    '--config.model.scan=True',
    '--config.model.remat=True',
    '--config.model.transformer.dropout_rate=0.1',
    '--config.model.stochastic_depth_rate=0.1',
    '--config.model.classifier=gap',
    '--config.model.position_embedding=sincos2d',
    '--config.prefetch=0',
    '--config.shuffle_buffer=10',
  ),
}


@pytest.mark.parametrize('name', OPTIONS)
def test_main_trains_with_every_option(name, monkeypatch, tmp_path):
  metrics = run(monkeypatch, 'quickstart.py', tmp_path, *TINY, *OPTIONS[name])
  assert [line['step'] for line in metrics] == [1, 2, 3, 4]
  assert all(np.isfinite(line['train_loss']) for line in metrics)
  params = weights.load(tmp_path / 'model.npz')
  assert models.create(weights.describe(params)).num_classes == 10


FINISHED = (*TINY, '--config.eval_every=2', '--config.checkpoint_every=3')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The workdir of a finished run."""
  workdir = tmp_path_factory.mktemp('finished')
  with pytest.MonkeyPatch.context() as monkeypatch:
    run(monkeypatch, 'quickstart.py', workdir, *FINISHED)
  return workdir


def test_main_writes_every_file_of_a_workdir(finished):
  metrics, tmp_path = read_metrics(finished), finished
  assert [line['step'] for line in metrics] == [1, 2, 3, 4]
  names = {'step', 'train_loss', 'lr', 'images_per_sec', 'input_wait'}
  assert all(names <= line.keys() for line in metrics)
  evaluated = [line['step'] for line in metrics if 'accuracy_test' in line]
  assert evaluated == [2, 4]
  result = read_json(tmp_path / 'result.json')
  assert result['accuracy'] == metrics[-1]['accuracy_test']
  assert result['loss'] == metrics[-1]['loss_test']
  assert np.log(10) / 2 < result['loss'] < 2 * np.log(10)
  assert (result['num_examples'], result['step']) == (360, 4)
  assert result['seconds'] > 0
  steps = {p.name for p in (tmp_path / 'checkpoints').iterdir() if p.is_dir()}
  assert steps == {'3', '4'}
  card = read_json(tmp_path / 'model.json')
  assert card['class_names'] == list('0123456789')
  assert card['image_size'] == [8, 8] and card['preprocessing'] == 'vit_jax'
  manifest = read_json(tmp_path / 'manifest.json')
  assert manifest['devices']['mesh'] == {'data': 8, 'fsdp': 1, 'model': 1}
  assert manifest['versions']['jax'] == jax.__version__
  assert len(manifest['data']['train_fingerprint']) == 16
  config = read_json(tmp_path / 'config.json')
  assert config['total_steps'] == 4
  assert any(p.name.startswith('events.out') for p in tmp_path.iterdir())


def test_main_writes_metrics_for_tensorboard(finished):
  from tensorboard.backend.event_processing import event_accumulator

  events = event_accumulator.EventAccumulator(
    str(finished), size_guidance={'tensors': 0}
  ).Reload()
  losses = [
    float(np.frombuffer(e.tensor_proto.tensor_content, 'f4')[0])
    if e.tensor_proto.tensor_content
    else e.tensor_proto.float_val[0]
    for e in events.Tensors('train/loss')
  ]
  np.testing.assert_allclose(
    losses, [line['train_loss'] for line in read_metrics(finished)], rtol=1e-6
  )
  tags = events.Tags()['tensors']
  wanted = {'test/accuracy', 'test/loss', 'perf/images_per_sec', 'train/images'}
  assert wanted <= {*tags}
  assert not {'train_loss', 'accuracy_test'} & {*tags}
  [text] = events.Tensors('configuration')
  assert b'"total_steps": ' in text.tensor_proto.string_val[0]


def test_main_leaves_a_finished_run_unchanged(
  finished, monkeypatch, tmp_path, capsys
):
  """Files that a second call changes, or data that it opens."""
  workdir = shutil.copytree(finished, tmp_path / 'run')
  data = f'--config.tfds_data_dir={tmp_path / "none"}'
  metrics = run(monkeypatch, 'quickstart.py', workdir, *FINISHED, data)
  assert not (tmp_path / 'none').exists()  # where digits would be prepared
  assert 'start      already finished, at step ' in capsys.readouterr().err
  assert len(metrics) == 4
  result, again = (read_json(x / 'result.json') for x in (finished, workdir))
  assert again['accuracy'] == result['accuracy']
  assert_same_parameters(workdir, finished)


def test_main_fine_tunes_on_a_folder_of_photographs(
  folder, monkeypatch, tmp_path
):
  """Starts from a published layout with 1000 classes and another size."""
  spec = models.variant('ViT-Ti_16')
  spec['transformer']['num_layers'] = 1
  params = tiny_models.params_of(spec, image_size=(32, 32))
  (tmp_path / 'files').mkdir()
  weights.save(tmp_path / 'files' / 'ViT-Ti_16.npz', params)
  metrics = run(
    monkeypatch,
    'vit.py:ti16,cifar10',
    tmp_path / 'run',
    f'--config.dataset={folder}',
    f'--config.pretrained_dir={tmp_path}/files',
    '--config.pp.train=train',
    '--config.pp.crop=48',
    '--config.model.transformer.num_layers=1',
    '--config.total_steps=12',
    '--config.warmup_steps=2',
    '--config.batch=16',
    '--config.accum_steps=1',
    '--config.progress_every=1',
  )
  assert metrics[-1]['train_loss'] < metrics[0]['train_loss']
  np.testing.assert_allclose(metrics[0]['train_loss'], np.log(2), rtol=1e-5)
  tuned = trees.flatten(weights.load(tmp_path / 'run' / 'model.npz'))
  assert tuned['head/kernel'].shape == (192, 2)
  assert tuned['Transformer/posembed_input/pos_embedding'].shape[1] == 10
  card = read_json(tmp_path / 'run' / 'model.json')
  assert card['class_names'] == ['china', 'flower']


def test_train_replaces_and_counts_damaged_images(folder, tmp_path, capfd):
  """Each is named once. Damaged test images count as wrong."""
  photos = tmp_path / 'photos'
  shutil.copytree(folder, photos)
  damaged = [*sorted(photos.glob('train/*/1*'))[:3], *photos.glob('test/*/0*')]
  for path in damaged:
    path.write_bytes(path.read_bytes()[:100])
  config = small_vit_on(photos) | dict(eval_every=4)
  result = jobs.train(config, tmp_path / 'run', show=False)
  assert 9 <= result.replaced_images <= 15  # 3 of 32 in four epochs or more
  notes = capfd.readouterr().err.splitlines()
  named = [note for note in notes if 'is not a readable' in note]
  # TensorFlow prints nothing itself; libjpeg prints a line for some images.
  assert not any('local_rendezvous' in x or 'jpeg_mem' in x for x in notes)
  for path, note in zip(sorted(map(str, damaged)), sorted(named), strict=True):
    wrong = 'counted as wrong' if '/test/' in path else 'takes its place'
    assert note.startswith(f'note: {path}') and note.endswith(wrong)
  metrics = read_metrics(tmp_path / 'run')
  counts = [row['replaced_images'] for row in metrics]
  assert counts == sorted(counts) and counts[-1] == result.replaced_images
  assert read_json(tmp_path / 'run' / 'result.json')['num_examples'] == 16


def test_train_refuses_a_class_without_a_readable_image(folder, tmp_path):
  """A class lost to decoding: images of other classes took its place."""
  photos = tmp_path / 'photos'
  shutil.copytree(folder, photos)
  for path in photos.glob('train/china/*'):
    path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match='none of the 16 images of class ') as e:
    jobs.train(small_vit_on(photos), tmp_path / 'run', show=False)
  assert "'china' in split 'train' can be decoded" in str(e.value)
  assert '\n' not in str(e.value)


def test_train_counts_a_class_that_lost_most_images(folder, tmp_path, capfd):
  """A class lost to decoding, but for a few images."""
  photos = tmp_path / 'photos'
  shutil.copytree(folder, photos)
  lost = sorted(photos.glob('train/china/*'))[:14]
  for path in [*lost, *photos.glob('test/flower/*')]:
    path.write_bytes(path.read_bytes()[:100])
  result = jobs.train(small_vit_on(photos), tmp_path / 'run', show=False)
  wanted = [
    "most images of 1 of 2 classes of split 'train' cannot be decoded (china "
    '14 of 16); others take their place',
    "most images of 1 of 2 classes of split 'test' cannot be decoded (flower "
    'all of 8); they count as wrong',
  ]
  assert result.unreadable_by_class == {'china': 14}
  assert list(result.notes) == wanted
  found = read_json(tmp_path / 'run' / 'result.json')
  assert found['unreadable_by_class'] == {'china': 14}
  assert found['notes'] == wanted
  err = capfd.readouterr().err
  (line,) = [x for x in err.splitlines() if "of split 'train' cannot" in x]
  assert '(china 8 of 16)' in line  # once, as soon as half of them are lost
  main.show(result)
  shown = ' '.join(capfd.readouterr().out.replace('│', ' ').split())
  assert 'that cannot be decoded, by class: china 14' in shown
  assert all(line in shown for line in wanted)


def test_train_refuses_a_folder_one_level_too_deep(tmp_path):
  """One class: loss 0 and 100 % after a training that learns nothing."""
  for name in ('train/images/Cat', 'train/images/Dog', 'test/images/Cat'):
    (tmp_path / name).mkdir(parents=True)
    shutil.copy(PHOTOGRAPHS['china'], tmp_path / name / '1.jpg')
  with pytest.raises(ValueError, match='train/images has Cat, Dog: are these'):
    jobs.train(small_vit_on(tmp_path), tmp_path / 'run', show=False)


def test_train_notes_files_left_out_and_classes_not_tested(
  folder, tmp_path, capfd
):
  """Files and classes left out in silence."""
  photos = tmp_path / 'photos'
  shutil.copytree(folder, photos)
  shutil.copytree(photos / 'train' / 'china', photos / 'train' / 'castle')
  (photos / 'train' / 'castle' / 'x.heic').touch()
  (photos / 'train' / '@eaDir').mkdir()
  config = small_vit_on(photos) | dict(total_steps=1)
  result = jobs.train(config, tmp_path / 'run', show=False)
  left_out, untested = result.notes
  assert f'{photos}/train: left out 1 .heic, 1 @eaDir/; ' in left_out
  assert "'test' has no image of 1 of 3 classes (castle)" in untested
  err = capfd.readouterr().err
  assert all(err.count(f'note: {line}\n') == 1 for line in result.notes)
  card = read_json(tmp_path / 'run' / 'model.json')
  assert card['class_names'] == ['castle', 'china', 'flower']


NARROW = dict(block_units=(1,), root_channels=32)


def test_main_fine_tunes_bit_by_the_hyperrule(folder, monkeypatch, tmp_path):
  """The 32 training images decide the schedule, and that mixup is off."""
  spec = models.variant('BiT-M-R50x1') | NARROW
  params = tiny_models.params_of(spec, image_size=(32, 32))
  weights.save(tmp_path / 'BiT-M-R50x1.npz', params)
  metrics = run(
    monkeypatch,
    'bit.py:BiT-M-R50x1,cifar10',
    tmp_path / 'run',
    f'--config.dataset={folder}',
    f'--config.pretrained_dir={tmp_path}',
    '--config.model.block_units=(1,)',
    '--config.model.root_channels=32',
    '--config.pp.train=train',
    '--config.pp.resize=40',
    '--config.pp.crop=32',
    '--config.total_steps=2',
    '--config.warmup_steps=1',
    '--config.batch=8',
    '--config.accum_steps=1',
    '--config.progress_every=1',
  )
  assert [line['step'] for line in metrics] == [1, 2]
  np.testing.assert_allclose(metrics[1]['lr'], 0.003, rtol=1e-6)


def one_of_two(port, index, runs):
  """Trains as one of two processes."""
  jax.distributed.initialize(
    coordinator_address=f'localhost:{port}',
    num_processes=2,
    process_id=index,
    initialization_timeout=60,
  )
  for config, workdir in runs:
    result = jobs.train(config, workdir, show=False)
    print('accuracy', result.accuracy, 'replaced', result.replaced_images)


@pytest.fixture(scope='module')
def in_two_processes(folder, tmp_path_factory):
  """Two runs in the same two processes, the second on damaged images.

  Gives the folder with the workdirs `whole` and `hurt`, the damaged paths, and
  for each process ([a line of each run], standard error).
  """
  root = tmp_path_factory.mktemp('two')
  photos = shutil.copytree(folder, root / 'photos')
  damaged = [*photos.glob('train/*/1?.*'), *photos.glob('test/*/0.*')]
  for path in damaged:
    path.write_bytes(b'')
  runs = [
    (small_vit_on(folder), root / 'whole'),
    (small_vit_on(photos), root / 'hurt'),
  ]
  port = child_processes.free_port()
  children = [
    child_processes.Child(one_of_two, port, index, runs, devices=2)
    for index in range(2)
  ]
  codes = [child.wait() for child in children]
  printed = [(child.stdout, child.stderr) for child in children]
  assert codes == [0, 0], printed
  printed = [(re.findall('accuracy .*', out), err) for out, err in printed]
  return root, damaged, printed


@pytest.fixture(scope='module')
def in_one_process(folder, tmp_path_factory):
  """A copy of the data folder, the workdir of a run on it, and its result."""
  root = tmp_path_factory.mktemp('one')
  photos, workdir = shutil.copytree(folder, root / 'photos'), root / 'run'
  return photos, workdir, jobs.train(small_vit_on(photos), workdir, show=False)


def test_train_gives_the_same_losses_in_two_processes(
  in_one_process, in_two_processes
):
  """Both runs see the same global batches."""
  _, workdir, result = in_one_process
  root, _, printed = in_two_processes
  for lines, _ in printed:
    assert lines[0] == f'accuracy {result.accuracy} replaced 0'
  losses = [
    [line['train_loss'] for line in read_metrics(path)]
    for path in (workdir, root / 'whole')
  ]
  assert len(losses[0]) == 8
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_train_counts_damaged_images_of_both_processes(in_two_processes):
  root, damaged, printed = in_two_processes
  replaced = read_json(root / 'hurt' / 'result.json')['replaced_images']
  assert replaced > 40  # of four epochs, with 12 to replace in each
  for lines, _ in printed:
    assert lines[1].endswith(f'replaced {replaced}')
  for path in damaged:  # the process that reads a file names it
    assert any(f'note: {path} is not' in errors for _, errors in printed)


ERRORS = {
  'misspelt key': (
    ('quickstart.py', '--config.bas_lr=3'),
    'unknown key config.bas_lr; did you mean config.base_lr or',
  ),
  'no such set': (
    ('quickstart.py', '--config.dataset=cifar10'),
    "data set 'cifar10' is not prepared",
  ),
  'batch': (
    ('quickstart.py', '--config.batch=60', '--config.accum_steps=8'),
    'config.batch=60 must be a multiple of 64: accum_steps=8 times 8 devices',
  ),
  'weights': (
    (
      'vit.py:b16,cifar10',
      '--config.dataset=digits',
      '--config.pp.train=train',
    ),
    'no weights file ./ViT-B_16.npz; put it there',
  ),
  'model class': (
    ('quickstart.py', '--config.model.hidden_sise=8'),
    'unknown key config.model.hidden_sise; did you mean config.model.hidden_s',
  ),
  'None': (
    ('quickstart.py', '--config.dataset=None'),
    'config.dataset=None must be a text; leave it out',
  ),
  'keys before an unknown file': (
    ('nothing.py', '--config.batch=3', '--config.no.key=3'),
    'no configuration file',
  ),
  'model name': (('vit.py:b17,cifar10',), "unknown model 'b17'; did you mean"),
  'model field': (
    ('quickstart.py', '--config.model.dtype=float17'),
    "unknown dtype 'float17'; choose",
  ),
  'no configuration': (('nothing.py',), 'no configuration file'),
  'argument': (('quickstart.py:mnist',), "unknown quickstart 'mnist'; choose"),
  'value': (
    ('quickstart.py', '--config.base_lr=high'),
    'config.base_lr=high must be a number',
  ),
  'split': (
    ('quickstart.py', '--config.pp.test=validation'),
    '; set --config.pp.test',
  ),
  'optimizer': (
    ('quickstart.py', '--config.optim=adam'),
    "config.optim='adam' is unknown; choose from",
  ),
  'unused setting': (
    ('quickstart.py', '--config.decay_steps=(3,5)'),
    "config.decay_steps=[3, 5] needs decay_type='steps'; set that",
  ),
  'schedule': (
    ('quickstart.py', '--config.warmup_steps=5000'),
    'warmup_steps=5000 must be at least 0 and below',
  ),
  'mesh': (
    ('quickstart.py', '--config.mesh.data=3'),
    'does not cover 8 devices',
  ),
  'resize': (
    ('quickstart.py', '--config.pp.resize=4'),
    'resize=(4, 4) must be at least as large as crop=(8, 8)',
  ),
  'heads': (
    ('quickstart.py', '--config.model.transformer.num_heads=3'),
    'hidden_size=64 must be a multiple of num_heads=3',
  ),
  'classifier': (
    ('quickstart.py', '--config.model.classifier=unpooled'),
    'config.model gives (16, 10) outputs for an image',
  ),
  'learning rate': (
    ('quickstart.py', '--config.base_lr=nan'),
    'config.base_lr=nan must be a number of at least 0',
  ),
  'remote folder': (
    (
      'vit.py:b16,cifar10',
      '--config.dataset=digits',
      '--config.pp.train=train',
      '--config.pretrained_dir=s3://models/imagenet21k',
    ),
    "pretrained_dir: 's3://models/imagenet21k' cannot be fetched; give a file",
  ),
  'preprocessing': (
    ('quickstart.py', '--config.preprocessing=timn'),
    "unknown preprocessing 'timn'; choose",
  ),
}


@pytest.mark.parametrize('name', ERRORS)
def test_main_refuses_wrong_settings_in_one_line(
  name, monkeypatch, tmp_path, capsys
):
  (config, *more), says = ERRORS[name]
  with pytest.raises(SystemExit) as stopped:
    run(monkeypatch, config, tmp_path / 'run', *more)
  assert stopped.value.code in (1, 2)
  (line,) = run_lines.others(capsys.readouterr().err.strip())
  assert says in line and line.startswith('main: ')
  assert not (tmp_path / 'run').exists()


@pytest.mark.quick
def test_main_reads_keys_of_a_flag_file(tmp_path, capsys):
  """Flags that only the command line may have."""
  (tmp_path / 'flags').write_text('--config.model.hiden_size=3\n')
  argument = f'--flagfile={tmp_path}/flags'
  with pytest.raises(SystemExit) as stopped:
    main.main(['main', *flags('quickstart.py', tmp_path / 'run'), argument])
  assert stopped.value.code == 2
  assert 'unknown key config.model.hiden_size' in capsys.readouterr().err


@pytest.mark.quick
@pytest.mark.parametrize('flag', ['--workdir=None', '--workdir='])
def test_main_refuses_a_folder_of_no_name(flag, tmp_path, monkeypatch, capsys):
  """A folder called None, from a script without a value."""
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as stopped:
    main.main(['main', '--config=configs/quickstart.py', flag])
  assert stopped.value.code == 2
  assert f'main: {flag} is ' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_main_leaves_a_workdir_of_other_settings_unchanged(
  finished, monkeypatch, capsys
):
  tmp_path = finished
  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}
  with pytest.raises(SystemExit):
    run(
      monkeypatch, 'quickstart.py', tmp_path, *FINISHED, '--config.base_lr=0.1'
    )
  err = capsys.readouterr().err.strip().splitlines()[-1]
  assert 'base_lr was 0.003 and is 0.1; choose another workdir' in err
  assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')} == before


def test_main_leaves_a_folder_without_a_run_unchanged(
  monkeypatch, tmp_path, capsys
):
  (tmp_path / 'metrics.jsonl').write_text('mine')
  with pytest.raises(SystemExit):
    run(monkeypatch, 'quickstart.py', tmp_path, *TINY)
  assert "has ['metrics.jsonl'] and no config.json" in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']
  assert (tmp_path / 'metrics.jsonl').read_text() == 'mine'


def test_train_refuses_a_workdir_with_other_data(in_one_process):
  photos, workdir, _ = in_one_process
  next((photos / 'train' / 'china').iterdir()).unlink()
  says = 'holds a run on other data: the train split (had|lacks) '
  with pytest.raises(ValueError, match=says) as error:
    jobs.train(small_vit_on(photos), workdir, show=False)
  assert '\n' not in str(error.value)


def test_main_resumes_without_the_pretrained_file(monkeypatch, tmp_path):
  """The mesh changes too. A leftover temporary file is removed."""
  spec = tiny_models.spec(1000, patch_size=(16, 16), num_layers=1, mlp_dim=16)
  path = tmp_path / 'ViT-Ti_16.npz'
  weights.save(path, tiny_models.params_of(spec, image_size=(32, 32)))
  more = (
    *TINY,
    '--config.dataset=digits',
    f'--config.pretrained_dir={tmp_path}',
    '--config.pp.train=train',
    '--config.pp.test=test[:40]',
    '--config.pp.crop=32',
    '--config.total_steps=2',
    '--config.batch=8',
    '--config.accum_steps=1',
  )
  workdir = tmp_path / 'run'
  run(monkeypatch, 'vit.py:ti16,cifar10', workdir, *more)
  before = parameters(workdir)
  path.unlink()
  (workdir / 'result.json').unlink()
  (workdir / '.model.npz.abc.tmp').write_text('half')
  run(
    monkeypatch, 'vit.py:ti16,cifar10', workdir, *more, '--config.mesh.fsdp=8'
  )
  assert not (workdir / '.model.npz.abc.tmp').exists()
  for name, array in parameters(workdir).items():
    np.testing.assert_array_equal(array, before[name])


def test_main_exits_cleanly_on_an_error_during_compilation(finished, tmp_path):
  """A new interpreter shuts down while other threads compile."""
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'vit_jax_repro.main'),
      *flags('quickstart.py', tmp_path / 'run', *TINY),
      f'--config.pretrained_dir={finished}',
      '--config.model_or_filename=model',
      # The width differs, and compilation takes longer than reading.
      '--config.model.hidden_size=128',
      '--config.model.transformer.num_layers=12',
    ],
    env=os.environ | dict(XLA_FLAGS='', JAX_DISABLE_MOST_OPTIMIZATIONS='0'),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1, done.stderr
  assert 'weights do not fit the model' in done.stderr.splitlines()[-1]


def test_main_stops_a_diverging_run_with_its_step(
  monkeypatch, tmp_path, capsys
):
  with pytest.raises(SystemExit):
    run(
      monkeypatch,
      'quickstart.py',
      tmp_path,
      *TINY,
      '--config.base_lr=1e30',
      '--config.grad_norm_clip=0',
    )
  err = capsys.readouterr().err.strip().splitlines()[-1]
  assert err.startswith('main: the loss is nan at step ')
  assert not (tmp_path / 'model.npz').exists()


@pytest.mark.parametrize(
  'config, more, wanted',
  [
    ('quickstart.py', ['--target=v9:2x2'], 'unknown --target=v9:2x2'),
    ('quickstart.py', ['--target=t4'], 'needs the card itself'),
    ('quickstart.py', ['--target=v5e:2x4'], "pip install 'jax[tpu]=="),
    ('quickstart.py', ['--target=h100'], 'pip install --no-deps jax-cuda12'),
    ('quickstart.py:transfer', ['--target=h100'], 'one run, not of a study'),
    ('quickstart.py', ['--json=a.json'], '--json needs --target; give'),
    ('quickstart.py', ['--largest_batch'], '--largest_batch needs --target'),
    ('quickstart.py', ['--target=h100', '--json=/no/a.json'], 'cannot write'),
  ],
)
def test_main_refuses_wrong_dry_runs_in_one_line(
  config, more, wanted, monkeypatch, capsys
):
  """The machine has no compilers for accelerators."""
  real = importlib.util.find_spec
  compilers = ('libtpu', 'jax_cuda12_plugin', 'jax_cuda13_plugin')
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *more: None if name in compilers else real(name, *more),
  )
  arguments = ['main', f'--config={CONFIGS}/{config}', *more]
  monkeypatch.setattr(sys, 'argv', arguments)
  with pytest.raises(SystemExit) as exit:
    main.main()
  out, err = capsys.readouterr()
  assert exit.value.code in (1, 2) and not out
  assert wanted in err and err.count('\n') == 1
