"""URLs of HTTP requests: joined with the base URL and query parameters, otherwise byte for byte."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from flowrunner_provider.core.errors import ConfigError

if TYPE_CHECKING:
    from yarl import URL

__all__ = ["Params", "as_url", "is_absolute", "joined", "with_query"]

Params = Mapping[str, Any] | Iterable[tuple[str, Any]]

_PLAIN = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Z_a-z~\[\]]*")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_absolute(endpoint: str) -> bool:
    """Return whether the endpoint names a server."""
    return _ABSOLUTE.match(endpoint) is not None


def joined(base_url: str, endpoint: str) -> str:
    """Append ``endpoint`` to the base URL, with exactly one slash in between.

    :raises ConfigError: if it contains control characters.
    """
    if _CONTROL.search(endpoint):
        raise ConfigError("the endpoint contains control characters", field="endpoint", remedy="correct it")
    if not endpoint:
        return base_url
    if endpoint.startswith("?"):
        return base_url + endpoint
    return f"{base_url.rstrip('/')}/{endpoint.removeprefix('/')}"


def with_query(url: str, params: Params | None) -> str:
    """Add ``params`` to the query of ``url``: None is dropped, a list repeats the parameter."""
    items = params.items() if isinstance(params, Mapping) else params or ()
    pairs = [(name, _text(item)) for name, value in items for item in _values(value)]
    if not pairs:
        return url
    before = url.partition("#")[0]
    return f"{before}{'&' if '?' in before else '?'}{urlencode(pairs, quote_via=quote)}"


def with_credentials(url: str, secrets: Mapping[str, str]) -> str:
    """Add those of ``secrets`` that the query of ``url`` does not contain yet."""
    if not secrets:
        return url
    present = {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    return with_query(url, {name: value for name, value in secrets.items() if name not in present})


def as_url(text: str) -> URL:
    """Return the URL for aiohttp: a properly encoded one is unchanged, any other is quoted.

    :raises ConfigError: for a malformed URL.
    """
    from yarl import URL

    text = text.partition("#")[0]
    try:
        return URL(text, encoded=_PLAIN.fullmatch(text) is not None)
    except ValueError as error:
        raise ConfigError("the URL is malformed", field="endpoint", remedy="correct it") from error


def _values(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
