"""Readers say what is wrong, and where; datasets are checked against their files."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core import extras
from flowrunner_provider.core.errors import ConfigError, IntegrityError, MissingExtra, NotFound
from flowrunner_provider.data.dataset import UNKNOWN, Dataset
from flowrunner_provider.data.readers import open_rows
from flowrunner_provider.data.writers import open_writer


def read(path: Any, **options: Any) -> list[tuple[Any, ...]]:
    with open_rows(path, **options) as reader:
        return [row for batch in reader for row in batch]


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a":1}\n\n{"a":2,}\n', "line 3 is not JSON"),
        ("a.jsonl", b'{"a":1}\n[1]\n', "line 2 is list, not an object"),
        ("a.jsonl", b'{"a":1}\n{"a":"\xff"}\n', "line 2 is not JSON: UnicodeDecodeError"),
        ("a.jsonl", b'{"a":1}\n{"a":' + b"[" * 100_000 + b"\n", "line 2 is not JSON: RecursionError"),
        ("a.jsonl", b'{"a":1}\n{"a":2}{"a":3}', "line 2 is not JSON: Extra data"),
        ("a.csv", b"a,b\n1,2\n3\n", "line 3 has 1 fields, the columns are 2"),
        ("a.csv", b'a,b\n"1\n2",3\n\n4,5,6\n', "line 5 has 3 fields"),
        ("a.csv", b'a,b\n1,"2\n3,4\n', "begins on line 2: unexpected end of data"),
        ("a.csv", b'a,b\n1,"2"x\n', "begins on line 2: "),
        ("a.csv", b"a,b\n" + b"1,2\n" * 5_000 + b"1,\xff\n1,2\n", "line 5002 is not utf-8-sig"),
        ("a.csv", b"a,a\n1,2\n", "the column 'a' twice"),
        ("a.csv", b"a,\n1,2\n", "a column without a name"),
        ("a.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 9_999, mtime=0)[:-9], "gzip data is damaged"),
        ("a.csv.gz", b"a,b\n1,2\n", "gzip data is damaged"),
        ("a.jsonl.gz", gzip.compress(b'{"a":1}\n', mtime=0)[:-1] + b"\1", "gzip data is damaged"),
        ("a.parquet", b"PAR1 not at all PAR1", "is no Parquet file"),
    ],
)
def test_damage_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str, batch_rows: int
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=message):
        read(str(tmp_path / name), batch_rows=batch_rows)


def test_a_key_that_comes_late(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a":1}\n{"b":2}\n\n{"c":3,"a":4}\n')
    assert read(path) == [(1, None, None), (None, 2, None), (4, None, 3)]
    with pytest.raises(IntegrityError, match="line 4 has the key 'c'"):
        read(path, batch_rows=2)
    assert read(path, batch_rows=2, extra_keys="ignore") == [(1, None), (None, 2), (4, None)]
    assert read(path, batch_rows=2, columns=["c", "b", "a"]) == [(None, None, 1), (None, 2, None), (3, None, 4)]


def test_a_line_that_never_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":"' + b"x" * 3_000_000)
    with pytest.raises(IntegrityError, match="line 2 is longer than 1000000 bytes"):
        read(path, max_line=1_000_000, columns=["a"])


def test_csv_options(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeff'n;1';v\r\n\r\nNULL;''\r\n''''; x \r\n".encode())
    assert read(path, delimiter=";", quotechar="'", null_text="NULL") == [(None, ""), ("'", " x ")]
    path.write_bytes("é;1\n".encode("cp1252"))
    with open_rows(path, delimiter=";", encoding="cp1252", header=False) as reader:
        assert (reader.columns, list(reader)) == (["column_1", "column_2"], [[("é", "1")]])
    assert read(path, delimiter=";", encoding="cp1252", header=False, columns=["a", "b"]) == [("é", "1")]
    with pytest.raises(IntegrityError, match="the columns are"):
        read(path, delimiter=";", encoding="cp1252", columns=["a", "b"])
    wide = "x" * 1_000_000
    path.write_text(f"a\n{wide}\n")
    assert read(path) == [(wide,)]


@pytest.mark.parametrize(
    "options", [{"delimiter": ""}, {"quotechar": "ab"}, {"delimiter": '"'}, {"encoding": "no"}, {"batch_rows": 0}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        open_rows("a.csv", **options)
    assert caught.value.field
    assert caught.value.remedy


def test_an_empty_file_needs_columns(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ConfigError, match="does not tell its columns"):
            read(tmp_path / name)
        assert read(tmp_path / name, columns=["a"]) == []


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"a\.csv does not exist"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_dataset_is_checked_against_its_file(tmp_path: Path, name: str) -> None:
    with open_writer(tmp_path / name, name.split(".")[1], ["a", "b"], token="t") as writer:  # type: ignore[arg-type]
        writer.write([(1, 2), (3, 4)])
        dataset = writer.commit()
    with pytest.raises(IntegrityError, match="its dataset says 7"):
        read(dataclasses.replace(dataset, bytes=7))
    with pytest.raises(IntegrityError, match="has 2 rows, and its dataset says 3"):
        read(dataclasses.replace(dataset, rows=3))
    with pytest.raises(IntegrityError):
        read(dataclasses.replace(dataset, columns={"b": "integer"}))


@pytest.mark.parametrize(
    "value",
    [None, 7, [], "", " ", "a.xlsx", "a.parquet.gz", "a.gz", "s3://bucket/a.csv", {}, {"rows": 1}, {"path": 3},
     {"path": "a.csv", "format": "xml"}, {"path": "a.csv", "rows": "1"}, {"path": "a.csv", "columns": ["a"]}],
)  # fmt: skip
def test_what_is_no_dataset(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Dataset.from_value(value, field="source")
    assert caught.value.field == "source"
    assert caught.value.remedy


def test_from_value() -> None:
    bare = Dataset.from_value("dir/a.NDJSON.gz")
    assert (bare.format, bare.rows, bare.bytes, bare.columns) == ("jsonl", UNKNOWN, UNKNOWN, {})
    assert Dataset.from_value(bare) is bare
    assert Dataset.from_value({**dataclasses.asdict(bare), "extra": 1}) == bare
    assert Dataset.from_value({"path": "a.txt", "format": "csv"}).format == "csv"


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name, name="pyarrow")

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(MissingExtra, match=r"airflow-provider-flowrunner\[data\]"):
        read(tmp_path / "a.parquet")
    with pytest.raises(MissingExtra):
        open_writer(tmp_path / "b.parquet", "parquet", ["a"], token="t")
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
