"""A first page without the key of ``cursor_path``: the only page, or a misspelt path that loses the others.

Many APIs omit the key on their last page, so its absence alone proves nothing. A page that announces a next page under
a conventional name does.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load

__all__ = ["announced_next", "check_end", "is_missing", "warn_of_end"]

_NEXT = frozenset(
    {
        "next", "nextcontinuationtoken", "nextcursor", "nexthref", "nextlink", "nextmarker", "nextoffset", "nextpage",
        "nextpagecursor", "nextpagelink", "nextpagetoken", "nextpageuri", "nextpageurl", "nextrecordsurl", "nexttoken",
        "nexturi", "nexturl", "odatanextlink",
    }
)  # fmt: skip
"""Names of the next page, as lower-case letters; not Google's nextSyncToken, which is on the last page only."""

_MORE = frozenset({"hasmore", "hasnext", "hasnextpage", "moreavailable"})
_DEPTH = 4


def check_end(path: str, body: Any) -> None:
    """Raise if a first page without the key of ``path`` announces a next page.

    :raises ConfigError: naming the key that announces it.
    """
    if announced := announced_next(body):
        raise ConfigError(
            f"cursor_path {path!r} is not in the first page, but the page announces a next one with `{announced}`",
            field="cursor_path",
            remedy="correct cursor_path; if this page really is the last, set `stop_when` to '`true`'",
        )


def warn_of_end(path: str, count: int, page_size: int | None, log: logging.Logger) -> None:
    """Log that the listing ends with the first page because the key of ``path`` is absent."""
    full = f", as many as page_size={page_size}" if page_size is not None and count >= page_size else ""
    log.warning(
        "cursor_path %r is not in the first page, so the listing ends with its %s records%s. If the API has more, "
        "correct cursor_path.",
        path,
        f"{count:,}",
        full,
    )


def is_missing(path: str, body: Any) -> bool:
    """Return whether the keys of a plain path (``a.b``, ``a || b``) are absent; False for any other expression."""
    jmespath = load("jmespath", extra="http", needed_for="JMESPath expressions")
    return _is_missing(jmespath.compile(path).parsed, body)


def _is_missing(node: dict[str, Any], body: Any) -> bool:
    if node["type"] == "or_expression":
        return all(_is_missing(side, body) for side in node["children"])
    steps = node["children"] if node["type"] == "subexpression" else [node]
    if any(step["type"] != "field" for step in steps):
        return False
    for step in steps:
        if body is None:
            return False
        if not isinstance(body, dict) or step["value"] not in body:
            return True
        body = body[step["value"]]
    return False


def announced_next(body: Any, depth: int = _DEPTH) -> str | None:
    """Return the path of a key that announces a next page; the search does not enter lists, where the records are."""
    if not isinstance(body, dict) or depth == 0:
        return None
    for key, value in body.items():
        name = re.sub(r"[^a-z]", "", str(key).lower())
        if (name in _NEXT and value) or (name in _MORE and value is True):
            return str(key)
        if inner := announced_next(value, depth - 1):
            return f"{key}.{inner}"
    return None
