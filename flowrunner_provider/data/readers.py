"""Reads files of rows as batches of tuples, in constant memory.

::

    with open_rows(source) as rows:
        for batch in rows:            # list of tuples, in the order of rows.columns
            ...

The values depend on the format:

* JSON Lines: JSON values; a missing key is None. UTF-8 with or without BOM; blank lines are skipped.
* CSV: text. An empty field is ``""``; only ``null_text`` is None. Blank lines are skipped.
* Parquet: values of the column types (dates as ``date``, timestamps as ``datetime``, decimals as ``Decimal``).

Anything malformed is an :class:`~flowrunner_provider.core.errors.IntegrityError` that names the line. No row is
skipped, padded or truncated.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal, cast

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.core.streams import MAX_LINE
from flowrunner_provider.data.dataset import UNKNOWN, Dataset, Format, is_gzip
from flowrunner_provider.data.lines import damage, json_lines, unzipped

__all__ = ["Row", "RowReader", "open_rows"]

Row = tuple[Any, ...]


def open_rows(
    source: Dataset | Mapping[str, Any] | str | Path,
    *,
    batch_rows: int = 5_000,
    columns: Sequence[str] | None = None,
    extra_keys: Literal["error", "ignore"] = "error",
    max_line: int = MAX_LINE,
    delimiter: str = ",",
    quotechar: str = '"',
    encoding: str = "utf-8-sig",
    header: bool = True,
    null_text: str | None = None,
) -> RowReader:
    """Return a reader of the rows of ``source``; use it as a context manager.

    :param source: a dataset, its dict form, or a path.
    :param batch_rows: rows per batch; the last one may be shorter.
    :param columns: the expected columns; by default those that ``source`` declares. Without either, they come from the
        header of a CSV file, the schema of a Parquet file, or the first ``batch_rows`` rows of JSON Lines.
    :param extra_keys: JSON Lines: what to do with a key that is not a column.
    :param max_line: the longest JSON line or CSV field to hold in memory, in bytes.
    :param delimiter: CSV: field separator, one character.
    :param quotechar: CSV: quote, one character.
    :param encoding: CSV: the default reads UTF-8 with or without BOM.
    :param header: CSV: whether the first line has the column names; otherwise they are ``column_1`` and so on.
    :param null_text: CSV: the text that means NULL; by default there is none, and an empty field is an empty string.
    :raises ConfigError: for an invalid dataset, an unknown encoding, or a file without rows and without columns.
    :raises NotFound: when the file does not exist (on entering the context, like the following).
    :raises IntegrityError: when the file is not what ``source`` says, or is damaged.
    """
    dataset = Dataset.from_value(source)
    if batch_rows < 1:
        raise ConfigError("batch_rows must be at least 1", field="batch_rows", remedy="5000 is a good value")
    expected = list(columns) if columns is not None else list(dataset.columns)
    if dataset.format == "jsonl":
        return _JsonlReader(dataset, expected, batch_rows, extra_keys, max_line)
    if dataset.format == "parquet":
        return _ParquetReader(dataset, expected, batch_rows)
    _check_csv(delimiter, quotechar, encoding)
    options = {"delimiter": delimiter, "quotechar": quotechar, "strict": True}
    return _CsvReader(dataset, expected, batch_rows, options, encoding, header, null_text, max_line)


def _check_csv(delimiter: str, quotechar: str, encoding: str) -> None:
    for name, value in (("delimiter", delimiter), ("quotechar", quotechar)):
        if len(value) != 1 or value in "\r\n":
            raise ConfigError(f"{name} must be one character, not {value!r}", field=name, remedy="',' or ';' say")
    if delimiter == quotechar:
        raise ConfigError("delimiter and quotechar are the same", field="quotechar", remedy="choose another")
    try:
        "".encode(encoding)
    except LookupError:
        raise ConfigError(
            f"the encoding {encoding!r} is unknown", field="encoding", remedy="'utf-8' or 'cp1252', say"
        ) from None


class RowReader:
    """Iterates over batches of rows and finally compares their number with that of the dataset.

    ``columns`` is set inside the context. A reader can be iterated once.
    """

    columns: list[str]

    def __init__(self, dataset: Dataset, expected: list[str], batch_rows: int) -> None:
        self.dataset = dataset
        self.path = dataset.path
        self.format: Format = dataset.format
        self.columns = expected
        self.rows = 0
        self._batch_rows = batch_rows
        self._file: IO[bytes] | None = None

    def __enter__(self) -> RowReader:
        with disk_errors(self.path):
            self._file = file = Path(self.path).open("rb")
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
        try:
            if self.dataset.bytes not in (UNKNOWN, size):
                raise IntegrityError(
                    f"{self.path} has {size} bytes, and its dataset says {self.dataset.bytes}",
                    remedy="it was replaced or cut since: run the task that wrote it again",
                )
            with damage(self.path):
                self._open(file)
            self._check_columns()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __iter__(self) -> Iterator[list[Row]]:
        if self._file is None:
            raise ValueError("the reader is not open: use it in a with statement")
        with damage(self.path):
            for batch in self._batches():
                self.rows += len(batch)
                yield batch
        if self.dataset.rows not in (UNKNOWN, self.rows):
            raise IntegrityError(
                f"{self.path} has {self.rows} rows, and its dataset says {self.dataset.rows}",
                remedy="it was replaced or cut since: run the task that wrote it again",
            )

    def _check_columns(self) -> None:
        if not self.columns:
            raise ConfigError(
                f"{self.path} has no rows and does not tell its columns",
                field="columns",
                remedy="pass the dataset of the task that wrote it, or name the columns",
            )
        twice = sorted(name for name, times in Counter(self.columns).items() if times > 1)
        if twice or "" in self.columns:
            what = f"the column {twice[0]!r} twice" if twice else "a column without a name"
            raise IntegrityError(f"{self.path} has {what}", remedy="give each column a name of its own")

    def _agree(self, found: list[str], where: str) -> None:
        """Set the columns found in the file, which must be the expected ones, if there are any."""
        if self.columns and found != self.columns:
            raise IntegrityError(
                f"{self.path}, {where}: the columns are {found}, expected were {self.columns}",
                remedy="check that it is the right file, and its header",
            )
        self.columns = found

    def _open(self, file: IO[bytes]) -> None:
        raise AssertionError("a format opens its file")

    def _batches(self) -> Iterator[list[Row]]:
        raise AssertionError("a format reads its rows")


class _JsonlReader(RowReader):
    def __init__(self, dataset: Dataset, expected: list[str], batch_rows: int, extra_keys: str, max_line: int) -> None:
        super().__init__(dataset, expected, batch_rows)
        self._extra_keys, self._max_line = extra_keys, max_line
        self._records: Iterator[tuple[int, dict[str, Any]]] = iter(())

    def _open(self, file: IO[bytes]) -> None:
        self._records = json_lines(file, self.path, self._max_line)
        if not self.columns:
            first = list(islice(self._records, self._batch_rows))
            self.columns = list(dict.fromkeys(chain.from_iterable(record for _, record in first)))
            if first and not self.columns:
                raise IntegrityError(f"{self.path}: its first rows are empty objects", remedy="name the columns")
            self._records = chain(first, self._records)

    def _batches(self) -> Iterator[list[Row]]:
        columns, known, strict = self.columns, set(self.columns), self._extra_keys == "error"
        while chosen := list(islice(self._records, self._batch_rows)):
            if strict:
                for number, record in chosen:
                    if not record.keys() <= known:
                        raise self._unknown(number, next(key for key in record if key not in known))
            yield [tuple(map(record.get, columns)) for _, record in chosen]

    def _unknown(self, number: int, key: str) -> IntegrityError:
        return IntegrityError(
            f"{self.path}, line {number} has the key {key!r}, which is no column",
            remedy="name all columns, or pass extra_keys='ignore' to leave such keys out",
        )


class _CsvReader(RowReader):
    def __init__(
        self,
        dataset: Dataset,
        expected: list[str],
        batch_rows: int,
        options: dict[str, Any],
        encoding: str,
        header: bool,
        null_text: str | None,
        max_line: int,
    ) -> None:
        super().__init__(dataset, expected, batch_rows)
        self._options, self._encoding, self._header = options, encoding, header
        self._null_text, self._max_line = null_text, max_line
        self._records: Iterator[tuple[int, list[str]]] = iter(())

    def _open(self, file: IO[bytes]) -> None:
        if csv.field_size_limit() < self._max_line:  # for the whole process: only ever raised
            csv.field_size_limit(self._max_line)
        text = io.TextIOWrapper(unzipped(file, self.path), encoding=self._encoding, newline="")
        self._records = self._numbered(csv.reader(text, **self._options))
        first = next(self._records, None)
        if first is None:
            return
        number, fields = first
        if self._header:
            self._agree(fields, f"line {number}")
        else:
            self.columns = self.columns or [f"column_{place}" for place in range(1, len(fields) + 1)]
            self._records = chain([first], self._records)

    def _numbered(self, reader: Any) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows that are not blank, with the line on which each starts."""
        line = 1
        try:
            for fields in reader:
                if fields:
                    yield line, fields
                line = reader.line_num + 1
        except csv.Error as error:
            raise IntegrityError(
                f"{self.path}, the row that begins on line {line}: {error}",
                remedy="check quotes, delimiter and quotechar",
            ) from error
        except UnicodeError as error:
            raise IntegrityError(
                f"{self.path}, line {self._undecodable(line)} is not {self._encoding}",
                remedy="pass the encoding of the file, e.g. encoding='cp1252'",
            ) from error

    def _undecodable(self, line: int) -> int:
        """Find the line that cannot be decoded; the text layer decodes ahead of the rows."""
        opened = gzip.open if is_gzip(self.path) else open
        with opened(self.path, "rb") as file:
            for number, raw in enumerate(cast("IO[bytes]", file), 1):
                try:
                    raw.decode(self._encoding)
                except UnicodeError:
                    return number
        return line

    def _batches(self) -> Iterator[list[Row]]:
        width, null_text = len(self.columns), self._null_text
        while chosen := list(islice(self._records, self._batch_rows)):
            for number, fields in chosen:
                if len(fields) != width:
                    raise IntegrityError(
                        f"{self.path}, line {number} has {len(fields)} fields, the columns are {width}",
                        remedy="correct the row, or check delimiter and quotechar",
                    )
            if null_text is None:
                yield [tuple(fields) for _, fields in chosen]
            else:
                yield [tuple([None if text == null_text else text for text in fields]) for _, fields in chosen]


class _ParquetReader(RowReader):
    _parquet: Any = None

    def _open(self, file: IO[bytes]) -> None:
        parquet = load("pyarrow.parquet", extra="data", needed_for="reading Parquet")
        arrow = load("pyarrow", extra="data", needed_for="reading Parquet")
        self._invalid = arrow.ArrowInvalid
        with self._typed():
            self._parquet = parquet.ParquetFile(file)
        self._agree(list(self._parquet.schema_arrow.names), "its schema")

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except self._invalid as error:
            raise IntegrityError(
                f"{self.path} is no Parquet file, or is damaged", remedy="fetch or write it again"
            ) from error

    def _batches(self) -> Iterator[list[Row]]:
        with self._typed():
            for batch in self._parquet.iter_batches(batch_size=self._batch_rows):
                if batch.num_rows:
                    yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
