"""Several processes: how they join, and errors in one line."""

import functools
import json
import re
import signal
import socket
import time

import child_processes
import joined_processes
import other_software
import pytest
import run_lines
import tiny_models
from run_verb import assert_one_line, run_verb

from vit_jax_repro import jobs, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.parallel import processes
from vit_jax_repro.weights import model_card

ALONE = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '8', 'HOME': '/'}
SLURM = ALONE | {
  'SLURM_STEP_NUM_TASKS': '8',
  'SLURM_STEP_NUM_NODES': '2',
  'SLURM_PROCID': '5',
  'SLURM_LOCALID': '1',
}


@pytest.mark.parametrize(
  'environ, found',
  [
    ({}, None),
    (ALONE, None),  # a script of sbatch, without srun
    (SLURM, 'SLURM'),
    (SLURM | {'SLURM_STEP_NUM_TASKS': '1'}, None),
    ({'OMPI_COMM_WORLD_SIZE': '4'}, 'Open MPI'),
    ({'OMPI_COMM_WORLD_SIZE': '1'}, None),
    ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, None),
  ],
)
def test_launcher_recognizes_slurm_and_open_mpi(environ, found):
  assert processes.launcher(environ) == found


@pytest.mark.parametrize(
  'more, devices',
  [
    ({}, None),  # no GPU
    ({'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, [1]),  # a task for each
    ({'CUDA_VISIBLE_DEVICES': '0,1,2,3,4,5,6,7'}, [2, 3]),
    ({'CUDA_VISIBLE_DEVICES': '0'}, [0]),  # SLURM shows each task only its own
    ({'CUDA_VISIBLE_DEVICES': '0,1,2,3', 'SLURM_GPUS_PER_TASK': '4'},
     [0, 1, 2, 3]),
    ({'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_STEP_NUM_NODES': '8',
      'SLURM_LOCALID': '0'}, [0, 1]),  # one task a node
  ],
)  # fmt: skip
def test_slurm_devices_of_a_task(more, devices):
  assert processes.slurm_devices(SLURM | more) == devices


FLAGS = ['--weights=x.npz', '--dataset=digits']


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--num_processes=2'], '--num_processes is not enough; --coord'),
    (
      ['--coordinator_address=a:1', '--process_id=0'],
      '--coordinator_address and --process_id is not enough',
    ),
    (
      ['--coordinator_address=a:1', '--num_processes=2', '--process_id=2'],
      '--process_id=2 must be less than --num_processes=2',
    ),
    (
      ['--coordinator_address=a', '--num_processes=2', '--process_id=1'],
      '--coordinator_address=a must be HOST:PORT',
    ),
    (
      ['--coordinator_address=a:70000', '--num_processes=2', '--process_id=1'],
      '--coordinator_address=a:70000 must be HOST:PORT',
    ),
    (
      ['--num_processes=2', '--distributed=off'],
      '--distributed=off excludes --num_processes',
    ),
    (['--process_id=-1'], 'process_id'),
    (['--distributed=yes'], 'distributed'),
  ],
)
def test_evaluate_refuses_incompatible_process_flags(flags, message):
  answer = run_verb('evaluate', *FLAGS, *flags)
  assert answer[0] == 2
  assert_one_line(answer, message)


def test_evaluate_reports_processes_not_joined_in_one_line():
  taken = socket.create_server(('', 0))
  address = f'localhost:{child_processes.free_port()}'
  cases = {
    f'localhost:{taken.getsockname()[1]}': (0, 'cannot listen on port'),
    address: (1, f'coordinator at {address} could not be joined within 1 s'),
    # No other process joins.
    f'localhost:{child_processes.free_port()}': (
      0,
      'could not be joined within 1 s',
    ),
  }
  children = [
    child_processes.Child(
      child_processes.verb,
      'evaluate',
      [
        *FLAGS,
        f'--coordinator_address={where}',
        '--num_processes=2',
        f'--process_id={number}',
        '--initialization_timeout=1',
      ],
    )
    for where, (number, _) in cases.items()
  ]
  for child, (_, message) in zip(children, cases.values(), strict=True):
    assert child.wait(60) == 1, child.stderr
    assert message in child.stderr and child.stderr.count('\n') == 1
  answer = run_verb('evaluate', *FLAGS, '--distributed=on')
  assert_one_line(answer, 'cannot join the processes that the launcher')
  taken.close()


@pytest.mark.parametrize(
  ('environ', 'flags', 'text'),
  [
    (
      SLURM
      | {
        'SLURM_STEP_NUM_TASKS': '2',
        'SLURM_NTASKS': '2',
        'SLURM_PROCID': '1',
        'SLURM_STEP_NODELIST': 'localhost',
      },
      [],
      'waiting for the other processes that SLURM started, for at most 3 s (1',
    ),
    (
      {},
      ['--coordinator_address=localhost:9', '--num_processes=2',
       '--process_id=1'],
      'waiting for the other processes at localhost:9, for at most 3 s (1',
    ),
  ],
  ids=['SLURM', 'address'],
)  # fmt: skip
def test_evaluate_names_what_a_process_waits_for(
  environ, flags, text, monkeypatch
):
  """A process that waits for others names another step."""
  for name, value in environ.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('VIT_JAX_REPRO_PATIENCE', '0.5')
  child = child_processes.Child(
    child_processes.verb,
    'evaluate',
    [*FLAGS, *flags, '--initialization_timeout=3'],
  )
  assert child.wait(60) == 1, child.stderr
  *_, before, last = child.stderr.splitlines()
  assert text in child.stderr, child.stderr
  assert before.startswith(text.partition(' (')[0])
  assert 'could not be joined within 3 s' in last


def test_evaluate_in_two_processes_counts_as_in_one(tmp_path):
  path = tmp_path / 'model.npz'
  weights.save(path, tiny_models.params_of(tiny_models.spec(10)))
  flags = f'--weights={path}', '--dataset=digits', '--split=test[:101]'
  flags = *flags, '--batch_size=32', '--per_class'
  one, two = (
    [f'--{k}={tmp_path / name}.{k}' for k in ('json', 'wrong')]
    + [f'--confusion={tmp_path / name}.csv']
    for name in ('one', 'two')
  )
  code, _, err = run_verb('evaluate', *flags, *one)
  assert not code, err
  children = child_processes.in_two('evaluate', *flags, *two)
  assert [child.wait() for child in children] == [0, 0], children[0].stderr
  first, second = children
  assert 'top-1' in first.stdout and 'Gloo' not in first.stdout
  assert not second.stdout and not second.stderr
  results = [
    json.loads((tmp_path / name).read_text())
    for name in ('one.json', 'two.json')
  ]
  for key in ('correct', 'accuracy', 'top5_accuracy', 'num_examples'):
    assert results[0][key] == results[1][key]
  assert results[0]['per_class'] == results[1]['per_class']
  confusion = [(tmp_path / f'{n}.csv').read_text() for n in ('one', 'two')]
  assert confusion[0] == confusion[1]
  # The order and the last digits depend on the number of processes.
  wrong = [
    sorted(line.rpartition(',')[0] for line in text.splitlines())
    for text in ((tmp_path / f'{n}.wrong').read_text() for n in ('one', 'two'))
  ]
  assert wrong[0] == wrong[1] and len(wrong[0]) == 102 - results[0]['correct']


DIFFERENT = {  # changes of process 1, and what differs then
  'the SHA-256 of the weights': dict(weights='two.npz'),
  'the model': dict(weights='renamed.npz'),
  'split': dict(split='test[:8]'),
  'batch_size': dict(batch_size=5),
  'among': dict(among='dataset'),
  'shots': dict(shots=(1, 2)),
  'seeds': dict(shots=(1,), seeds=1),
  'l2': dict(shots=(1,), l2=1.0),
  'the split train[:99]': dict(shots=(1,), train_split='train[:98]'),
  'the code in vit_jax_repro/training/optim.py': {},
  'the version of jax': {},
}


def evaluate_each(port, number, root):
  """Evaluates where process 1 differs; prints the answers."""
  processes.initialize(f'localhost:{port}', 2, number, timeout=60)
  both = dict(dataset='digits', split='test[:9]', weights='one.npz')
  few = dict(shots=(1,), train_split='train[:99]', seeds=2)

  def attempt(changes):
    options = both | (few if 'shots' in changes else {})
    options |= changes if number else {}
    measure = jobs.fewshot if 'shots' in options else jobs.evaluate
    try:
      measure(**options | {'weights': root / options['weights']})
      print('RESULT nothing')
    except InputError as error:
      print('RESULT', error)

  attempt(dict(weights='same.npz'))
  attempt(dict(few, weights='same.npz'))
  for name, changes in DIFFERENT.items():
    if number and name.startswith('the code'):
      other_software.change_code(root)
    if number and name.startswith('the version'):
      other_software.change_version(root)
    attempt(changes)


def test_evaluate_and_fewshot_refuse_processes_that_differ(tmp_path):
  architecture, names = tiny_models.spec(10), [str(x) for x in range(10)]
  for name, seed, names_of in (
    ('one', 0, names),
    ('two', 1, names),
    ('same', 0, names),
    ('renamed', 0, names[::-1]),
  ):
    params = tiny_models.params_of(architecture, seed=seed)
    model_card.save_model(
      tmp_path / f'{name}.npz',
      params,
      architecture=architecture,
      class_names=names_of,
    )
  port = child_processes.free_port()
  children = [
    child_processes.Child(evaluate_each, port, number, tmp_path, devices=1)
    for number in range(2)
  ]
  assert [child.wait() for child in children] == [0, 0], children[0].stderr
  first, second = (re.findall('RESULT (.*)', x.stdout) for x in children)
  assert first == second
  assert first[:2] == ['nothing', 'nothing']
  for line, name in zip(first[2:], DIFFERENT, strict=True):
    assert line.startswith(f'the processes of this job differ: {name} is ')


def test_evaluate_in_a_failing_process_does_not_wait_for_others(tmp_path):
  """Process 0 can read the weights, process 1 cannot."""
  path = tmp_path / 'model.npz'
  weights.save(path, tiny_models.params_of(tiny_models.spec(10)))
  started = time.monotonic()
  first, second = child_processes.in_two(
    'evaluate',
    '--dataset=digits',
    each=([f'--weights={path}'], ['--weights=nothing.npz']),
  )
  assert second.wait(60) == 1
  assert time.monotonic() - started < 60
  assert second.stderr.count('\n') == 1
  assert second.stderr.startswith('evaluate, process 1: no weights')
  assert first.wait(60) == 1
  line, *more = first.stderr.splitlines()
  assert not more, first.stderr
  assert line.startswith('evaluate, process 0: process 1 has ended, and the ')


def test_main_refuses_an_unshared_workdir(tmp_path):
  """Two folders act as the separate disks of two machines."""
  folders = [tmp_path / name / 'run' for name in 'ab']
  for folder in folders:
    folder.parent.mkdir()
  children = child_processes.in_two(
    'main',
    '--config=configs/quickstart.py',
    each=[[f'--workdir={folder}'] for folder in folders],
  )
  for number, child in enumerate(children):
    assert child.wait() == 1, child.stderr
    (line,) = run_lines.others(child.stderr)
    assert line.startswith(f'main, process {number}: workdir=')
    assert 'is not there for process 1 of 2; give the full' in line
  assert not [path for folder in folders for path in folder.parent.iterdir()]


@pytest.mark.parametrize(
  'devices, second, differs',
  [
    (
      (1, 2),
      [],
      'the number of devices is 1 in process 0 and 2 in process 1; give',
    ),
    (
      (2, 2),
      ['--num_processes=3'],
      '--num_processes is 2 in process 0 and 3 in process 1; give',
    ),
  ],
)
def test_main_refuses_processes_that_were_started_differently(
  tmp_path, devices, second, differs
):
  children = child_processes.in_two(
    'main',
    '--config=configs/quickstart.py',
    f'--workdir={tmp_path / "run"}',
    devices=devices,
    each=([], second),
  )
  for number, child in enumerate(children):
    assert child.wait() == 1, child.stderr
    (line,) = run_lines.others(child.stderr)
    assert line.startswith(
      f'main, process {number}: the processes of this job differ: {differs}'
    )
  assert not [*tmp_path.iterdir()]


def test_process_ends_after_another_was_killed():
  first, second = joined_processes.start(
    functools.partial(processes.wait_for_all, 'never'), heartbeat_timeout=4
  )
  second.kill()
  assert first.wait(60) in (-signal.SIGABRT, 1)
