"""Bodies of answers as values: JSON, XML, CSV, JSON Lines, text, bytes.

XML becomes JSON-like by one rule. An element is its text, if it has neither attributes nor children (None when
that is blank); else an object with ``@name`` for each attribute, the children by their tags (a list where a tag
comes more than once), and ``#text`` for text that is not blank. Tags keep their prefix: ``soap:Body``. The whole is
an object with the root's tag as its only key. Entities are never expanded or fetched.
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
"""Elements within elements."""

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
    """The format that a media type stands for; ``bytes`` for what is none of ours."""
    return next((found for pattern, found in _BY_TYPE if pattern.match(content_type)), "bytes")


def parse(answer: Response, wanted: Format, *, delimiter: str = ",") -> Any:
    """The body of ``answer`` as a value; None for an empty one with ``auto``.

    :param delimiter: between the fields of CSV.
    :raises IntegrityError: if it is something else.
    :raises SecurityError: for XML with entities.
    """
    if wanted == "auto":
        if not answer.content:
            return None
        wanted = detect(answer.headers.get("Content-Type", ""))
    if wanted == "json":
        return answer.json()
    if wanted == "bytes":
        return base64.b64encode(answer.content).decode()
    if wanted == "text":
        return answer.text()
    what = f"the answer of {redact_url(answer.url)}"
    if wanted == "xml":
        return parse_xml(answer.content, what)
    if wanted == "csv":
        return _csv(answer.text(), delimiter, what)
    return _ndjson(answer.content, what)


def _csv(text: str, delimiter: str, what: str) -> list[dict[str, str]]:
    """One object per row; the first row names the fields."""
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise ConfigError("the CSV delimiter is one character", field="csv_delimiter", remedy="write ';', say")
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True)
    found: list[dict[str, str]] = []
    remedy = "check the endpoint and `csv_delimiter`; take response_format='text' for what is not regular"
    try:
        header = next(rows, None)
        if header is None:
            return found
        if len(set(header)) != len(header) or "" in header:
            raise IntegrityError(f"{what}: the columns of the CSV have no or the same names", remedy=remedy)
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise IntegrityError(
                    f"{what}: line {rows.line_num} of the CSV has {len(row)} fields, not {len(header)}", remedy=remedy
                )
            found.append(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise IntegrityError(f"{what}: line {rows.line_num} is no CSV ({error})", remedy=remedy) from None
    return found


def _ndjson(content: bytes, what: str) -> list[Any]:
    """One value per line; blank lines do not count."""
    found = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                raise IntegrityError(f"{what}: line {number} is not JSON", remedy="check the endpoint") from None
    return found


def parse_xml(content: bytes, what: str) -> dict[str, Any]:
    """XML by the rule of this module.

    :param what: what it is, for the message.
    :raises SecurityError: for a document that declares or needs entities; none is expanded, nothing is fetched.
    :raises IntegrityError: for what is not well-formed, or nested too deeply.
    """
    return _Xml(what).parse(content)


class _Xml:
    def __init__(self, what: str) -> None:
        self._what = what
        self._open: list[tuple[str, dict[str, Any], list[str]]] = []
        self._whole: dict[str, Any] = {}

    def parse(self, content: bytes) -> dict[str, Any]:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._refuse("declares an entity")
        parser.UnparsedEntityDeclHandler = self._refuse("declares an entity")
        parser.NotationDeclHandler = self._refuse("declares a notation")
        parser.ExternalEntityRefHandler = self._refuse("refers to another document")
        parser.SkippedEntityHandler = self._refuse("uses an entity that it does not declare")
        try:
            parser.Parse(content, True)
        except (expat.ExpatError, LookupError, ValueError) as error:
            raise IntegrityError(f"{self._what} is not XML ({error})", remedy="check the endpoint") from None
        return self._whole

    def _refuse(self, why: str) -> Callable[..., int]:
        def refuse(*_: Any) -> int:
            raise SecurityError(
                f"{self._what} {why}", remedy="take response_format='text', and mind where the document comes from"
            )

        return refuse

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise IntegrityError(
                f"{self._what} is nested more than {MAX_DEPTH} deep", remedy="take response_format='text'"
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
        parent = self._open[-1][1] if self._open else self._whole
        if tag not in parent:
            parent[tag] = value
        elif isinstance(parent[tag], list):
            parent[tag].append(value)
        else:
            parent[tag] = [parent[tag], value]
