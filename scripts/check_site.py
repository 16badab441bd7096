"""Opens every page of the documentation site in headless Chromium.

  python scripts/check_site.py site [--screenshots=FOLDER]

It begins at the first page and clicks "Next" until the last one. On each page,
at the width of a desktop and of a telephone, it checks that all pictures are
there and have a text, that nothing is wider than the window, that no other
server is asked for anything, and that the browser reports no error. Then it
uses the search. Where Chromium and its driver are not installed, or cannot
start, it only prints so.
"""

import argparse
import contextlib
import functools
import http.server
import pathlib
import shutil
import sys
import threading
from collections.abc import Generator

from selenium import webdriver
from selenium.common import exceptions
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait

WIDTHS = (1280, 390)  # CSS pixels
SECONDS = 20  # for one step of the browser
FLAGS = (
  '--headless',
  '--no-sandbox',  # Chromium refuses to run as root with it
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
)
# Lists what is wrong with the page that is open, after it has come to rest.
FAULTS = """
  const [done] = arguments;
  function faultsOf(page) {
    const faults = [];
    for (const image of document.images) {
      image.loading = 'eager';
      if (image.complete && !image.naturalWidth) {
        faults.push('no picture ' + image.src);
      }
      if (!image.alt || image.alt === 'png') {
        faults.push('no text for a picture');
      }
    }
    if (page.scrollWidth > page.clientWidth) {
      faults.push(page.scrollWidth + ' pixels wide');
    }
    for (const {name} of performance.getEntriesByType('resource')) {
      if (!name.startsWith(location.origin) && !name.startsWith('data:')) {
        faults.push('asks for ' + name);
      }
    }
    return faults;
  }
  setTimeout(() => done(faultsOf(document.documentElement)), 200);
"""


class Handler(http.server.SimpleHTTPRequestHandler):
  """Serves files without printing each request."""

  def log_message(self, format, *args):
    del format, args


@contextlib.contextmanager
def served(folder: pathlib.Path) -> Generator[str]:
  """Serves a folder on this machine while the block runs; yields its URL."""
  handler = functools.partial(Handler, directory=folder)
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@contextlib.contextmanager
def browser(chromium: str, driver: str) -> Generator[webdriver.Chrome]:
  """Starts Chromium with a new profile, and ends it after the block."""
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in FLAGS:
    options.add_argument(flag)
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  service = webdriver.ChromeService(driver)
  chrome = webdriver.Chrome(options=options, service=service)
  chrome.set_page_load_timeout(SECONDS)
  try:
    yield chrome
  finally:
    chrome.quit()


def set_width(chrome: webdriver.Chrome, width: int) -> None:
  """Sets the width of the page; a window cannot be as narrow as a telephone."""
  chrome.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False},
  )


def faults_of(chrome: webdriver.Chrome) -> list[str]:
  """Returns what is wrong with the page that is open, at both widths."""
  faults = []
  for width in WIDTHS:
    set_width(chrome, width)
    found = chrome.execute_async_script(FAULTS)
    faults += [f'at {width}: {text}' for text in found]
  logged = chrome.get_log('browser')
  return faults + [x['message'] for x in logged if x['level'] == 'SEVERE']


def save_screenshots(
  chrome: webdriver.Chrome, folder: pathlib.Path, name: str
) -> None:
  """Saves pictures of the top of the page that is open, at both widths."""
  for width in WIDTHS:
    set_width(chrome, width)
    chrome.save_screenshot(str(folder / f'{name}-{width}.png'))


def click_through(
  chrome: webdriver.Chrome, url: str, screenshots: pathlib.Path | None
) -> tuple[list[str], list[str]]:
  """Clicks from the first page to the last; returns their names and faults."""
  chrome.get(f'{url}/index.html')
  pages: list[str] = []
  faults = []
  while True:
    name = chrome.current_url.removeprefix(f'{url}/').partition('#')[0]
    if name in pages:
      return pages, [*faults, f'{pages[-1]}: "Next" leads back to {name}']
    pages.append(name)
    faults += [f'{name}: {fault}' for fault in faults_of(chrome)]
    if screenshots is not None:
      stem = name.removesuffix('.html').replace('/', '-')
      save_screenshots(chrome, screenshots, stem)
    set_width(chrome, WIDTHS[0])
    following = chrome.find_elements(By.CSS_SELECTOR, 'a.md-footer__link--next')
    if not following:
      return pages, faults
    chrome.execute_script('arguments[0].click()', following[0])


def search(chrome: webdriver.Chrome, url: str, text: str) -> list[str]:
  """Searches the site and opens the first result; returns faults."""
  chrome.get(f'{url}/index.html')
  set_width(chrome, WIDTHS[0])
  wait = WebDriverWait(chrome, SECONDS)
  box = (By.CSS_SELECTOR, 'input.md-search__input')
  wait.until(expected_conditions.element_to_be_clickable(box)).send_keys(text)
  result = (By.CSS_SELECTOR, 'a.md-search-result__link')
  found = wait.until(expected_conditions.presence_of_element_located(result))
  chrome.execute_script('arguments[0].click()', found)
  wait.until(lambda chrome: 'index.html' not in chrome.current_url)
  return [f'search: {fault}' for fault in faults_of(chrome)]


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('site', type=pathlib.Path)
  parser.add_argument('--screenshots', type=pathlib.Path)
  flags = parser.parse_args()
  chromium, driver = shutil.which('chromium'), shutil.which('chromedriver')
  if not chromium or not driver:
    print('no chromium and chromedriver here: pages were not opened')
    return 0
  try:
    with browser(chromium, driver):
      pass
  except exceptions.SessionNotCreatedException as error:
    print(f'pages were not opened: {str(error).splitlines()[0]}')
    return 0
  if flags.screenshots is not None:
    flags.screenshots.mkdir(parents=True, exist_ok=True)
  with served(flags.site) as url, browser(chromium, driver) as chrome:
    pages, faults = click_through(chrome, url, flags.screenshots)
    faults += search(chrome, url, 'dry run')
  written = {
    path.relative_to(flags.site).as_posix()
    for path in flags.site.rglob('*.html')
  } - {'404.html'}
  faults += [f'no way leads to {name}' for name in sorted(written - {*pages})]
  print(*faults, sep='\n', end='\n' if faults else '')
  print(f'{len(pages)} pages opened, {len(faults)} faults')
  return bool(faults)


if __name__ == '__main__':
  sys.exit(main())
