"""Reads the lines of text files, plain or gzip, in bounded memory and with line numbers."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.core.streams import MAX_LINE
from flowrunner_provider.data.dataset import is_gzip

__all__ = ["damage", "json_lines", "unzipped"]

_CHUNK = 1 << 20


@contextmanager
def damage(path: str) -> Iterator[None]:
    """Raise our errors for those that the disk and the gzip decoder raise for a damaged file."""
    try:
        with disk_errors(path):
            try:
                yield
            except gzip.BadGzipFile as error:
                raise EOFError(str(error)) from error
    except (EOFError, zlib.error) as error:
        raise IntegrityError(
            f"{path}: the gzip data is damaged or stops before its end", remedy="fetch or write it again"
        ) from error


def unzipped(file: IO[bytes], path: str) -> IO[bytes]:
    """Return ``file``, or a decompressing reader of it if its name ends in ``.gz``."""
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb")) if is_gzip(path) else file


def json_lines(file: IO[bytes], path: str, max_line: int = MAX_LINE) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file with their line numbers.

    :param file: opened for reading bytes.
    :param path: its name, for error messages; ``.gz`` means gzip.
    :raises IntegrityError: naming the line, if it is not UTF-8, not JSON, not an object, or too long.
    """
    for number, line in enumerate(_lines(unzipped(file, path), path, max_line), 1):
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            raise IntegrityError(
                f"{path}, line {number} is not JSON: {reason}", remedy="correct or remove the line"
            ) from error
        if not isinstance(record, dict):
            raise IntegrityError(
                f"{path}, line {number} is {type(record).__name__}, not an object",
                remedy="each line must be one JSON object",
            )
        yield number, record


def _lines(file: IO[bytes], path: str, max_line: int) -> Iterator[bytes]:
    pending, number = b"", 0
    while chunk := file.read(_CHUNK):
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            number += 1
            if pending:
                line, pending = pending + line, b""
            yield line
        pending += rest
        if len(pending) > max_line:
            raise IntegrityError(
                f"{path}, line {number + 1} is longer than {max_line} bytes",
                remedy="check the format; a JSON document that is not JSON Lines is read by data.read_json",
            )
    if pending:
        yield pending
