"""Converts a file of rows into another one; the rows are counted at both ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset, Format, format_of, local_path
from flowrunner_provider.data.readers import open_rows
from flowrunner_provider.data.values import Kinds
from flowrunner_provider.data.writers import CsvOptions, ParquetOptions, RowWriter, open_writer, part_token

__all__ = ["convert", "records_to_dataset", "target_path"]

T = TypeVar("T")

_BATCH = 1_000


def target_path(path: str, format: Format, source: str, field: str) -> Path:  # noqa: A002
    """Return the path to write to.

    :raises ConfigError: when it is not a local path, its suffix names another format, or it is the source itself.
    """
    target = local_path(path, field)
    try:
        told: Format = format_of(target, field)
    except ConfigError:
        told = format
    if told != format:
        raise ConfigError(
            f"{field}: the name {target.name!r} says {told}, and {format} would be written",
            field=field,
            remedy=f"let the name end in .{format}",
        )
    if target.resolve() == Path(source).resolve():
        raise ConfigError(
            f"{field} is the source itself",
            field=field,
            remedy="write to another file: a retry must find the source as it was",
        )
    return target


def convert(
    source: Dataset,
    path: Path,
    format: Format,  # noqa: A002
    run: Run,
    *,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    csv: CsvOptions | None = None,
    parquet: ParquetOptions | None = None,
) -> Dataset:
    """Write the rows of ``source`` to ``path`` in another format.

    :param columns: the columns in the order to write them, or old name -> new name; None for all.
    :param csv: the options of CSV.
    :param parquet: the options of Parquet, whose column types come from a first pass over all rows.
    """
    with open_rows(source, batch_rows=_BATCH) as first:
        names, places = _selection(first.columns, columns)
        kinds = dict.fromkeys(names, "")
        seen = Kinds()
        if format == "parquet":
            for batch in _watched(first, run):
                seen.add_rows(first.columns, batch, first.rows - len(batch))
            kinds = {new: seen.simple(old) for new, old in zip(names, _old(first.columns, places), strict=True)}
            if parquet is None or parquet.on_mixed == "error":
                _no_mixed(kinds, seen, _old(first.columns, places))
        elif source.columns:
            kinds = {new: source.columns[old] for new, old in zip(names, _old(first.columns, places), strict=True)}
    with (
        open_rows(source, batch_rows=_BATCH) as reader,
        _written(path, format, kinds, run, csv=csv, parquet=parquet) as writer,
    ):
        progress = run.progress("write", unit="rows", total=source.rows if source.rows >= 0 else None)
        for batch in _watched(reader, run):
            writer.write(batch if places is None else [tuple([row[place] for place in places]) for row in batch])
            progress.advance(len(batch))
        progress.finish()
        expected = {reader.rows, first.rows} if format == "parquet" else {reader.rows}
        return _committed(writer, run, source.path, expected)


def _old(columns: Sequence[str], places: Sequence[int] | None) -> list[str]:
    return list(columns) if places is None else [columns[place] for place in places]


def _selection(
    have: Sequence[str], columns: Sequence[str] | Mapping[str, str] | None
) -> tuple[list[str], list[int] | None]:
    if columns is None:
        return list(have), None
    wanted = list(columns)
    if isinstance(columns, str) or not wanted:
        raise ConfigError("columns is no list of names", field="columns", remedy="give a list, or old: new")
    missing = [name for name in wanted if name not in have]
    if missing:
        raise ConfigError(
            f"the source has no column {missing[0]!r}", field="columns", remedy=f"it has {', '.join(have)}"
        )
    names = [columns[name] for name in wanted] if isinstance(columns, Mapping) else wanted
    if len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f"columns gives two columns one name, or none: {names}",
            field="columns",
            remedy="give each column a name of its own",
        )
    return names, [have.index(name) for name in wanted]


def _no_mixed(kinds: Mapping[str, str], seen: Kinds, columns: Sequence[str]) -> None:
    for (new, kind), old in zip(kinds.items(), columns, strict=True):
        if kind == "mixed":
            raise IntegrityError(
                f"column {new!r} has no common type: {seen.where(old)}",
                remedy="correct the data, or pass on_mixed='string' to write all its values as text",
            )


def records_to_dataset(
    records: Callable[[], Iterator[dict[str, Any]]],
    path: Path,
    format: Format,  # noqa: A002
    run: Run,
    *,
    source: str,
    columns: Sequence[str] | None = None,
) -> Dataset:
    """Write records, whose keys may vary, to ``path``.

    CSV and Parquet need all columns in advance, so the records are read twice.

    :param records: starts a new pass over the records each time it is called.
    :param source: the name of the source, for error messages.
    :param columns: the expected columns; required if there may be no records.
    """
    expected: set[int] = set()
    declared: dict[str, str] | None = dict.fromkeys(columns, "") if columns else None
    if declared is None and format != "jsonl":
        seen, count = Kinds(), 0
        for batch in _watched(_batches(records()), run):
            for record in batch:
                count += 1
                seen.add_record(record, count)
        expected.add(count)
        declared = {name: seen.simple(name) for name in seen.seen}
        if format == "parquet":
            _no_mixed(declared, seen, list(declared))
        _need_columns(list(declared), source)
    with _written(path, format, declared, run) as writer:
        progress = run.progress("write", unit="rows")
        count = 0
        for batch in _watched(_batches(records()), run):
            writer.write_records(batch)
            count += len(batch)
            progress.advance(len(batch))
        progress.finish()
        _need_columns(writer.columns, source)
        return _committed(writer, run, source, expected | {count})


def _need_columns(columns: Sequence[str], source: str) -> None:
    if not columns:
        raise ConfigError(
            f"{source} has no records", field="columns", remedy="name the columns if no records are all right"
        )


def _batches(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(records, _BATCH)):
        yield batch


def _watched(batches: Iterable[list[T]], run: Run) -> Iterator[list[T]]:
    for batch in batches:
        run.deadline.check("writing the rows")
        yield batch


@contextmanager
def _written(
    path: Path,
    format: Format,  # noqa: A002
    columns: Mapping[str, str] | None,
    run: Run,
    *,
    csv: CsvOptions | None = None,
    parquet: ParquetOptions | None = None,
) -> Iterator[RowWriter]:
    """Open a writer and delete its temporary file on failure, unless a newer attempt owns it."""
    with open_writer(path, format, columns, token=part_token(run.scope), csv=csv, parquet=parquet) as writer:
        try:
            yield writer
        except BaseException:
            try:
                run.lease.check()
            except FlowRunnerError:
                writer.withdraw()
            else:
                writer.discard()
            raise


def _committed(writer: RowWriter, run: Run, source: str, expected: set[int]) -> Dataset:
    if expected != {writer.rows}:
        raise IntegrityError(
            f"{writer.rows} rows were written, and {source} had {sorted(expected)}",
            remedy="it changed while it was read: let it be written first, then retry",
        )
    run.lease.check()
    return writer.commit()
