"""The actions, run as the task runner does, with a look at the files."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core import extras
from flowrunner_provider.core.errors import AccessDenied, ConfigError, IntegrityError, MissingExtra, NotFound, TimedOut
from flowrunner_provider.data.operators import ReadJsonOperator, WriteColumnarOperator, WriteCsvOperator
from flowrunner_provider.data.readers import open_rows
from tests.support.context import execute, make_context

DOCUMENT = {"data": {"items": [{"id": 1, "who": {"name": "Zoë", "tags": ["a"]}}, {"id": 2, "late": True}]}}


def run(operator: Any, state: Path) -> dict[str, Any]:
    result: dict[str, Any] = execute(operator, make_context(operator, state=state))
    return result


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def orders(tmp_path: Path) -> str:
    path = tmp_path / "orders.json"
    path.write_text(json.dumps(DOCUMENT))
    return str(path)


def rows_of(dataset: dict[str, Any]) -> list[tuple[Any, ...]]:
    with open_rows(dataset) as reader:
        return [row for batch in reader for row in batch]


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        ("jsonl", [(1, "Zoë", ["a"], None), (2, None, None, True)]),
        ("csv", [("1", "Zoë", '["a"]', ""), ("2", "", "", "true")]),
        ("parquet", [(1, "Zoë", '["a"]', None), (2, None, None, True)]),
    ],
)
def test_read_json(tmp_path: Path, state: Path, orders: str, format_: Any, expected: Any) -> None:
    target = tmp_path / "out" / f"orders.{format_}"
    task = ReadJsonOperator(
        task_id="t", path=orders, records_path="data.items", flatten=1, save_to=str(target), format=format_
    )
    result = run(task, state)
    assert rows_of(result) == expected
    assert result["columns"] == {"id": "integer", "who_name": "string", "who_tags": "array", "late": "boolean"}
    assert (result["rows"], result["bytes"], len(result["preview"])) == (2, target.stat().st_size, 2)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    kept = [path.read_text() for path in state.glob("*.json")]
    assert kept
    assert not any("Zoë" in text or "Zo\\u00eb" in text for text in kept)


@pytest.mark.parametrize(
    ("name", "content", "lines", "records_path"),
    [
        ("a.json", b'[{"a":1},{"a":2}]', "auto", None),
        ("a.json", b'[{"a":1},\n{"a":2}]', "auto", None),
        ("a.json", b'\xef\xbb\xbf{"a":1}\n\n{"a":2}\n', "auto", None),
        ("a.json.gz", gzip.compress(b'{"a":1}\n{"a":2}\n', mtime=0), "auto", None),
        ("a.ndjson", b'{"a":1}\n{"a":2}', "auto", None),
        ("a.txt", b'{"x":[{"a":1}]}\n{"x":[{"a":2}]}\n', True, "x"),
        ("a.json", b'{"x":[{"a":1},{"a":2}]}', "auto", "x[*]"),
        ("a.json", b'{"x":\n[{"a":1},{"a":2}]}', False, "x"),
    ],
)
def test_documents_and_lines(
    tmp_path: Path, state: Path, name: str, content: bytes, lines: Any, records_path: str | None
) -> None:
    (tmp_path / name).write_bytes(content)
    task = ReadJsonOperator(
        task_id="t",
        path=str(tmp_path / name),
        lines=lines,
        records_path=records_path,
        save_to=str(tmp_path / "o.jsonl"),
    )
    assert rows_of(run(task, state)) == [(1,), (2,)]


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        (b'{"a":1}', {"records_path": "b"}, IntegrityError, "finds nothing"),
        (b'{"a":1}', {"records_path": "a["}, ConfigError, "is not JMESPath"),
        (b'{"a":1}', {"records_path": "length(a)"}, IntegrityError, "does not fit"),
        (b"[1]", {}, IntegrityError, "record 1 is int, not an object"),
        (b'[\n{"a":}]', {}, IntegrityError, "line 2 is not JSON"),
        (b"[]", {}, ConfigError, "has no records"),
        (b'[{"a":1},{"b":1}]', {"columns": ["a"]}, IntegrityError, "record 2 has the key 'b'"),
        (b'[{"a":{"b":1},"a_b":2}]', {"flatten": 1}, IntegrityError, "record 1: two values"),
        (b'[{"a":1}]', {"max_bytes": 5}, IntegrityError, "JSON document of more than 5 bytes"),
        (b'[{"a":1},{"a":"x"}]', {"format": "parquet"}, IntegrityError, "integer in row 1, string in row 2"),
        (b'[{"a":1}]', {"format": "xml"}, ConfigError, "format is 'xml'"),
        (b'[{"a":1}]', {"flatten": -1}, ConfigError, "flatten is -1"),
        (b'[{"a":1}]', {"save_to": "s3://bucket/a.jsonl"}, ConfigError, "save_to is a URL"),
        (b'[{"a":1}]', {"save_to": "/tmp/a.csv"}, ConfigError, "says csv, and jsonl"),
        (b'[{"a":1}]', {"path": "/nowhere/a.json"}, NotFound, "/nowhere/a.json does not exist"),
        (b'[{"a":1}]', {"path": ""}, ConfigError, "path is empty"),
    ],
)
def test_read_json_refuses(
    tmp_path: Path, state: Path, content: bytes, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    source = tmp_path / "a.json"
    source.write_bytes(content)
    suffix = options.get("format", "jsonl").replace("xml", "jsonl")
    given = {"path": str(source), "save_to": str(tmp_path / "out" / f"o.{suffix}"), **options}
    with pytest.raises(error, match=message):
        run(ReadJsonOperator(task_id="t", **given), state)
    out = tmp_path / "out"
    assert not out.exists() or list(out.iterdir()) == []


def test_no_records_are_all_right_with_columns(tmp_path: Path, state: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    task = ReadJsonOperator(
        task_id="t", path=str(tmp_path / "a.json"), save_to=str(tmp_path / "o.jsonl"), columns=["a"]
    )
    result = run(task, state)
    assert (result["rows"], result["columns"]) == (0, {"a": "null"})
    assert rows_of(result) == []


def test_write_csv_selects_orders_and_renames(tmp_path: Path, state: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"a":1,"b":"x;y","c":0.5}\n{"a":2,"b":null,"c":1}\n')
    target = tmp_path / "o.csv.gz"
    task = WriteCsvOperator(
        task_id="t",
        source=str(source),
        path=str(target),
        columns={"c": "Share", "b": "Name"},
        delimiter=";",
        decimal=",",
        null_text="NULL",
    )
    result = run(task, state)
    assert gzip.decompress(target.read_bytes()).decode() == 'Share;Name\n0,5;"x;y"\n1;NULL\n'
    assert (result["rows"], result["columns"]) == (2, {"Share": "number", "Name": "string"})
    with gzip.open(target, "rt", newline="") as file:
        assert list(csv.reader(file, delimiter=";"))[1:] == [["0,5", "x;y"], ["1", "NULL"]]


def test_write_parquet_from_xcom(tmp_path: Path, state: Path, orders: str) -> None:
    import pyarrow.parquet

    read = ReadJsonOperator(task_id="r", path=orders, records_path="data.items", save_to=str(tmp_path / "o.jsonl"))
    dataset = run(read, state)
    write = WriteColumnarOperator(
        task_id="w", source=dataset, path=str(tmp_path / "o.parquet"), row_group_rows=1, compression="snappy"
    )
    result = run(write, tmp_path / "state2")
    assert rows_of(result) == [(1, '{"name":"Zoë","tags":["a"]}', None), (2, None, True)]
    file = pyarrow.parquet.ParquetFile(tmp_path / "o.parquet")
    assert [str(column.type) for column in file.schema_arrow] == ["int64", "string", "bool"]
    assert file.metadata.num_row_groups == 2


def test_mixed_columns(tmp_path: Path, state: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"a":1}\n' * 2_000 + '{"a":"x"}\n{"a":true}\n{"a":null}\n')
    target = str(tmp_path / "o.parquet")
    with pytest.raises(IntegrityError, match="'a' has no common type: integer in row 1, string in row 2001, boolean"):
        run(WriteColumnarOperator(task_id="t", source=str(source), path=target), state)
    task = WriteColumnarOperator(task_id="t", source=str(source), path=target, on_mixed="string")
    assert rows_of(run(task, state))[1_999:] == [("1",), ("x",), ("true",), (None,)]


@pytest.mark.parametrize(
    ("operator", "options", "error", "message"),
    [
        (WriteCsvOperator, {"source": 7}, ConfigError, "source (must be a dataset or a path|is a number)"),
        (WriteCsvOperator, {"source": "/nowhere/a.csv"}, NotFound, "does not exist"),
        (WriteCsvOperator, {"columns": ["x"]}, ConfigError, "no column 'x'"),
        (WriteCsvOperator, {"columns": []}, ConfigError, "columns is no list"),
        (WriteCsvOperator, {"columns": {"a": "b", "b": "b"}}, ConfigError, "two columns one name"),
        (WriteCsvOperator, {"columns": ["a", "a"]}, ConfigError, "two columns one name"),
        (WriteCsvOperator, {"encoding": "no"}, ConfigError, "encoding"),
        (WriteCsvOperator, {"delimiter": "ab"}, ConfigError, "delimiter"),
        (WriteCsvOperator, {"quoting": "some"}, ConfigError, "quoting"),
        (WriteCsvOperator, {"decimal": ""}, ConfigError, "decimal"),
        (WriteCsvOperator, {"path": "{source}"}, ConfigError, "says jsonl, and csv"),
        (WriteCsvOperator, {"path": "/proc/x/o.csv"}, NotFound, "/proc"),
        (WriteColumnarOperator, {"compression": "rar"}, ConfigError, "compression"),
        (WriteColumnarOperator, {"on_mixed": "x"}, ConfigError, "on_mixed"),
        (WriteColumnarOperator, {"row_group_rows": 0}, ConfigError, "row_group_rows"),
    ],
)
def test_write_refuses(
    tmp_path: Path, state: Path, operator: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"a":1,"b":2}\n')
    out = tmp_path / "out"
    path = "o.csv" if operator is WriteCsvOperator else "o.parquet"
    given = {"source": str(source), "path": str(out / path), **options}
    given["path"] = given["path"].format(source=source)
    with pytest.raises(error, match=message):
        run(operator(task_id="t", **given), state)
    assert not out.exists() or list(out.iterdir()) == []


def test_the_source_is_never_the_target(tmp_path: Path, state: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("a\n1\n")
    with pytest.raises(ConfigError, match="is the source itself"):
        run(WriteCsvOperator(task_id="t", source=str(source), path=f"{tmp_path}/./a.csv"), state)


def test_a_failure_keeps_the_old_file(tmp_path: Path, state: Path) -> None:
    source, target = tmp_path / "a.jsonl", tmp_path / "o.csv"
    target.write_text("old")
    source.write_text('{"a":1}\n' * 100_000 + "oops\n")
    with pytest.raises(IntegrityError, match="line 100001"):
        run(WriteCsvOperator(task_id="t", source=str(source), path=str(target)), state)
    with pytest.raises(TimedOut):
        run(WriteCsvOperator(task_id="t", source=str(source), path=str(target), timeout=0.001), tmp_path / "state2")
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["a.jsonl", "o.csv"]


def test_a_source_that_changes_between_the_passes(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowrunner_provider.data import convert

    source = tmp_path / "a.jsonl"
    source.write_text('{"a":1}\n')
    genuine = convert.open_writer

    def late(*arguments: Any, **options: Any) -> Any:
        source.write_text('{"a":1}\n{"a":2}\n')
        return genuine(*arguments, **options)

    monkeypatch.setattr(convert, "open_writer", late)
    task = ReadJsonOperator(task_id="t", path=str(source), save_to=str(tmp_path / "o.csv"), format="csv")
    with pytest.raises(IntegrityError, match="it changed while it was read"):
        run(task, state)
    assert not (tmp_path / "o.csv").exists()


def test_a_missing_extra(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name, name=name.partition(".")[0])

    source = tmp_path / "a.jsonl"
    source.write_text('{"a":1}\n')
    read = ReadJsonOperator(task_id="t", path=str(source), records_path="a", save_to=str(tmp_path / "o.jsonl"))
    with monkeypatch.context() as patched:
        patched.setattr(extras.importlib, "import_module", missing)
        with pytest.raises(MissingExtra, match=r"\[data\]"):
            run(WriteColumnarOperator(task_id="t", source=str(source), path=str(tmp_path / "o.parquet")), state)
        with pytest.raises(MissingExtra, match=r"\[data\]"):
            run(read, state)


def test_an_unreadable_file(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", denied)
        with pytest.raises(AccessDenied), open_rows(tmp_path / "a.csv"):
            pass


def test_pure_files_do_without_airflow_and_pyarrow() -> None:
    code = (
        "import sys\n"
        "from flowrunner_provider.data import convert, csv_writer, json_source, parquet_writer, readers, writers\n"
        "found = {'airflow', 'pyarrow', 'jmespath'} & set(sys.modules)\n"
        "sys.exit(f'imported: {found}' if found else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
