"""Request templates with placeholders for item values: ``{item}``, ``{item.customer.id}``, ``{item.tags.0}``,
``{index}``.

Placeholders are filled when the request is sent, long after Airflow has rendered its Jinja templates. Item values are
data: they are never scanned for placeholders or templates. In an endpoint they are percent-encoded, so that a value can
neither leave its path segment nor select another server. All other braces are literal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.http.choices import Method

__all__ = ["Filler", "ItemRequest", "RequestTemplate", "compile_text", "compile_value", "json_bytes"]

Filler = Callable[[Any, int], Any]

_PLACEHOLDER = re.compile(r"\{(item(?:\.[^{}.]+)*|index)\}")
_MALFORMED_PLACEHOLDER = re.compile(r"\{\s*(?:item|index)\b[^{}]*\}?")
_DOT_SEGMENT = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?=[/?#]|$)", re.IGNORECASE)
_SCHEME_AND_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_SCALARS = (str, int, float, Decimal, date, time, UUID)


def compile_value(value: Any, field_name: str) -> Filler | None:
    """Compile ``value`` to a function of item and index; return None if it has no placeholders.

    A string that is exactly one placeholder becomes the value itself, of any type; within a longer string, the value
    must be a scalar. Keys of mappings are not changed.
    """
    if isinstance(value, str):
        return _compile_leaf(value, field_name)
    if isinstance(value, Mapping):
        names = {name: compile_value(element, field_name) for name, element in value.items()}
        if not any(names.values()):
            return None
        fixed = dict(value)
        dynamic = [(name, fill) for name, fill in names.items() if fill is not None]
        return lambda item, index: {**fixed, **{name: fill(item, index) for name, fill in dynamic}}
    if isinstance(value, list | tuple):
        parts = [(element, compile_value(element, field_name)) for element in value]
        if not any(fill for _, fill in parts):
            return None
        return lambda item, index: [element if fill is None else fill(item, index) for element, fill in parts]
    return None


def compile_text(text: str, field_name: str) -> Filler | None:
    """Compile ``text`` to a function that returns text; return None if it has no placeholders."""
    parts = _split(text, field_name)
    if len(parts) == 1:
        return None
    pieces = [part if place % 2 == 0 else _path(part) for place, part in enumerate(parts)]

    def fill(item: Any, index: int) -> str:
        return "".join([p if isinstance(p, str) else _text(_look_up(p, item, index), p) for p in pieces])

    return fill


def _compile_leaf(text: str, field_name: str) -> Filler | None:
    parts = _split(text, field_name)
    if len(parts) == 3 and not parts[0] and not parts[2]:
        path = _path(parts[1])
        return lambda item, index: _look_up(path, item, index)
    return compile_text(text, field_name)


def _split(text: str, field_name: str) -> list[str]:
    """Split into literal, placeholder, literal, placeholder, ..., literal."""
    parts = _PLACEHOLDER.split(text)
    for literal in parts[::2]:
        if found := _MALFORMED_PLACEHOLDER.search(literal):
            raise ConfigError(
                f"{found[0]!r} in {field_name} is not a valid placeholder",
                field=field_name,
                remedy="use {item}, {item.name}, {item.name.0} or {index}, without spaces",
            )
    return parts


def _path(place: str) -> tuple[str, ...]:
    return tuple(place.split("."))


def _look_up(path: tuple[str, ...], item: Any, index: int) -> Any:
    if path[0] == "index":
        return index
    value = item
    for name in path[1:]:
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list | tuple) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise _invalid_item(path, "does not exist")
    return value


def _text(value: Any, path: tuple[str, ...]) -> str:
    if type(value) is str:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, _SCALARS):
        raise _invalid_item(
            path, f"is {'null' if value is None else type(value).__name__}, and must be text or a number here"
        )
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _invalid_item(path: tuple[str, ...], reason: str) -> ConfigError:
    placeholder = "{" + ".".join(path) + "}"
    return ConfigError(f"{placeholder} of this item {reason}", field="items", remedy="correct the item, or the request")


def _compile_endpoint(endpoint: str) -> Filler | None:
    """Compile the endpoint with percent-encoded values; a value may be neither empty nor a dot segment of the path."""
    parts = _split(endpoint, "endpoint")
    if len(parts) > 1 and _SCHEME_AND_HOST.fullmatch(parts[0]):
        raise ConfigError(
            "the items would select the server", field="endpoint", remedy="use placeholders only after the host"
        )
    if len(parts) > 1 and _DOT_SEGMENT.search("".join(parts[::2]).partition("?")[0]):
        raise ConfigError(
            "the endpoint contains dot segments", field="endpoint", remedy="remove . and .. from the path"
        )
    if len(parts) == 1:
        return None
    pieces: list[str | tuple[tuple[str, ...], bool]] = [
        part if place % 2 == 0 else (_path(part), "?" not in "".join(parts[:place:2]))
        for place, part in enumerate(parts)
    ]

    def filled(item: Any, index: int) -> str:
        text = "".join([p if isinstance(p, str) else _encoded(*p, item, index) for p in pieces])
        if _DOT_SEGMENT.search(text.partition("?")[0]):
            raise ConfigError("the item would add a dot segment to the path", field="items", remedy="correct the item")
        return text

    return filled


def _encoded(path: tuple[str, ...], in_path: bool, item: Any, index: int) -> str:
    text = _text(_look_up(path, item, index), path)
    if in_path and not text:
        raise _invalid_item(path, "is empty, which would change the URL")
    return text if text.isalnum() and text.isascii() else quote(text, safe="")


def json_bytes(value: Any) -> bytes:
    """Encode a value as JSON; dates, decimals and UUIDs, as found in Parquet files, become strings.

    :raises ConfigError: if it is not JSON.
    """
    try:
        return json.dumps(value, allow_nan=False, default=_plain).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`json` is not JSON: {error}", field="json", remedy="use plain JSON values") from error


def _plain(value: Any) -> str:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


@dataclass(frozen=True, slots=True)
class ItemRequest:
    """The request for one item."""

    endpoint: str
    params: Mapping[str, Any]
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(kw_only=True)
class RequestTemplate:
    """The validated request of a batch; ``method`` is fixed, all other strings may contain placeholders.

    :raises ConfigError: naming the part to correct.
    """

    method: Method = "GET"
    endpoint: str = ""
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    data: Any = None

    def __post_init__(self) -> None:
        if self.json is not None and self.data is not None:
            raise ConfigError("both `json` and `data` are given", field="data", remedy="use only one of them")
        if not isinstance(self.data, str | Mapping | None):
            raise ConfigError("`data` must be a string or a mapping", field="data", remedy="pass a form or a string")
        self._endpoint = _compile_endpoint(self.endpoint)
        self._query = compile_value(self.query, "query")
        self._headers = compile_value(self.headers, "headers")
        source, name = (self.data, "data") if self.json is None else (self.json, "json")
        self._body = compile_value(source, name)
        kind = ""
        if source is not None:
            form = isinstance(self.data, Mapping)
            kind = "application/x-www-form-urlencoded" if form else "text/plain; charset=utf-8"
            kind = kind if self.json is None else "application/json"
        typed = any(name.lower() == "content-type" for name in self.headers)
        self._kind = {} if typed or not kind else {"Content-Type": kind}
        self._fixed_headers = self._strings(self.headers) if self._headers is None else {}
        self._fixed_body = self._encoded(source) if self._body is None else None

    def fill(self, item: Any, index: int) -> ItemRequest:
        """Return the request for ``item``.

        :raises ConfigError: if a placeholder cannot be filled.
        """
        return ItemRequest(
            self.endpoint if self._endpoint is None else self._endpoint(item, index),
            self.query if self._query is None else self._query(item, index),
            self._fixed_headers if self._headers is None else self._strings(self._headers(item, index)),
            self._fixed_body if self._body is None else self._encoded(self._body(item, index)),
        )

    def _strings(self, headers: Mapping[str, Any]) -> dict[str, str]:
        return {**self._kind, **{name: str(value) for name, value in headers.items() if value is not None}}

    def _encoded(self, value: Any) -> bytes | None:
        if self.json is not None:
            return json_bytes(value)
        if value is None and self.data is None:
            return None
        if isinstance(value, Mapping) and isinstance(self.data, Mapping):
            return urlencode(
                {name: element for name, element in value.items() if element is not None}, doseq=True
            ).encode()
        return _text(value, ("data",)).encode()
