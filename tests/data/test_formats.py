"""What is written is read back, by the rules of ``values``, however it was cut into batches."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.data.parquet_writer import ParquetWriter
from flowrunner_provider.data.readers import open_rows
from flowrunner_provider.data.values import json_text, text_of
from flowrunner_provider.data.writers import CsvOptions, ParquetOptions, open_writer

TEXT = st.text(max_size=12)
AWKWARD = st.sampled_from(
    ["", "\n", "\r", "\r\n", '"', '""', ",", ";", " x ", "\x00", "\u2028", "=1+1", "'", "\\", "é🎉"]
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT | AWKWARD
NESTED = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5
)
NAMES = st.lists(TEXT.filter(lambda name: name and not name.startswith("\ufeff")), min_size=1, max_size=4, unique=True)


@st.composite
def tables(draw: st.DrawFn, values: st.SearchStrategy[Any] = NESTED) -> tuple[list[str], list[tuple[Any, ...]]]:
    names = draw(NAMES)
    rows = draw(st.lists(st.tuples(*[values] * len(names)), max_size=12))
    return names, rows


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def save(path: Path, format_: Any, columns: Any, rows: list[Any], batch: int = 5, **options: Any) -> Dataset:
    with open_writer(path, format_, columns, token="t", **options) as writer:
        for start in range(0, len(rows), batch):
            writer.write(rows[start : start + batch])
        return writer.commit()


def read(source: Any, batch_rows: int = 3, **options: Any) -> list[tuple[Any, ...]]:
    with open_rows(source, batch_rows=batch_rows, **options) as reader:
        batches = list(reader)
    assert all(len(batch) == batch_rows for batch in batches[:-1])
    return [row for batch in batches for row in batch]


@given(tables(), st.integers(1, 13), st.sampled_from(["rows.jsonl", "rows.jsonl.gz"]))
def test_json_lines_round_trip(table: Any, batch: int, name: str) -> None:
    names, rows = table
    with folder() as here:
        dataset = save(here / name, "jsonl", names, rows, batch)
        assert [list(map(json_text, row)) for row in read(dataset, batch)] == [
            list(map(json_text, row)) for row in rows
        ]
        assert (dataset.rows, dataset.bytes) == (len(rows), (here / name).stat().st_size)
        assert list(dataset.columns) == names
        assert len(json.dumps(dataset.preview)) < 5_000
        assert Dataset.from_value(json.loads(json.dumps(dataset.__dict__))) == dataset


@given(
    tables(),
    st.integers(1, 13),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["minimal", "all"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["rows.csv", "rows.csv.gz"]),
)
def test_csv_round_trip(table: Any, batch: int, delimiter: str, quoting: Any, encoding: str, name: str) -> None:
    names, rows = table
    options = CsvOptions(delimiter=delimiter, quoting=quoting, encoding=encoding, null_text="\\N")
    with folder() as here:
        dataset = save(here / name, "csv", names, rows, batch, csv=options)
        back = read(
            dataset,
            batch,
            delimiter=delimiter,
            encoding="utf-16" if encoding == "utf-16" else "utf-8-sig",
            null_text="\\N",
        )
        assert back == [tuple(None if value is None else text_of(value) for value in row) for row in rows]


@given(st.integers(1, 4), st.data(), st.integers(1, 13))
@settings(max_examples=60)
def test_parquet_round_trip(width: int, data: st.DataObject, batch: int) -> None:
    kinds = {
        "string": TEXT | AWKWARD,
        "integer": st.integers(-(2**63), 2**63 - 1),
        "number": st.floats(allow_nan=False),
        "boolean": st.booleans(),
        "date": st.dates(),
        "timestamp": st.datetimes(),
        "timestamptz": st.datetimes(timezones=st.just(UTC)),
        "binary": st.binary(max_size=5),
        "object": st.dictionaries(TEXT, SCALAR, max_size=2),
    }
    chosen = data.draw(st.lists(st.sampled_from(sorted(kinds)), min_size=width, max_size=width))
    rows = data.draw(st.lists(st.tuples(*[st.none() | kinds[kind] for kind in chosen]), max_size=12))
    columns = {f"c{place}": kind for place, kind in enumerate(chosen)}
    with folder() as here:
        dataset = save(here / "a.parquet", "parquet", columns, rows, batch)
        assert dataset.columns == columns
        expected = [tuple(json_text(value) if isinstance(value, dict) else value for value in row) for row in rows]
        assert read(dataset, batch) == expected


@given(tables(st.none() | st.booleans() | TEXT), st.integers(1, 13), st.integers(1, 13), st.integers(1, 5))
@settings(max_examples=60)
def test_the_batches_leave_no_trace(table: Any, one: int, other: int, group: int) -> None:
    names, rows = table
    for name, format_, options in (
        ("a.jsonl", "jsonl", {}),
        ("a.csv", "csv", {}),
        ("a.csv.gz", "csv", {}),
        ("a.parquet", "parquet", {"parquet": ParquetOptions(row_group_rows=group, on_mixed="string")}),
    ):
        with folder() as here:
            first = save(here / name, format_, names, rows, one, **options)
            content = (here / name).read_bytes()
            assert save(here / name, format_, names, rows, other, **options) == first
            assert (here / name).read_bytes() == content
            assert [path.name for path in here.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_large_files_do_not_depend_on_batches_either(tmp_path: Path, name: str) -> None:
    rows = [(number, f"name {number}" * 5, number / 7) for number in range(25_000)]
    format_ = name.split(".")[1]
    contents = set()
    for batch in (777, 5_000, 25_000):
        save(tmp_path / name, format_, ["id", "name", "share"], rows, batch)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), SCALAR, max_size=4), min_size=1, max_size=9), st.integers(1, 9)
)
def test_json_lines_take_columns_as_they_come(records: list[dict[str, Any]], batch: int) -> None:
    columns = list(dict.fromkeys(key for record in records for key in record))
    assume(columns)
    with folder() as here:
        with open_writer(here / "a.jsonl", "jsonl", None, token="t") as writer:
            for start in range(0, len(records), batch):
                writer.write_records(records[start : start + batch])
            dataset = writer.commit()
        assert list(dataset.columns) == columns
        expected = [tuple(json_text(record.get(name)) for name in columns) for record in records]
        assert [tuple(map(json_text, row)) for row in read(dataset)] == expected


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_a_checkpoint_is_taken_up(tmp_path: Path, format_: Any) -> None:
    rows = [(number, f"é{number}") for number in range(10)]
    whole = save(tmp_path / f"whole.{format_}", format_, ["id", "name"], rows)
    path = tmp_path / f"a.{format_}"
    with open_writer(path, format_, ["id", "name"], token="t") as writer:
        writer.write(rows[:4])
        state = json.loads(json.dumps(writer.checkpoint()))
        writer.write(rows[4:7])
        writer.checkpoint()
    assert not path.exists()
    with open_writer(path, format_, ["id", "name"], token="t", state=state) as writer:
        assert (writer.resumed, writer.rows, writer.offset) == (True, 4, state["offset"])
        writer.write(rows[4:])
        dataset = writer.commit()
    assert path.read_bytes() == Path(whole.path).read_bytes()
    assert (dataset.rows, dataset.columns, dataset.preview) == (10, whole.columns, whole.preview)


def test_a_checkpoint_whose_part_is_gone_starts_afresh(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.jsonl", "jsonl", None, token="t") as writer:
        writer.write_records([{"a": 1}])
        state = writer.checkpoint()
        writer.discard()
    (tmp_path / ".a.jsonl.t.part").write_bytes(b"{")
    with open_writer(tmp_path / "a.jsonl", "jsonl", None, token="t", state=state) as writer:
        assert (writer.resumed, writer.rows, writer.offset) == (False, 0, 0)
        writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_gzip_and_parquet_have_no_checkpoint(tmp_path: Path) -> None:
    for name, format_ in (("a.csv.gz", "csv"), ("a.parquet", "parquet")):
        with open_writer(tmp_path / name, format_, ["a"], token="t") as writer, pytest.raises(ConfigError):  # type: ignore[arg-type]
            writer.checkpoint()


def test_how_values_are_written() -> None:
    zone = timezone(timedelta(hours=2))
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=zone)
    written = {
        "date": date(2026, 1, 2),
        "moment": moment,
        "decimal": Decimal("1.10"),
        "bytes": b"\x00\xff",
        "nan": math.nan,
        "deep": [math.inf, {"x": -math.inf}],
    }
    assert json.loads(json_text(written)) == {
        "date": "2026-01-02",
        "moment": "2026-01-02T03:04:05.000006+02:00",
        "decimal": "1.10",
        "bytes": "AP8=",
        "nan": "NaN",
        "deep": ["Infinity", {"x": "-Infinity"}],
    }
    assert [text_of(value) for value in (True, 1.0, 1e300, Decimal("1E+2"), math.nan)] == [
        "true", "1.0", "1e+300", "1E+2", "NaN",
    ]  # fmt: skip


def test_csv_for_people(tmp_path: Path) -> None:
    options = CsvOptions(delimiter=";", decimal=",", encoding="utf-8-sig", escape_formulas=True)
    rows = [("=cmd|' /C calc'!A0", -1.5), ("-5", Decimal("2.50")), ("+49 30", None), ("\t@x", 3), ("plain", 0.1)]
    save(tmp_path / "a.csv", "csv", ["=name", "share"], rows, csv=options)
    assert (tmp_path / "a.csv").read_bytes().decode("utf-8") == (
        "\ufeff'=name;share\n'=cmd|' /C calc'!A0;-1,5\n-5;2,50\n'+49 30;\n'\t@x;3\nplain;0,1\n"
    )


def test_an_empty_dataset_keeps_its_columns(tmp_path: Path) -> None:
    for name, format_ in (("a.csv", "csv"), ("a.jsonl", "jsonl"), ("a.parquet", "parquet"), ("a.csv.gz", "csv")):
        dataset = save(tmp_path / name, format_, {"id": "integer", "name": "string"}, [])
        assert (dataset.rows, dataset.columns) == (0, {"id": "integer", "name": "string"})
        with open_rows(dataset) as reader:
            assert (reader.columns, list(reader)) == (["id", "name"], [])


def test_a_preview_is_small(tmp_path: Path) -> None:
    rows = [(f"{number}" + "x" * 1_000, [1] * 1_000) for number in range(9)]
    dataset = save(tmp_path / "a.jsonl", "jsonl", ["a", "b"], rows)
    assert len(dataset.preview) == 5
    assert all(len(value) == 200 for row in dataset.preview for value in row.values())
    wide = save(tmp_path / "b.jsonl", "jsonl", [f"c{place}" for place in range(500)], [("x" * 100,) * 500])
    assert wide.preview == []


@pytest.mark.parametrize(
    ("column", "rows", "message"),
    [
        ("integer", [(1,), (2**63,)], "row 2, column 'c'"),
        ("integer", [(1,), ("x",)], "row 2, column 'c' is string"),
        ("number", [(0.5,), (2**53 + 1,)], "row 2, column 'c' is an integer too large"),
        ("timestamp", [(datetime(2026, 1, 1, tzinfo=UTC),)], "row 1, column 'c' is timestamptz"),
        ("string", [("\ud800",)], "row 1, column 'c'"),
        ("mixed", [(1,), ("x",)], "integer in row 1, string in row 2"),
        ("", [(1,)] * 1_000 + [("x",)], "row 1001, column 'c' is string"),
    ],
)
def test_parquet_names_the_value_that_does_not_fit(tmp_path: Path, column: str, rows: Any, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        save(tmp_path / "a.parquet", "parquet", {"c": column}, rows)
    assert not (tmp_path / "a.parquet").exists()


def test_writers_refuse_what_would_be_lost(tmp_path: Path) -> None:
    csv, jsonl = tmp_path / "a.csv", tmp_path / "a.jsonl"
    for path, format_, columns, rows, options, message in (
        (csv, "csv", ["a"], [("x",), ("é",), ("☃",)], {"csv": CsvOptions(encoding="latin-1")}, "row 3 has"),
        (csv, "csv", ["☃"], [("x",)], {"csv": CsvOptions(encoding="latin-1")}, "the header has"),
        (csv, "csv", ["a"], [("x",), ("NULL",)], {"csv": CsvOptions(null_text="NULL")}, "row 2, column 'a'"),
        (csv, "csv", ["a"], [("x",), ("\ud800",)], {}, "row 2 has"),
        (csv, "csv", ["a"], [("x",), (object(),)], {}, "row 2, column 'a' is a object"),
        (jsonl, "jsonl", ["a"], [("x",), ([{1j: 2}],)], {}, "row 2 cannot be written"),
        (jsonl, "jsonl", ["a"], [("x",), ("y", "z")], {}, "row 2 has 2 values"),
    ):  # fmt: skip
        with pytest.raises(IntegrityError, match=message):
            save(path, format_, columns, rows, **options)
        assert not path.exists()
    with (
        open_writer(jsonl, "jsonl", ["a"], token="t") as writer,
        pytest.raises(IntegrityError, match="record 1 "),
    ):
        writer.write_records([{"b": 1}])


def test_a_lone_surrogate_survives_json_lines(tmp_path: Path) -> None:
    dataset = save(tmp_path / "a.jsonl", "jsonl", ["a"], [("x\ud800y",)])
    assert read(dataset) == [("x\ud800y",)]


def test_bad_options_are_named(tmp_path: Path) -> None:
    for field, options in (
        ("delimiter", CsvOptions(delimiter=";;")),
        ("decimal", CsvOptions(decimal="x")),
        ("encoding", CsvOptions(encoding="klingon")),
        ("quoting", CsvOptions(quoting="some")),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError) as caught:
            open_writer(tmp_path / "a.csv", "csv", ["a"], token="t", csv=options)
        assert caught.value.field == field
    for columns in (["a", "a"], [], [""]):
        with pytest.raises(ConfigError):
            open_writer(tmp_path / "a.csv", "csv", columns, token="t")
    assert list(tmp_path.iterdir()) == []


def test_rows_and_arrow_tables_in_turn(tmp_path: Path) -> None:
    """Tables keep their place between rows, and row groups their bound."""
    options = ParquetOptions(row_group_rows=4)
    kinds = {"id": "integer", "note": "string"}
    writer = open_writer(tmp_path / "a.parquet", "parquet", kinds, token="t" * 24, parquet=options)
    assert isinstance(writer, ParquetWriter)
    writer.write([(1, "a"), (2, None)])
    writer.write_table(pyarrow.table({"id": [3, 4, 5, 6, 7, 8, 9], "note": list("cdefghi")}))
    writer.write([(10, "j")])
    dataset = writer.commit()
    assert (dataset.rows, [row["id"] for row in dataset.preview]) == (10, [1, 2, 3, 4, 5])
    file = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet")
    assert file.read()["id"].to_pylist() == list(range(1, 11))
    assert [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)] == [4, 4, 2]
