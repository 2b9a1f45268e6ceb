"""Records out of JSON: a whole document, or one object per line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.core.streams import MAX_LINE
from flowrunner_provider.data.dataset import is_gzip
from flowrunner_provider.data.lines import damage, json_lines, unzipped

__all__ = ["json_records"]

Records = Callable[[], Iterator[dict[str, Any]]]
Select = Callable[[Any], Any]


def json_records(
    path: Path, *, records_path: str | None, lines: bool | Literal["auto"], flatten: int, max_bytes: int
) -> Records:
    """A function that goes through the records of a JSON file, each time from the start.

    JSON Lines are streamed; a document is parsed once and kept.

    :param path: the file; ``.gz`` at the end of its name means gzip.
    :param records_path: JMESPath to the records, in the document or in each line; None: the document itself.
    :param lines: whether each line is an object; ``auto`` looks at the name and at the first two lines.
    :param flatten: how many levels of nested objects become columns, named ``outer_inner``.
    :param max_bytes: the largest document, unpacked.
    :raises IntegrityError: for what is not JSON, no match, and records that are not objects.
    """
    select = _selector(records_path)
    by_line = _is_lines(path) if lines == "auto" else lines
    document = None if by_line else _document(path, max_bytes)

    def records() -> Iterator[dict[str, Any]]:
        found = _from_lines(path, select) if by_line else _chosen(document, select, f"{path}")
        return (_flat(record, flatten, path, number) for number, record in enumerate(found, 1))

    return records


def _selector(records_path: str | None) -> Select | None:
    if records_path is None:
        return None
    jmespath = load("jmespath", extra="data", needed_for="records_path")
    try:
        search: Select = jmespath.compile(records_path).search
    except jmespath.exceptions.JMESPathError as error:
        raise ConfigError(
            f"records_path {records_path!r} is not JMESPath: {error}",
            field="records_path",
            remedy="'data.items' or 'results[*]', say; see jmespath.org",
        ) from error

    def select(value: Any) -> Any:
        try:
            return search(value)
        except jmespath.exceptions.JMESPathError as error:
            raise IntegrityError(
                f"records_path {records_path!r} does not fit the data: {error}", remedy="correct records_path"
            ) from error

    return select


def _opened(path: Path) -> IO[bytes]:
    with disk_errors(str(path)):
        return path.open("rb")


def _is_lines(path: Path) -> bool:
    """Two lines, the first of which is a whole object, are JSON Lines; so says the name ``.jsonl``, too."""
    stem = path.with_suffix("") if is_gzip(path) else path
    if stem.suffix.lower() in (".jsonl", ".ndjson"):
        return True
    with _opened(path) as file, damage(str(path)):
        text = unzipped(file, str(path))
        first = text.readline(MAX_LINE)
        try:
            whole = isinstance(json.loads(first.decode("utf-8-sig")), dict)
        except (ValueError, RecursionError):
            return False
        return whole and any(not line.isspace() for line in iter(lambda: text.readline(MAX_LINE), b""))


def _document(path: Path, max_bytes: int) -> Any:
    with _opened(path) as file, damage(str(path)):
        content = unzipped(file, str(path)).read(max_bytes + 1)
    if len(content) > max_bytes:
        raise IntegrityError(
            f"{path} is a JSON document of more than {max_bytes} bytes",
            remedy="have it written as JSON Lines, which has no limit (`jq -c '.[]'` converts it), or raise"
            " max_bytes: reading a document takes up to ten times its size in memory",
        )
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise IntegrityError(
            f"{path}{line} is not JSON: {reason}", remedy="look at the file; lines=True reads JSON Lines"
        ) from error


def _from_lines(path: Path, select: Select | None) -> Iterator[dict[str, Any]]:
    with _opened(path) as file, damage(str(path)):
        for number, record in json_lines(file, str(path)):
            yield from _chosen(record, select, f"{path}, line {number}")


def _chosen(value: Any, select: Select | None, where: str) -> Iterator[dict[str, Any]]:
    if select is not None:
        value = select(value)
        if value is None:
            raise IntegrityError(f"{where}: records_path finds nothing", remedy="correct records_path")
    for place, record in enumerate(value if isinstance(value, list) else [value], 1):
        if not isinstance(record, dict):
            raise IntegrityError(
                f"{where}: record {place} is {type(record).__name__}, not an object",
                remedy="let records_path lead to a list of objects",
            )
        yield record


def _flat(record: dict[str, Any], depth: int, path: Path, number: int) -> dict[str, Any]:
    if depth == 0 or not any(isinstance(value, Mapping) for value in record.values()):
        return record
    flat: dict[str, Any] = {}
    for name, value in _leaves(record, depth):
        if name in flat:
            raise IntegrityError(
                f"{path}, record {number}: two values become the column {name!r} when it is flattened",
                remedy="use a smaller flatten, or rename one of the two",
            )
        flat[name] = value
    return flat


def _leaves(record: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping) and value and depth > 0:
            yield from ((f"{name}_{inner}", leaf) for inner, leaf in _leaves(value, depth - 1))
        else:
            yield name, value
