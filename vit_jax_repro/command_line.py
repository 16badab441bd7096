"""What all verbs share: flags in, one line out when something is wrong."""

import os
import re
import sys
import textwrap
import traceback

from absl import flags, logging

WRONG_USAGE, FAILED = 2, 1
_HELP = {'--help', '-help', '-h', '--helpshort', '--helpfull', '-?'}


def run(verb, main, flag_values, description, *, positional='', argv=None):
  """Parses the command line, calls `main`, exits.

  A wrong flag, and a ValueError or OSError that this package raises about
  what the user gave, become one line on standard error. Any other exception
  is a bug and keeps its traceback.

  Args:
    verb: the name behind `python -m vit_jax_repro.`.
    main: called with the parsed flags and the list of other arguments.
    flag_values: an absl FlagValues that holds this verb's flags only.
    description: one paragraph for --help.
    positional: how the usage line shows other arguments; '' if there are none.
    argv: in place of sys.argv.
  """
  argv = sys.argv if argv is None else argv
  if _HELP & set(argv[1:]):
    print(_help(verb, flag_values, description, positional))
    sys.exit(0)
  try:
    rest = flag_values(argv)[1:]
    if rest and not positional:
      raise flags.Error(f'unexpected argument {rest[0]!r}; see --help')
  except flags.Error as error:
    _fail(verb, _parse_error(str(error)), WRONG_USAGE)
  except AttributeError as error:  # ml_collections, for --config.KEY
    text = str(error).strip('\'"').replace('\\n', ': ').replace("\\'", "'")
    _fail(verb, f'unknown key of the configuration: {text}', WRONG_USAGE)
  # Set before TensorFlow is imported, by whichever library does so.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  logging.set_verbosity(logging.ERROR)
  try:
    main(flag_values, rest)
  except OSError as error:
    if 'Configuration is not available' in str(error):  # ml_collections
      error = _parse_error(str(error))
    _fail(verb, error, FAILED)
  except ValueError as error:
    if not _is_ours(error):
      raise
    _fail(verb, error, FAILED)
  except KeyboardInterrupt:
    _fail(verb, 'interrupted', 130)


def require(flag_values, *names):
  """Raises a ValueError naming the flags in `names` that were not given."""
  missing = [f'--{name}' for name in names if flag_values[name].value is None]
  if missing:
    raise ValueError(f'{" and ".join(missing)} must be given; see --help')


def image_size(text):
  """Reads a flag: '224' or '224x384' (height x width) -> pixels; None stays.

  Raises:
    ValueError: it is neither.
  """
  if text is None:
    return None
  sides = text.lower().split('x')
  if len(sides) > 2 or not all(
    side.isdecimal() and int(side) for side in sides
  ):
    raise ValueError(
      f'--image_size={text} must be pixels such as 224, or HEIGHTxWIDTH such '
      'as 224x384'
    )
  return int(sides[0]), int(sides[-1])


def _is_ours(error):
  """Whether this package itself raised the error, outside of JAX's tracing."""
  last = traceback.extract_tb(error.__traceback__)[-1]
  package = os.path.dirname(os.path.abspath(__file__)) + os.sep
  traced = getattr(error, '__notes__', None)  # JAX removed frames of its own
  return os.path.abspath(last.filename).startswith(package) and not traced


def _parse_error(text):
  """What ml_collections says of a configuration file, without its trace."""
  missing = re.search(r"No such file or directory: '(.*?)'", text)
  if missing:
    return f'no configuration file {missing[1]}'
  if 'Traceback' in text:
    last = text.strip().splitlines()[-1]
    return f'{text.partition(":")[0]}: {last.partition("Error: ")[2] or last}'
  return text


def _fail(verb, error, code):
  if isinstance(error, OSError) and error.strerror and error.filename:
    error = f'{error.strerror}: {error.filename}'
  line = ' '.join(str(error).split())
  print(f'{verb}: {line}', file=sys.stderr, flush=True)
  sys.exit(code)


def _help(verb, flag_values, description, positional):
  lines = [
    f'usage: python -m vit_jax_repro.{verb} [flags] {positional}'.rstrip(),
    '',
    textwrap.fill(' '.join(description.split()), 79),
    '',
  ]
  for name in sorted(flag_values):
    flag = flag_values[name]
    default = '' if flag.default is None else f' (default {flag.default})'
    text = f'--{name}={flag.flag_type().upper()}  {flag.help}{default}'
    lines.append(
      textwrap.fill(text, 79, initial_indent='  ', subsequent_indent='      ')
    )
  return '\n'.join(lines)
