"""CSV files that are sent to ``COPY`` unchanged, which is the fastest way.

Python's parser and the server's agree on files in which every quotation mark opens a field, closes it, or is doubled
inside. One regular expression without backtracking checks that and the number of fields on the way. Any other file is
left to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from flowrunner_provider.core.errors import FlowRunnerError
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.database.dialects.model import CsvFile

__all__ = ["Unfit", "blocks", "count_rows", "fits", "options"]

_BLOCK = 256 * 1024
_LONGEST = 16 * 1024 * 1024  # bytes of one row; a longer one is left to the parser
_BOM = b"\xef\xbb\xbf"


class Unfit(FlowRunnerError):
    """The file must be parsed by Python."""


def fits(file: CsvFile) -> bool:
    """Return whether the options allow the file to be sent unchanged."""
    encoding = file.encoding.lower().replace("_", "-")
    plain = encoding in ("utf-8", "utf8", "utf-8-sig") and file.null_text in (None, "")
    return plain and len(file.delimiter.encode()) == 1 and file.delimiter not in "\"\\.'"


def options(file: CsvFile, columns: str) -> str:
    """Return the COPY options with which the server reads NULL where the parser does, quoted or not.

    :param columns: the quoted names of all columns.
    """
    null = "FORCE_NOT_NULL" if file.null_text is None else "FORCE_NULL"
    delimiter = {"\t": "E'\\t'"}.get(file.delimiter, f"'{file.delimiter}'")
    return f"FORMAT csv, DELIMITER {delimiter}, NULL '', {null} ({columns})"


def blocks(file: CsvFile) -> Iterator[bytes]:
    """Yield the rows after the header in blocks of complete rows.

    :raises Unfit: at the first block that both parsers might read differently.
    """
    with disk_errors(file.path), Path(file.path).open("rb") as stream:
        header = stream.readline(_LONGEST).removeprefix(_BOM)
        rows = _rows(file, header)
        if not rows.fullmatch(header):
            raise Unfit("an irregular header")
        end = b"\r\n" if header.endswith(b"\r\n") else b"\n"
        rest = b""
        for chunk in iter(partial(stream.read, _BLOCK), b""):
            block, rest = _split_complete(rows, rest + chunk)
            if block:
                yield block
        if rest:
            block, rest = _split_complete(rows, rest + end)
            if rest:
                raise Unfit("an irregular last row")
            yield block  # with the line break that the file lacks at its end


def count_rows(block: bytes) -> int:
    """Return the number of rows in a block: its line breaks outside of quoted fields."""
    return re.sub(rb'"[^"]*+"', b"", block).count(b"\n")


def _split_complete(rows: re.Pattern[bytes], data: bytes) -> tuple[bytes, bytes]:
    """Split ``data`` into its complete rows and the rest."""
    found = rows.match(data)
    end = found.end() if found else 0
    ended = b"\\" in data and b"\\." in data  # the first search is much faster
    if ended or b"\0" in data or len(data) - end > _LONGEST:
        raise Unfit("an end-of-data mark, or a row that is too long or irregular")
    return data[:end], data[end:]


def _rows(file: CsvFile, header: bytes) -> re.Pattern[bytes]:
    delimiter = re.escape(file.delimiter.encode())
    field = rb'(?:[^"\r\n' + delimiter + rb']*+|"(?:[^"]*+"")*+[^"]*+")'
    end = rb"\r\n" if header.endswith(b"\r\n") else rb"\n"
    repeat = rb"{%d}" % (file.width - 1)
    return re.compile(rb"(?:(?:" + field + delimiter + rb")" + repeat + field + end + rb")++")
