"""CSV: RFC 4180 quoting with lines that end in ``\\n``."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.data.dataset import Format
from flowrunner_provider.data.row_writer import CsvOptions, RowWriter
from flowrunner_provider.data.values import text_of

__all__ = ["CsvWriter", "check_csv_options"]

_AS_IT_IS = {str, int}  # csv itself writes these by our rules
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # and the full-width forms of the first four
_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)


def check_csv_options(options: CsvOptions) -> None:
    """Raise :class:`ConfigError`, naming the option, unless the options are valid."""
    for name in ("delimiter", "decimal"):
        value = getattr(options, name)
        if not isinstance(value, str) or len(value) != 1 or value in '\r\n"':
            raise ConfigError(f"{name} must be one character, not {value!r}", field=name, remedy="use ',' or ';', say")
    if options.decimal not in ".,":
        raise ConfigError(f"decimal is {options.decimal!r}", field="decimal", remedy="use '.' or ','")
    if options.quoting not in ("minimal", "all"):
        raise ConfigError(f"quoting is {options.quoting!r}", field="quoting", remedy="use 'minimal' or 'all'")
    try:
        codecs.getincrementalencoder(options.encoding)
        "".encode(options.encoding)
    except LookupError:
        raise ConfigError(
            f"the encoding {options.encoding!r} is unknown",
            field="encoding",
            remedy="use 'utf-8', 'utf-8-sig' or 'cp1252', say",
        ) from None


class CsvWriter(RowWriter):
    """Writes one CSV record per row."""

    def __init__(
        self,
        path: Path,
        format: Format,  # noqa: A002
        columns: Mapping[str, str] | Sequence[str] | None,
        token: str,
        options: CsvOptions,
    ) -> None:
        check_csv_options(options)
        super().__init__(path, format, columns, token)
        self._options = options
        self._encoder = codecs.getincrementalencoder(options.encoding)()
        self._lines: list[str] = []
        # Before Python 3.13 csv quotes a lone CR only if it is part of the line end.
        self._csv = csv.writer(
            _Lines(self._lines.append),
            delimiter=options.delimiter,
            quoting=csv.QUOTE_ALL if options.quoting == "all" else csv.QUOTE_MINIMAL,
            lineterminator="\r\n",
        )
        self._header_due = options.header

    def open(self, state: Mapping[str, Any] | None) -> None:
        super().open(state)
        if self.resumed:
            self._header_due = False
            self._encoder.encode("x")  # the byte order mark was written already

    def _append(self, batch: Sequence[Sequence[Any]]) -> None:
        self._header()
        columns = [
            self._texts(name, values) for name, values in zip(self.columns, zip(*batch, strict=True), strict=True)
        ]
        self._rows(list(zip(*columns, strict=True)))

    def _finish(self) -> None:
        if self.columns:
            self._header()

    def _header(self) -> None:
        if self._header_due:
            self._header_due = False
            if self.columns[0].startswith("\ufeff"):
                raise IntegrityError("the first column's name begins with a byte order mark", remedy="rename it")
            guard = self._guarded if self._options.escape_formulas else str
            self._rows([[guard(name) for name in self.columns]], "the header")

    def _rows(self, rows: Sequence[Sequence[Any]], what: str = "") -> None:
        self._csv.writerows(rows)
        lines = [line[:-2] for line in self._lines]
        self._lines.clear()
        lines.append("")
        try:
            self._put(self._encoder.encode("\n".join(lines)))
        except UnicodeEncodeError as error:
            raise self._not_encodable(lines, what, error) from error

    def _not_encodable(self, lines: Sequence[str], what: str, error: UnicodeEncodeError) -> IntegrityError:
        character = error.object[error.start]
        place = next(place for place, line in enumerate(lines) if character in line)
        what = what or f"row {self.rows + place + 1}"
        return IntegrityError(
            f"{what} has the character {character!a}, which {self._options.encoding} cannot hold",
            remedy="use encoding='utf-8', or replace the character first",
        )

    def _texts(self, name: str, values: Sequence[Any]) -> Sequence[Any]:
        """Return the values of one column as the csv module has to write them."""
        options, types = self._options, set(map(type, values))
        null_text = options.null_text
        if null_text is not None and str in types and null_text in values:
            row = self.rows + values.index(null_text) + 1
            raise IntegrityError(
                f"row {row}, column {name!r}: the text {null_text!r} is in the data, where it would mean NULL",
                remedy="choose another null_text",
            )
        if str in types and options.escape_formulas:
            values = [self._guarded(value) if isinstance(value, str) else value for value in values]
        known = {*_AS_IT_IS, float} if float in types and self._floats_as_they_are(values) else _AS_IT_IS
        if types <= known or (types <= {*known, type(None)} and not null_text):
            return values
        return [self._text(value) for value in values]

    def _floats_as_they_are(self, values: Sequence[Any]) -> bool:
        """Return whether the csv module writes these floats by our rules."""
        return self._options.decimal == "." and all(isfinite(value) for value in values if type(value) is float)

    def _text(self, value: Any) -> Any:
        if value is None:
            return self._options.null_text or ""
        if type(value) in _AS_IT_IS:
            return value
        if self._options.decimal == "," and isinstance(value, float | Decimal):
            return text_of(value).replace(".", ",")
        return text_of(value)

    @staticmethod
    def _guarded(value: str) -> str:
        return f"'{value}" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


class _Lines:
    """What csv writes to: a list of lines, without a call of Python's per line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
