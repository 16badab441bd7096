"""Prints the table of what was done to the runs."""

import environment
import pytest

_rows = pytest.StashKey[list]()


def pytest_configure(config):
  config.stash[_rows] = []


@pytest.fixture
def rows(request):
  """Lines that are printed at the end."""
  return request.config.stash[_rows]


def pytest_terminal_summary(terminalreporter, config):
  for row in config.stash[_rows]:
    terminalreporter.write_line(row)


def pytest_unconfigure():
  environment.clean_up()
