"""Two processes: the texts they exchange and the checkpoints they share."""

import json

import child_processes
import jax
import pytest
from checkpoint_states import devices, largest, make_state, steps_in

from vit_jax_repro.parallel import mesh, processes
from vit_jax_repro.runs import checkpoint
from vit_jax_repro.weights import integrity


@pytest.mark.quick
def test_first_text_in_one_process_returns_its_text():
  assert processes.first_text('x') == 'x'
  assert processes.first_text(None) is None
  processes.wait_for_all('nobody else')


def together(port, index, root):
  """Saves a divided state twice, truncates the second and restores."""
  jax.distributed.initialize(
    coordinator_address=f'localhost:{port}',
    num_processes=2,
    process_id=index,
    initialization_timeout=60,
  )
  long = 'é\udcff' * 999  # as of a path that is not UTF-8
  exchanged = [processes.first_text(long if index else None)]
  exchanged.append(processes.first_text(None))
  divided, notes = mesh.create_mesh(1, 2, 1), []
  saved = checkpoint.Checkpoints(root / 'checkpoints', note=notes.append)
  for step in (3, 6):
    saved.save(make_state(divided, value=step, step=step), {'seed': step})
  saved.wait()
  processes.wait_for_all('saved')
  if index == 0:
    path = largest(root / 'checkpoints' / '6')
    path.write_bytes(path.read_bytes()[:100])
  processes.wait_for_all('damaged')
  restored, meta = saved.restore(make_state(divided))
  found = integrity.describe_leaves(restored)
  saved.save(make_state(divided, value=6, step=6), {'seed': 6})
  saved.close()
  print(json.dumps([exchanged, meta, found, notes]))
  jax.distributed.shutdown()


def test_two_processes_restore_the_same_checkpoint(tmp_path):
  port = child_processes.free_port()
  children = [
    child_processes.Child(together, port, index, tmp_path, devices=1)
    for index in range(2)
  ]
  codes = [child.wait() for child in children]
  assert codes == [0, 0], [child.stderr for child in children]
  results = [json.loads(child.stdout.splitlines()[-1]) for child in children]
  assert results[0] == results[1]
  exchanged, meta, found, (note,) = results[0]
  assert exchanged == ['é\udcff' * 999, None] and meta == {'seed': 3}
  # One process, one device: the same checksums.
  alone = make_state(devices(1), value=3, step=3)
  assert found == integrity.describe_leaves(alone)
  assert note.endswith(f'moving it to {tmp_path}/damaged/6')
  assert steps_in(tmp_path / 'checkpoints') == [3, 6]
  assert steps_in(tmp_path / 'damaged') == [6]
