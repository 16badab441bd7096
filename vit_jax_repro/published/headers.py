"""What the headers of an answer declare: size, version and hashes of a file."""

import base64
import re
from email import utils
from typing import Any

_SIZE = re.compile('[0-9]{1,19}')


def is_size(text: str) -> bool:
  """Returns whether a Content-Length is a number of bytes, or ''."""
  return not text or _SIZE.fullmatch(text) is not None


def tag(known: dict[str, Any]) -> str:
  """Returns the server's version tag of a file, '' if it sends none."""
  return known['etag'] or known['modified']


def known(response: Any, url: str) -> dict[str, Any]:
  """Returns size, hashes and tag from the headers, for `PartialFile.begin`."""
  etag = response.headers.get('ETag', '')
  size = response.headers.get('Content-Length', '')
  hashes = _cloud_storage_hashes(response.headers)
  for each in (*response.history, response):
    hashes += _hub_hashes(each.headers)
  return {
    'url': url,
    # If-Range needs a strong ETag.
    'etag': '' if etag.startswith('W/') else etag,
    'modified': '' if etag else _strong_date(response.headers),
    'size': int(size) if size else None,
    'hashes': hashes,
  }


def _strong_date(headers):
  """Returns Last-Modified if it is strong, else ''.

  It is strong if the response is at least a second younger (RFC 9110, section
  8.8.2.2). Otherwise two versions from the same second could share it.
  """
  modified = headers.get('Last-Modified', '')
  try:
    age = utils.parsedate_to_datetime(
      headers.get('Date', '')
    ) - utils.parsedate_to_datetime(modified)
  except (ValueError, TypeError):  # no date, or only one has a time zone
    return ''
  return modified if age.total_seconds() >= 1 else ''


def _cloud_storage_hashes(headers):
  """Returns the hash in `x-goog-hash: md5=...` (Cloud Storage, XML API).

  It is the hash of the stored object. Composite objects have no md5.
  """
  if headers.get('x-goog-stored-content-encoding', 'identity') != 'identity':
    return []
  found = re.search(r'md5=([\w+/]{22}==)', headers.get('x-goog-hash', ''))
  return [f'md5:{base64.b64decode(found[1]).hex()}'] if found else []


def _hub_hashes(headers):
  """Returns the SHA-256 in `X-Linked-Etag` of large files (huggingface_hub)."""
  etag = headers.get('X-Linked-Etag', '').strip('"')
  return [f'sha256:{etag}'] if re.fullmatch('[0-9a-f]{64}', etag) else []
