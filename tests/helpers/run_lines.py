"""The lines of a run on standard error that are no error and no note."""

# The first words of the lines that precede the first update.
BANNER = (
  'devices',
  'workdir',
  'precision',
  'data',
  'model',
  'batch',
  'start',
  'memory',
)
EXPECTED = (*BANNER, 'step ')


def others(text):
  """Returns the lines of a text that belong to no banner and no progress."""
  return [x for x in text.splitlines() if not x.startswith(EXPECTED)]
