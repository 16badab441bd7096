"""Changes of pages that mkdocs calls while it builds the site."""

import re
from typing import Any

_FLAG = re.compile(r'(?<![\w-])(--[a-z][\w.]*)')


def on_page_markdown(markdown: str, **_: Any) -> str:
  """Links to the pages of the notebooks; keeps the outputs of a cell apart."""
  markdown = re.sub(r'\(\.\./(notebooks/\w+)\.ipynb\)', r'(\1.md)', markdown)
  return re.sub(r'\n{4,}(?= {4}\S)', '\n\n<!-- -->\n\n', markdown)


def on_page_content(html: str, **_: Any) -> str:
  """Marks the name of each flag, which docs/site.css keeps on one line."""

  def whole(code):
    return _FLAG.sub(r'<span class="flag">\1</span>', code[0])

  return re.sub('<code>[^<]*</code>', whole, html)
