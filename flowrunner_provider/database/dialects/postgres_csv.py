"""A CSV file whose bytes go into ``COPY`` as they are: nothing is quicker, where it means the same.

Python's parser and the server's agree on files in which every quotation mark opens, closes, or is doubled
inside a quoted field. That, and the number of fields of each row, is checked on the way by one regular
expression; it matches without backtracking. Any other file is left to the parser.
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
    """The file must be parsed."""


def fits(file: CsvFile) -> bool:
    """Whether the options leave the bytes as they are."""
    encoding = file.encoding.lower().replace("_", "-")
    plain = encoding in ("utf-8", "utf8", "utf-8-sig") and file.null_text in (None, "")
    return plain and len(file.delimiter.encode()) == 1 and file.delimiter not in "\"\\.'"


def options(file: CsvFile, columns: str) -> str:
    """Of the COPY, so that it reads NULL where the parser does, quoted or not.

    :param columns: the quoted names of all columns.
    """
    null = "FORCE_NOT_NULL" if file.null_text is None else "FORCE_NULL"
    delimiter = {"\t": "E'\\t'"}.get(file.delimiter, f"'{file.delimiter}'")
    return f"FORMAT csv, DELIMITER {delimiter}, NULL '', {null} ({columns})"


def blocks(file: CsvFile) -> Iterator[bytes]:
    """The rows after the header, in blocks of whole rows.

    :raises Unfit: at the first block that the two parsers might read differently.
    """
    with disk_errors(file.path), Path(file.path).open("rb") as stream:
        header = stream.readline(_LONGEST).removeprefix(_BOM)
        rows = _rows(file, header)
        if not rows.fullmatch(header):
            raise Unfit("an odd header")
        end = b"\r\n" if header.endswith(b"\r\n") else b"\n"
        rest = b""
        for chunk in iter(partial(stream.read, _BLOCK), b""):
            block, rest = _whole(rows, rest + chunk)
            if block:
                yield block
        if rest:
            block, rest = _whole(rows, rest + end)
            if rest:
                raise Unfit("an odd last row")
            yield block  # the line break that the file ends without included


def count_rows(block: bytes) -> int:
    """How many rows a block has: its line breaks outside of quotation marks, which come in pairs."""
    return re.sub(rb'"[^"]*+"', b"", block).count(b"\n")


def _whole(rows: re.Pattern[bytes], data: bytes) -> tuple[bytes, bytes]:
    """The whole rows at the beginning of ``data``, and what is left."""
    found = rows.match(data)
    end = found.end() if found else 0
    ended = b"\\" in data and b"\\." in data  # the first is looked up much quicker
    if ended or b"\0" in data or len(data) - end > _LONGEST:
        raise Unfit("an end-of-data mark, or a row that is long or odd")
    return data[:end], data[end:]


def _rows(file: CsvFile, header: bytes) -> re.Pattern[bytes]:
    delimiter = re.escape(file.delimiter.encode())
    field = rb'(?:[^"\r\n' + delimiter + rb']*+|"(?:[^"]*+"")*+[^"]*+")'
    end = rb"\r\n" if header.endswith(b"\r\n") else rb"\n"
    repeat = rb"{%d}" % (file.width - 1)
    return re.compile(rb"(?:(?:" + field + delimiter + rb")" + repeat + field + end + rb")++")
