"""URLs: whether a name is one, and how it is shown. Passwords and tokens are never shown."""

from __future__ import annotations

import re

_USER = re.compile(r"://[^/\s?#]*@")
_SECRET = re.compile(r"([?&][^=&#]*(?:sig|token|key|secret|passw|credential|auth)[^=&#]*=)[^&#]*", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether a path is a URL rather than a file's name."""
    return "://" in path


def shown(url: str) -> str:
    """A URL (or path) without passwords and tokens, for messages and results."""
    return _SECRET.sub(r"\1***", _USER.sub("://***@", url)) if is_url(url) else url
