"""Parts that all commands share: flags, help, one-line errors, exit codes."""

import atexit
import contextlib
import gc
import io
import logging as python_logging
import os
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, NoReturn

from absl import flags, logging

from vit_jax_repro import __version__, compilation_cache, environment
from vit_jax_repro.errors import InputError, line_of, one_line
from vit_jax_repro.output import waiting, weight_texts

WRONG_USAGE, FAILED, INTERRUPTED = 2, 1, 130
NOBODY_READS = 141  # exit code that a shell gives a program ended by SIGPIPE
# By import name, the packages that are installed under another name.
_PACKAGES = {
  'PIL': 'pillow',
  'absl': 'absl-py',
  'orbax': 'orbax-checkpoint',
  'sklearn': 'scikit-learn',
  'tensorflow_datasets': 'tensorflow-datasets',
}
joined: list[Any] = []  # this process's `parallel.job.Job`, if it has joined
# Held by whoever prints the last line of a process.
_speaking = threading.Lock()
# Seconds in which an error may turn out to come from a lost process.
_FROM_LOSS = 5.0
_WITHOUT_DEVICES = ('fetch', 'convert')  # verbs for which no card matters
_HELP = {'--help', '-help', '-h', '--helpshort', '--helpfull', '-?'}


class UsageError(InputError):
  """The command line is wrong, independently of any file."""


def run(
  verb: str,
  main: Callable[[Any, list[str]], Any],
  flag_values: flags.FlagValues | Callable[[], flags.FlagValues],
  description: str,
  *,
  positional: str = '',
  argv: Sequence[str] | None = None,
  describe: Callable[[Sequence[str]], str] | None = None,
) -> None:
  """Parses the command line and calls `main`; exits if there is an error.

  A wrong flag, an InputError and an OSError become one line on stderr. Any
  other exception is a bug and keeps its traceback. The exit codes are constants
  of this module.

  Args:
    verb: the name after `python -m vit_jax_repro.`.
    main: called with the parsed flags and the list of other arguments.
    flag_values: the flags of this verb only, or a function that returns them
      and imports JAX.
    description: one paragraph for --help.
    positional: other arguments in the usage line; '' if there are none.
    argv: replaces sys.argv.
    describe: returns the text of --help for the arguments, in place of the
      default text.
  """
  argv = list(sys.argv if argv is None else argv)
  replace_unencodable()
  # This must be set before TensorFlow is imported, by whichever library, and
  # before JAX, which would set it to 1. A configuration file may import both.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  # Python looks for cycles among the libraries' objects when it exits, which
  # takes more than a second.
  atexit.register(gc.freeze)
  notes = [environment.note_on_names(), compilation_cache.keep()]
  if not isinstance(flag_values, flags.FlagValues):
    flag_values = _made(verb, flag_values)
  if _HELP & set(argv[1:]):
    with while_someone_reads():
      if describe is not None:
        print(describe(argv[1:]))
      else:
        print(_help(verb, flag_values, description, positional))
    sys.exit(0)
  if '--version' in argv[1:2]:
    print('vit-jax-repro', __version__)
    sys.exit(0)
  if verb not in _WITHOUT_DEVICES:
    notes.append(environment.note_on_idle_card())
  for line in filter(None, notes):
    waiting.show(f'note: {line}')
  logging.set_verbosity(logging.ERROR)
  # Orbax's threads log a full disk there, once for each array.
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
  with one_line_errors(verb), waiting.watch(verb), while_someone_reads():
    rest = _parsed(verb, flag_values, argv, bool(positional))
    main(flag_values, rest)


def replace_unencodable() -> None:
  """Escapes what standard output and error cannot encode, such as 'é' in ASCII.

  Names of files may be any bytes, and terminals may know few letters.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')


@contextlib.contextmanager
def one_line_errors(verb: str) -> Generator[None, None, None]:
  """Exits with one line on stderr for an error that is not a bug."""
  try:
    yield
    _end_in_order(verb, 0)
  except SystemExit as stop:
    _end_in_order(verb, stop.code)
    raise
  except KeyboardInterrupt:
    fail(verb, 'interrupted', INTERRUPTED)
  except Exception as error:
    line = _line(error)
    if line is not None:
      is_usage = isinstance(error, UsageError)
      fail(verb, line, WRONG_USAGE if is_usage else FAILED)
    if not joined:
      raise
    if joined[-1].has_lost(_FROM_LOSS):
      time.sleep(60)  # the thread that notices it ends this process
    _speaking.acquire()
    print(joined[-1].output(), file=sys.stderr)
    traceback.print_exc()
    _leave(FAILED)


def _made(verb, function):
  """Returns the flags that a function defines."""
  try:
    return function()
  except ValueError as error:  # from importing JAX
    line = environment.explain(error)
    if line is None:
      raise
    fail(verb, line, WRONG_USAGE)


def _parsed(verb, flag_values, argv, takes_others):
  """Parses the flags; returns the other arguments."""
  try:
    environment.check()
    rest = flag_values(argv)[1:]
    if rest and not takes_others:
      raise flags.Error(f'unexpected argument {rest[0]!r}; see --help')
    _refuse_empty(flag_values, rest)
    _name_parts(flag_values)
  except InputError as error:
    fail(verb, error, WRONG_USAGE)
  except flags.Error as error:
    fail(verb, environment.explain(error) or error, WRONG_USAGE)
  return rest


def _name_parts(flag_values):
  """Changes --weights to the text that --base and --ema give with it."""
  if not {'ema', 'base', 'weights'} <= set(flag_values):
    return
  for flag in ('base', 'ema'):
    if flag_values[flag].value and flag_values.weights is None:
      raise UsageError(f'--{flag} goes with --weights; see --help')
  if flag_values.base:
    flag_values.weights = weight_texts.on_base(
      flag_values.weights, flag_values.base
    )
  if flag_values.ema:
    flag_values.weights = weight_texts.averaged(flag_values.weights)


@contextlib.contextmanager
def while_someone_reads():
  """Exits quietly if the reader of the output, such as `head`, has ended."""
  try:
    yield
    sys.stdout.flush()
  except BrokenPipeError:
    # Python flushes stdout again when it exits, which would fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(NOBODY_READS)


def require(flag_values: flags.FlagValues, *names: str) -> None:
  """Checks that flags were given.

  Raises:
    UsageError: flags in `names` were not given.
  """
  missing = [f'--{name}' for name in names if flag_values[name].value is None]
  if missing:
    raise UsageError(f'{" and ".join(missing)} must be given; see --help')


def define_string(
  flag_values: flags.FlagValues, name: str, default: str | None, text: str
) -> None:
  """Defines a flag whose value is a text."""
  flags.DEFINE_string(name, default, text, flag_values=flag_values)


def define_weights_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of commands that apply the model of a weights file."""
  for name, text in {
    'weights': "a weights file, a run's or a port's folder, a published name "
    "such as imagenet21k+imagenet2012/ViT-B_16, timm's or transformers' name, "
    'gs://BUCKET/PATH or hf://USER/REPO',
    'model': 'a model name; by default inferred from the file',
    'preprocessing': 'of images: vit_jax, bit, efficientnet, lit, big_vision, '
    'timm or deit (for the last two also e.g. timm:crop_pct=0.95); by default '
    'inferred from the file',
    'image_size': 'pixels, S or HEIGHTxWIDTH; by default inferred from the '
    'file',
    'json': 'also write the result to this file',
  }.items():
    define_string(flag_values, name, None, text)
  define_source_flags(flag_values)


def define_source_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags that name a part of weights, or what they belong to."""
  define_string(
    flag_values,
    'base',
    None,
    'the model that a PEFT adapter changes, a path or a name; by default the '
    "one in the adapter's configuration, if it is on this machine",
  )
  flags.DEFINE_boolean(
    'ema',
    False,
    'take the averaged weights (EMA) that a trainer saved beside the others',
    flag_values=flag_values,
  )


def define_orientation_flag(flag_values: flags.FlagValues) -> None:
  """Defines the flag of commands that read photographs."""
  flags.DEFINE_enum(
    'orientation',
    None,
    ['exif', 'none'],
    'exif: turns photographs upright by their EXIF orientation; none: takes '
    'them as they are stored; by default as recorded with the weights, else '
    'exif for folders and single files and none for other data sets',
    flag_values=flag_values,
  )


def image_size(
  text: str | None, flag: str = 'image_size'
) -> tuple[int, int] | None:
  """Parses '224' or '224x384' to (height, width) in pixels; None stays None.

  Args:
    text: the value of the flag.
    flag: its name, for the message.

  Raises:
    UsageError: the text is neither.
  """
  if text is None:
    return None
  sides = text.lower().split('x')
  if len(sides) > 2 or not all(
    side.isdecimal() and int(side) for side in sides
  ):
    raise UsageError(
      f'--{flag}={text} must be pixels such as 224, or HEIGHTxWIDTH such as '
      '224x384'
    )
  return int(sides[0]), int(sides[-1])


def _end_in_order(verb, code):
  """Ends a process of several; does nothing in a process that is alone."""
  if not joined:
    return
  with (
    waiting.watch(verb),
    waiting.doing('waiting for the other processes to finish'),
  ):
    have_all_finished = joined[-1].leave()
  if have_all_finished:
    _exit_at_once(code or 0)


def _refuse_empty(flag_values, rest):
  """Refuses empty texts, and None, which a script writes for no value."""
  for text, shown in (('', 'empty'), ('None', 'None')):
    if text in rest:
      raise flags.Error(
        f'argument {rest.index(text) + 1} is {shown}; give a value (is a '
        'variable of the shell not set?)'
      )
    for name in flag_values:
      value = flag_values[name].value
      if value == text or (isinstance(value, list) and text in value):
        raise flags.Error(f'--{name}={text} is {shown}; give a value')


def _line(error):
  """Returns the one-line message of an exception; None if it is a bug."""
  if isinstance(error, InputError | OSError):
    return line_of(error)
  if isinstance(error, ModuleNotFoundError):
    module = (error.name or '').partition('.')[0]
    if not module or module in (__package__, *sys.stdlib_module_names):
      return None
    package = _PACKAGES.get(module, module)
    return (
      f'the Python package {package} is not installed; pip install {package}'
    )
  return environment.explain(error)


def fail(verb: str, error: object, code: int) -> NoReturn:
  """Prints the one line of an error and exits with a code."""
  line = one_line(error)
  number = _process_number()
  where = verb if number is None else f'{verb}, process {number}'
  if number is not None:
    _speaking.acquire()  # for ever: this process ends
  print(f'{where}: {line}', file=sys.stderr, flush=True)
  _leave(code)


def _process_number():
  """Returns the number of this process, None if it is the only one."""
  return joined[-1].number if joined else None


def _leave(code) -> NoReturn:
  """Exits without waiting for other processes or for abandoned threads.

  JAX's exit handler would wait five minutes for the other processes, while they
  wait for the results of this one.
  """
  threads = {thread.name for thread in threading.enumerate()}
  is_compiling = waiting.COMPILER in threads and code == INTERRUPTED
  if joined or is_compiling or waiting.ABANDONED in threads:
    if joined:
      joined[-1].fail()
    _exit_at_once(code)
  sys.exit(code)


def _exit_at_once(code) -> NoReturn:
  """Exits without Python's exit handlers."""
  if sys.stderr.isatty():  # a progress line may have hidden the cursor
    print('\x1b[?25h', end='', file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(code)


def paragraph(text: str) -> str:
  """Returns a text as lines of at most 79 characters."""
  return textwrap.fill(' '.join(text.split()), 79)


def entry(text: str) -> str:
  """Returns an entry of a list for --help; its later lines are indented."""
  return textwrap.fill(
    text, 79, initial_indent='  ', subsequent_indent='      '
  )


def flag_lines(
  flag_values: flags.FlagValues, names: Collection[str] | flags.FlagValues
) -> list[str]:
  """Returns an entry of --help for each of the flags, sorted by name."""
  lines = []
  for name in sorted(names):
    flag = flag_values[name]
    default = '' if flag.default is None else f' (default {flag.default})'
    lines.append(
      entry(f'--{name}={flag.flag_type().upper()}  {flag.help}{default}')
    )
  return lines


def _help(verb, flag_values, description, positional):
  usage = f'usage: python -m vit_jax_repro.{verb} [flags] {positional}'
  return '\n'.join(
    [
      usage.rstrip(),
      '',
      paragraph(description),
      '',
      *flag_lines(flag_values, flag_values),
    ]
  )
