"""`vit-jax-repro`, or `python -m vit_jax_repro`: runs or lists the commands."""

import difflib
import importlib
import os
import sys

PROGRAM = 'vit-jax-repro'
VERBS = {
  'main': 'trains: pre-trains, fine-tunes, resumes',
  'evaluate': 'accuracy of a weights file on a data set',
  'predict': 'class names and probabilities for images',
  'fetch': 'gets published weights by name',
  'convert': 'other layouts and libraries, both ways',
  'crosscheck': 'compares a PyTorch port layer by layer',
  'reproduce': "checks the paper's numbers",
  'figures': 'attention maps, embeddings, plots as PNG',
  'benchmark': 'step time, throughput, memory, input speed',
}
_OTHER_NAMES = {  # by what they are called elsewhere
  'train': 'main',
  'finetune': 'main',
  'fine-tune': 'main',
  'pretrain': 'main',
  'eval': 'evaluate',
  'test': 'evaluate',
  'infer': 'predict',
  'classify': 'predict',
  'download': 'fetch',
  'export': 'convert',
  'compare': 'crosscheck',
  'plot': 'figures',
}


def listing() -> str:
  """Returns one line for each command."""
  return '\n'.join(
    f'  python -m vit_jax_repro.{verb:<11} {purpose}'
    for verb, purpose in VERBS.items()
  )


def main() -> None:
  """Runs the command that the first argument names, or lists the commands."""
  name, *rest = sys.argv[1:] or ['--help']
  if name in ('--help', '-h', 'help'):
    from vit_jax_repro import command_line

    with command_line.while_someone_reads():
      print(
        f'{listing()}\n\n{PROGRAM} COMMAND runs the same commands. Add --help '
        'to any of them for\nits flags, --version for the version.'
      )
  elif name == '--version':
    from vit_jax_repro import __version__

    print(PROGRAM, __version__)
  elif name in VERBS:
    if os.getcwd() not in sys.path:
      sys.path.insert(0, os.getcwd())  # as `python -m` does
    sys.argv = [f'{PROGRAM} {name}', *rest]
    importlib.import_module(f'vit_jax_repro.{name}').main()
  else:
    print(f'{PROGRAM}: {_unknown(name)}', file=sys.stderr)
    sys.exit(2)


def _unknown(name):
  # `output.messages` has suggestions, too, but imports JAX.
  near = _OTHER_NAMES.get(name.lower()) or next(
    iter(difflib.get_close_matches(name.lower(), VERBS, 1)), None
  )
  hint = f'did you mean {near!r}? ' if near else ''
  return f'unknown command {name!r}; {hint}choose from {", ".join(VERBS)}'


if __name__ == '__main__':
  main()
