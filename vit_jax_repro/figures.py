"""`python -m vit_jax_repro.figures`: the papers' figures, from your files."""

from typing import Any, NoReturn

from absl import flags

DESCRIPTION = """Draws figures as PDF, PNG or SVG from weights files, and from
the results of training runs, studies and benchmarks."""


def main(argv: list[str] | None = None) -> None:
  """Parses a command line, runs it and exits."""
  from vit_jax_repro import subcommands

  subcommands.run(
    'figures', commands(), command_flags(), DESCRIPTION, argv=argv
  )


def command_flags() -> flags.FlagValues:
  """Returns the flags of all commands, a new FlagValues."""
  from vit_jax_repro import command_line

  values = flags.FlagValues()
  for name, text in {
    'out': 'the picture, .pdf, .png or .svg',
    'arrays': 'also write the plotted arrays to this .npz file',
    'weights': "a published .npz file or a run's model.npz",
    'model': 'a model name; by default inferred from the file',
    'preprocessing': 'of images, as for `predict`',
    'image_size': 'pixels, S or HEIGHTxWIDTH; by default inferred from the '
    'file',
    'token': "query token: class, mean (over all patches), or a patch's "
    'ROW,COLUMN; by default class or, without a class token, mean',
    'layer': 'maps of the heads of these layers, such as 0 or 0,11 or all, in '
    'place of the rollout; `positions`: one layer, if each has its own',
    'head': 'with --layer: these heads, such as 0,3; by default all',
    'results': 'a folder of measured results',
    'against': 'other weights to draw next to --weights on the same scale, or '
    '`untrained`, the same model with random weights',
  }.items():
    command_line.define_string(values, name, None, text)
  command_line.define_source_flags(values)
  command_line.define_orientation_flag(values)
  flags.DEFINE_enum(
    'heads',
    'mean',
    ['mean', 'max', 'min'],
    'how the rollout combines the heads; the ViT paper takes the mean',
    flag_values=values,
  )
  for name, text, low, high in (
    ('width', 'inches; by default 3.25 for .pdf, one column of a paper', 1, 60),
    ('dpi', 'pixels per inch; by default 120 for .png; of images in .pdf and '
     '.svg 300', 10, 2400),
  ):  # fmt: skip
    flags.DEFINE_float(
      name, None, text, lower_bound=low, upper_bound=high, flag_values=values
    )
  flags.DEFINE_boolean(
    'grey',
    None,
    'sum the filters over red, green and blue, which is all that grey images '
    'meet; by default if the run has a grey data set',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'components',
    28,
    'largest number of components',
    lower_bound=1,
    upper_bound=1000,
    flag_values=values,
  )
  return values


def commands() -> dict[str, Any]:
  """Returns {name: subcommands.Command}."""
  from vit_jax_repro.subcommands import Command

  files = ('out', 'width', 'dpi', 'arrays')
  model = (*files, 'weights', 'base', 'ema', 'model', 'image_size')
  images = (*model, 'preprocessing', 'orientation')
  many = 10_000
  return {
    'attention': Command(
      _attention,
      'attention of a ViT or hybrid in images: attention rollout, or the maps '
      'of single heads (--layer, --head)',
      '--weights=model.npz --out=rollout.png cat.jpg dog.jpg',
      'IMAGE...',
      many,
      (*images, 'against', 'token', 'layer', 'head', 'heads'),
    ),
    'distance': Command(
      _distance,
      'mean attention distance of each head, by depth',
      '--weights=model.npz --out=distance.png cat.jpg',
      'IMAGE...',
      many,
      (*images, 'against'),
    ),
    'positions': Command(
      _positions,
      'cosine similarity of the position embeddings',
      '--weights=model.npz --out=positions.png',
      flags=(*model, 'against', 'layer'),
    ),
    'filters': Command(
      _filters,
      "principal components of the first layer's filters, of any family",
      '--weights=model.npz --out=filters.png --components=28',
      flags=(
        *files,
        'weights',
        'base',
        'ema',
        'against',
        'components',
        'grey',
      ),
    ),
    'compute': Command(
      _compute,
      'published accuracy over pre-training compute',
      '--out=compute.png',
      flags=files,
    ),
    'curves': Command(
      _curves,
      'loss and accuracy of training runs',
      'runs/quickstart --out=curves.png',
      'WORKDIR...',
      many,
      files,
    ),
    'study': Command(
      _study,
      'the accuracies of a study',
      'runs/positions --out=study.png',
      'WORKDIR',
      1,
      files,
    ),
    'verdicts': Command(
      _verdicts,
      'measured and published numbers, compared',
      '--results=results --out=verdicts.png',
      flags=(*files, 'results'),
    ),
    'speed': Command(
      _speed,
      'images per second, from `benchmark --json`',
      'train.json --out=speed.png',
      'BENCHMARK.json...',
      many,
      files,
    ),
    'scaling': Command(
      _scaling,
      "what bounds a chip's speed on slices of a TPU, from `benchmark memory "
      '--target --json`',
      'v5e.json --out=scaling.png',
      'MEMORY.json...',
      many,
      files,
    ),
  }


def _attention(values, arguments):
  _begin(values, arguments, 'image')
  if values.layer is None and values.head is not None:
    _wrong('--head selects maps of --layer; give it, too')
  if values.layer is not None and values.against is not None:
    _wrong('--against is for the rollout, which --layer replaces')
  if values.layer is not None and values['heads'].present:
    _wrong('--heads is for the rollout, which --layer replaces; give only one')
  token, layers = _token(values), _numbers(values, 'layer')
  heads, reading = _numbers(values, 'head'), _reading(values)
  images, unreadable = _images(values, arguments)

  from vit_jax_repro.analysis import inspecting, plots

  if values.layer is None:
    found, other = _compared(
      values,
      inspecting.rollouts,
      images,
      token=token,
      combined=values.heads,
      unreadable=unreadable,
      **reading,
    )
    _finish(values, plots.rollout(found, other), found, other)
  else:
    found = inspecting.head_maps(
      values.weights,
      images,
      layers=layers,
      heads=heads,
      token=token,
      unreadable=unreadable,
      **reading,
    )
    _finish(values, plots.heads(found), found)
  unreadable.finish()


def _distance(values, arguments):
  _begin(values, arguments, 'image')
  reading = _reading(values)
  images, unreadable = _images(values, arguments)

  from vit_jax_repro.analysis import inspecting, plots

  found, other = _compared(
    values, inspecting.distances, images, unreadable=unreadable, **reading
  )
  _finish(values, plots.distance(found, other), found, other)
  unreadable.finish()


def _positions(values, _):
  _begin(values)
  layers = _numbers(values, 'layer') or (0,)
  if len(layers) > 1:
    _wrong(f'--layer={values.layer}: positions takes one')
  reading = _reading(values)

  from vit_jax_repro.analysis import inspecting, plots

  found, other = _compared(
    values, inspecting.positions, layer=layers[0], **reading
  )
  _finish(values, plots.similarity(found, other), found, other)


def _filters(values, _):
  _begin(values)
  _reading(values)

  from vit_jax_repro.analysis import inspecting, plots

  found, other = _compared(
    values, inspecting.filters, number=values.components, grey=values.grey
  )
  _finish(values, plots.filters(found, other), found, other)


def _compared(values, inspect, *images, **arguments):
  """Returns the record of --weights, and that of --against or None.

  Args:
    values: the parsed flags.
    inspect: a function of `inspecting`.
    *images: the paths of the images, if the function needs them.
    **arguments: further arguments of the function.
  """
  from vit_jax_repro.errors import InputError
  from vit_jax_repro.output.unreadable import Unreadable

  found = inspect(values.weights, *images, **arguments)
  if values.against is None:
    return found, None
  if images:
    arguments |= dict(
      unreadable=Unreadable(len(images[0])),  # noted for the first model
      image_size=found.image_size,
    )
  if values.against == 'untrained':
    arguments |= dict(untrained=True)
    if inspect.__name__ == 'filters':
      arguments |= dict(grey=found.grey)
    return found, inspect(values.weights, *images, **arguments)
  other = inspect(values.against, *images, **arguments)
  if getattr(found, 'token', None) != getattr(other, 'token', None):
    raise InputError(
      f'--weights shows the attention from {found.token}, --against from '
      f'{other.token}; give both one --token'
    )
  return found, other


def _compute(values, _):
  _begin(values)

  from vit_jax_repro.analysis import charts
  from vit_jax_repro.paper import points

  found = points.compute()
  _finish(values, charts.compute(found), found)


def _curves(values, workdirs):
  _begin(values, workdirs, 'workdir')

  from vit_jax_repro.analysis import charts, saved_results

  runs = [saved_results.curves(workdir) for workdir in workdirs]
  arrays = {
    f'{number}/{name}': array
    for number, run in enumerate(runs)
    for name, array in run.arrays().items()
  }
  _finish(values, charts.curves(runs), arrays)


def _study(values, paths):
  _begin(values, paths, 'workdir')

  from vit_jax_repro.analysis import charts, saved_results

  found = saved_results.study(paths[0])
  _finish(values, charts.study(found), found)


def _verdicts(values, _):
  _begin(values)

  from vit_jax_repro import command_line
  from vit_jax_repro.analysis import charts
  from vit_jax_repro.paper import points, results

  command_line.require(values, 'results')
  found = points.overview(results.read(values.results))
  _finish(values, charts.verdicts(found), found.checked)


def _speed(values, paths):
  _begin(values, paths, 'file that `benchmark --json` wrote')

  from vit_jax_repro.analysis import charts, saved_results

  found = saved_results.measured(paths)
  _finish(values, charts.speeds(found), found)


def _scaling(values, paths):
  _begin(values, paths, 'file that `benchmark memory --target --json` wrote')

  from vit_jax_repro.analysis import charts, saved_results

  found = saved_results.scaling(paths)
  _finish(values, charts.scaling(found), found)


def _wrong(text) -> NoReturn:
  from vit_jax_repro import command_line

  raise command_line.UsageError(text)


def _begin(values, read=(), what=None):
  """Checks the output paths before anything is read.

  Args:
    values: the parsed flags.
    read: files that the command reads, without the weights.
    what: a noun for these files, if at least one is needed.
  """
  from vit_jax_repro import command_line
  from vit_jax_repro.analysis import pictures
  from vit_jax_repro.errors import InputError
  from vit_jax_repro.output import files
  from vit_jax_repro.published import weight_names

  command_line.require(values, 'out')
  if what is not None and not read:
    _wrong(f'nothing to draw; give at least one {what}')
  read = [*read]
  for weights in (values.weights, values.against):
    if weights not in (None, 'untrained'):
      read += weight_names.files_of(weights)
  try:
    pictures.check_ending(values.out)
    if values.arrays is not None:
      pictures.check_arrays_ending(values.arrays)
  except InputError as error:
    _wrong(str(error))
  files.check_writable(values.out, keep=read)
  if values.arrays is not None:
    files.check_writable(values.arrays, keep=read)


def _images(values, arguments):
  """Returns the paths of the images, and an empty unreadable.Unreadable."""
  from vit_jax_repro.data import image_lists
  from vit_jax_repro.output.unreadable import Unreadable

  images = image_lists.expand(arguments)
  outputs = [path for path in (values.out, values.arrays) if path is not None]
  images.check_outputs(outputs)
  images.require_one()
  return images.paths, Unreadable(len(images.paths))


def _reading(values):
  """Returns the arguments of `inspecting` from the flags."""
  from vit_jax_repro import command_line

  command_line.require(values, 'weights')
  return dict(
    model=values.model,
    image_size=command_line.image_size(values.image_size),
    preprocessing=values.preprocessing,
    orientation=values.orientation,
  )


def _numbers(values, flag):
  """Parses '0,3' to (0, 3); returns None if the flag is `all` or not given."""
  text = values[flag].value
  if text in (None, 'all'):
    return None
  if not all(part.isdecimal() for part in text.split(',')):
    _wrong(f'--{flag}={text} must be numbers from 0 such as 0,3, or all')
  return tuple(int(part) for part in text.split(','))


def _token(values):
  text = values.token
  if text in (None, 'class', 'mean'):
    return text
  parts = text.split(',')
  if len(parts) != 2 or not all(part.isdecimal() for part in parts):
    _wrong(f"--token={text} must be class, mean, or a patch's ROW,COLUMN")
  return int(parts[0]), int(parts[1])


def _finish(values, figure, found, other=None):
  """Writes the picture and, with --arrays, the arrays."""
  from vit_jax_repro.analysis import pictures

  pictures.save(figure, values.out, width=values.width, dpi=values.dpi)
  print(values.out)
  if values.arrays is not None:
    arrays = found if isinstance(found, dict) else pictures.arrays(found)
    if other is not None:
      others = pictures.arrays(other)
      arrays |= {f'against/{name}': each for name, each in others.items()}
    pictures.save_arrays(values.arrays, arrays)
    print(values.arrays)


if __name__ == '__main__':
  main()
