#!/usr/bin/env python
"""Prints the tables of docs/security.md: what each hostile input costs.

  python scripts/measure_hostile_inputs.py

Each input is opened in a process of its own, which has loaded the libraries.
The figures are the seconds of its CPUs until the line, and the peak of resident
memory beyond that before the input was opened (Linux).
"""

import importlib
import json
import multiprocessing
import pathlib
import sys

_TESTS = pathlib.Path(__file__).resolve().parents[1] / 'tests'
sys.path[:0] = [str(_TESTS / 'helpers'), str(_TESTS.parent)]

import child_processes  # noqa: E402
import hostile  # noqa: E402

_ROOMS = {
  'Weights': 'hostile_weights',
  'Descriptions of models': 'hostile_cards',
  'Files of runs': 'hostile_runs',
  'Images': 'hostile_images',
  'Names': 'hostile_names',
  'Servers': 'hostile_servers',
}


# What every process has loaded, in place of the list of `child_processes`.
_LIBRARIES = (
  'flax.linen',
  'huggingface_hub',
  'orbax.checkpoint',
  'tensorflow',
  'torch',
  'vit_jax_repro.jobs',
)


def main() -> None:
  """Prints a table for each room."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(list(_LIBRARIES))
  for room, module in _ROOMS.items():
    print(f'\n### {room}\n\n| input | time | memory | in the line |')
    print('| --- | --- | --- | --- |')
    for place, case in enumerate(importlib.import_module(module).CASES):
      child = child_processes.Child(hostile.measure, module, place)
      assert child.wait() == 0, child.stderr
      found = json.loads(child.stdout.splitlines()[-1])
      cells = [
        case.name.replace('|', r'\|'),
        f'{found["work"]:.1f} s',
        f'{found["memory"] / 1e6:.0f} MB',
        f'`{case.shows}`' if case.shows else '',
      ]
      print(f'| {" | ".join(cells)} |'.replace('|  |', '| |'), flush=True)


if __name__ == '__main__':
  main()
