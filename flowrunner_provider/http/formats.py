"""Parsers for response bodies: JSON, XML, CSV, JSON Lines, text, bytes.

XML is mapped to JSON-like values. An element without attributes and children becomes its text (None if blank). Any
other element becomes an object with ``@name`` for each attribute, its children by tag (a list for repeated tags), and
``#text`` for non-blank text. Tags keep their prefix: ``soap:Body``. The document becomes an object with the root tag as
its only key. Entities are never expanded or fetched.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any
from xml.parsers import expat

from flowrunner_provider.core.errors import ConfigError, IntegrityError, SecurityError
from flowrunner_provider.core.secrets import redact_url
from flowrunner_provider.http.choices import Format
from flowrunner_provider.transport.http import Response

__all__ = ["detect", "parse", "parse_xml"]

MAX_DEPTH = 200
"""Maximum nesting of XML elements."""

_TYPES: tuple[tuple[str, Format], ...] = (
    (r"[^;]*/(x-)?(ndjson|jsonlines|jsonl)\s*(;|$)", "ndjson"),
    (r"[^;]*[/+]json\s*(;|$)", "json"),
    (r"(application/xhtml|image/svg)\+xml", "text"),
    (r"(application|text)/xml\s*(;|$)|[^;]*\+xml\s*(;|$)", "xml"),
    (r"text/csv\s*(;|$)", "csv"),
    (r"text/|application/(x-www-form-urlencoded|javascript)|.*charset=", "text"),
)
_BY_TYPE = tuple((re.compile(pattern, re.IGNORECASE), found) for pattern, found in _TYPES)


def detect(content_type: str) -> Format:
    """Return the format of a media type; ``bytes`` for an unknown one."""
    return next((found for pattern, found in _BY_TYPE if pattern.match(content_type)), "bytes")


def parse(answer: Response, body_format: Format, *, delimiter: str = ",") -> Any:
    """Parse the body of ``answer``; return None for an empty body with ``auto``.

    :param delimiter: CSV field separator.
    :raises IntegrityError: if the body does not have the format.
    :raises SecurityError: for XML with entities.
    """
    if body_format == "auto":
        if not answer.content:
            return None
        body_format = detect(answer.headers.get("Content-Type", ""))
    if body_format == "json":
        return answer.json()
    if body_format == "bytes":
        return base64.b64encode(answer.content).decode()
    if body_format == "text":
        return answer.text()
    what = f"the answer of {redact_url(answer.url)}"
    if body_format == "xml":
        return parse_xml(answer.content, what)
    if body_format == "csv":
        return _csv(answer.text(), delimiter, what)
    return _ndjson(answer.content, what)


def _csv(text: str, delimiter: str, what: str) -> list[dict[str, str]]:
    """Return one object per row; the first row contains the field names."""
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise ConfigError("the CSV delimiter must be one character", field="csv_delimiter", remedy="use e.g. ';'")
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True)
    found: list[dict[str, str]] = []
    remedy = "check the endpoint and `csv_delimiter`; use response_format='text' for irregular data"
    try:
        header = next(rows, None)
        if header is None:
            return found
        if len(set(header)) != len(header) or "" in header:
            raise IntegrityError(f"{what}: a CSV column has no name, or the same name as another one", remedy=remedy)
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise IntegrityError(
                    f"{what}: line {rows.line_num} of the CSV has {len(row)} fields, not {len(header)}", remedy=remedy
                )
            found.append(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise IntegrityError(f"{what}: line {rows.line_num} is not CSV ({error})", remedy=remedy) from None
    return found


def _ndjson(content: bytes, what: str) -> list[Any]:
    """Return one value per line; blank lines are ignored."""
    found = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                raise IntegrityError(f"{what}: line {number} is not JSON", remedy="check the endpoint") from None
    return found


def parse_xml(content: bytes, what: str) -> dict[str, Any]:
    """Parse XML as described in this module.

    :param what: name of the document, for messages.
    :raises SecurityError: if the document declares or uses entities.
    :raises IntegrityError: if it is not well-formed or too deeply nested.
    """
    return _XmlParser(what).parse(content)


class _XmlParser:
    def __init__(self, what: str) -> None:
        self._what = what
        self._open: list[tuple[str, dict[str, Any], list[str]]] = []
        self._document: dict[str, Any] = {}

    def parse(self, content: bytes) -> dict[str, Any]:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._forbid("declares an entity")
        parser.UnparsedEntityDeclHandler = self._forbid("declares an entity")
        parser.NotationDeclHandler = self._forbid("declares a notation")
        parser.ExternalEntityRefHandler = self._forbid("refers to another document")
        parser.SkippedEntityHandler = self._forbid("uses an entity that it does not declare")
        try:
            parser.Parse(content, True)
        except (expat.ExpatError, LookupError, ValueError) as error:
            raise IntegrityError(f"{self._what} is not XML ({error})", remedy="check the endpoint") from None
        return self._document

    def _forbid(self, reason: str) -> Callable[..., int]:
        def refuse(*_: Any) -> int:
            raise SecurityError(
                f"{self._what} {reason}", remedy="use response_format='text', and check the source of the document"
            )

        return refuse

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise IntegrityError(
                f"{self._what} is nested more than {MAX_DEPTH} deep", remedy="use response_format='text'"
            )
        self._open.append((tag, {f"@{name}": value for name, value in attributes.items()}, []))

    def _text(self, text: str) -> None:
        self._open[-1][2].append(text)

    def _end(self, _: str) -> None:
        tag, found, pieces = self._open.pop()
        text = "".join(pieces).strip()
        value: Any = found
        if not found:
            value = text or None
        elif text:
            found["#text"] = text
        parent = self._open[-1][1] if self._open else self._document
        if tag not in parent:
            parent[tag] = value
        elif isinstance(parent[tag], list):
            parent[tag].append(value)
        else:
            parent[tag] = [parent[tag], value]
