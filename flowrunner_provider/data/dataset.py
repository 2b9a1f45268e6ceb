"""The reference to a file of rows: small enough for XCom, and never the rows themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from flowrunner_provider.core.errors import ConfigError

__all__ = ["UNKNOWN", "Dataset", "Format", "format_of", "is_gzip", "local_path"]

Format = Literal["jsonl", "csv", "parquet"]

UNKNOWN = -1
"""``rows`` and ``bytes`` of a reference made from a bare path: nobody has counted yet."""

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A file of rows on a disk that the workers share.

    Readers compare ``rows``, ``columns`` and ``bytes`` with the file, so a file that was replaced or truncated after
    this reference was made is an error.

    :param path: the file; a name that ends in ``.gz`` means gzip (CSV and JSON Lines).
    :param format: ``jsonl``, ``csv`` or ``parquet``.
    :param rows: number of rows; :data:`UNKNOWN` if made from a bare path.
    :param columns: name -> ``string``, ``integer``, ``number``, ``decimal``, ``boolean``, ``object``, ``array``,
        ``date``, ``time``, ``timestamp``, ``binary``, ``null`` (only nulls) or ``mixed``, in the order of the file.
        These are the types of the values when they were written; CSV itself holds only text. Empty if made from a bare
        path.
    :param bytes: size of the file; :data:`UNKNOWN` if made from a bare path.
    :param preview: the first five rows, with values cut at 200 characters.
    """

    path: str
    format: Format
    rows: int
    columns: dict[str, str]
    bytes: int
    preview: list[dict[str, Any]]

    @classmethod
    def from_value(cls, value: Any, *, field: str = "source") -> Dataset:
        """Return the dataset for a :class:`Dataset`, its dict form as in XCom, or a path whose suffix names the format.

        The file is not opened.

        :param value: e.g. ``"/data/orders.csv.gz"``, or the result of an upstream task.
        :param field: the name of the parameter, for the error message.
        :raises ConfigError: for anything else.
        """
        if isinstance(value, Dataset):
            return value
        if isinstance(value, str | Path):
            path = local_path(str(value), field)
            return cls(
                path=str(path),
                format=format_of(path, field),
                rows=UNKNOWN,
                columns={},
                bytes=UNKNOWN,
                preview=[],
            )
        if isinstance(value, Mapping):
            return _from_mapping(value, field)
        raise ConfigError(
            f"{field} must be a dataset or a path, not {type(value).__name__}",
            field=field,
            remedy="pass the result of the task that wrote the data, or the path of a file",
        )


def _from_mapping(value: Mapping[str, Any], field: str) -> Dataset:
    given = {item.name: value[item.name] for item in dataclasses.fields(Dataset) if item.name in value}
    if not isinstance(given.get("path"), str):
        raise ConfigError(
            f"{field} is not a dataset: it has no path",
            field=field,
            remedy="pass the whole result of the task that wrote the data",
        )
    path = local_path(given["path"], field)
    given.setdefault("format", format_of(path, field) if "format" not in given else None)
    for name, kind, default in (
        ("rows", int, UNKNOWN),
        ("columns", dict, {}),
        ("bytes", int, UNKNOWN),
        ("preview", list, []),
    ):
        item = given.setdefault(name, default)
        if not isinstance(item, kind) or isinstance(item, bool):
            raise ConfigError(
                f"{field} is not a dataset: its {name} is {type(item).__name__}",
                field=field,
                remedy="pass the whole result of the task that wrote the data",
            )
    if given["format"] not in get_args(Format):
        raise ConfigError(
            f"{field} has the unknown format {given['format']!r}",
            field=field,
            remedy="jsonl, csv and parquet are known",
        )
    return Dataset(**given)


def local_path(path: str, field: str) -> Path:
    """Return ``path`` as a path on the worker's disk.

    :raises ConfigError: when it is empty or a URL.
    """
    if not path.strip() or "\0" in path:
        raise ConfigError(f"{field} is empty or not a path", field=field, remedy="give the path of a file")
    if "://" in path:
        raise ConfigError(
            f"{field} is a URL, and this action reads and writes files on the worker's disk",
            field=field,
            remedy="bring the file here first, with files.copy for example",
        )
    return Path(path)


def is_gzip(path: str | Path) -> bool:
    """Return whether the file name ends in ``.gz``."""
    return Path(path).suffix.lower() == ".gz"


def format_of(path: str | Path, field: str = "path") -> Format:
    """Return the format that the suffix of ``path`` names.

    :raises ConfigError: when it names none.
    """
    name = Path(path)
    stem = name.with_suffix("") if is_gzip(name) else name
    found = _SUFFIXES.get(stem.suffix.lower())
    if found is None or (found == "parquet" and stem != name):
        raise ConfigError(
            f"{field}: the name {name.name!r} does not tell a format",
            field=field,
            remedy="use .jsonl, .ndjson or .csv, each with .gz if compressed, or .parquet",
        )
    return found
