"""`python -m vit_jax_repro`: lists the verbs."""

import importlib.util
import sys

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


def listing() -> str:
  """Returns one line for each verb whose module exists."""
  return '\n'.join(
    f'  python -m vit_jax_repro.{verb:<11} {purpose}'
    for verb, purpose in VERBS.items()
    if importlib.util.find_spec(f'vit_jax_repro.{verb}')
  )


def main() -> None:
  """Prints the verbs; exits with one line if there is an argument."""
  arguments = [a for a in sys.argv[1:] if a not in ('--help', '-h')]
  if arguments:
    print(
      f'unexpected argument {arguments[0]!r}: run '
      'python -m vit_jax_repro.VERB; without arguments this lists the verbs',
      file=sys.stderr,
    )
    sys.exit(2)
  print(f'{listing()}\n\nAdd --help to any of them for its flags.')


if __name__ == '__main__':
  main()
