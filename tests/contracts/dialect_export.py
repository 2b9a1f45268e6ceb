"""What every dialect must do when rows leave it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, NotFound
from flowrunner_provider.database.operators import SqlExportOperator
from tests.database.far_side import FarSide, act, load_rows
from tests.database.payloads import PAYLOADS

TEXTS = ["", "\\.", "\\N", "NULL", '"', '""', "a\rb", "a\nb", "a\r\nb", ",", " x ", "é\u2028🙂", "\\", "\t", "'", None]


def export(far: FarSide, dest: str = "out.csv", **arguments: Any) -> Any:
    if "sql" not in arguments:
        arguments["table"] = far.name(arguments.get("table", "orders"))
    return act(far, SqlExportOperator, dest=str(far.folder / dest), **arguments)


def read(far: FarSide, dest: str) -> list[list[Any]]:
    """Without the header."""
    path = far.folder / dest
    if dest.endswith(".csv"):
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))[1:]
    if dest.endswith(".jsonl"):
        return [list(json.loads(line).values()) for line in path.read_bytes().splitlines()]
    return [list(row.values()) for row in pyarrow.parquet.read_table(path).to_pylist()]


def left(far: FarSide) -> set[str]:
    return {path.name for path in far.folder.iterdir()} - {"state", "far.db"}


class ExportContract:
    @pytest.fixture
    def texts(self, far: FarSide) -> FarSide:
        far.run(f"CREATE TABLE {far.name('orders')} (id integer, note text)")
        rows = [{"id": n, "note": text} for n, text in enumerate(TEXTS)]
        load_rows(far, far.jsonl(rows), context={"run_id": "fill"})
        (far.folder / "source.jsonl").unlink()
        return far

    @pytest.mark.parametrize("dest", ["out.csv", "out.jsonl", "out.parquet"])
    @pytest.mark.parametrize("chunk", [3, 1000])
    def test_a_table_becomes_a_file(self, texts: FarSide, dest: str, chunk: int) -> None:
        result = export(texts, dest, order_by=["id"], chunk_size=chunk)
        wanted = [[n, text] for n, text in enumerate(TEXTS)]
        if dest == "out.csv":
            wanted = [[str(n), text or ""] for n, text in wanted]
        assert read(texts, dest) == wanted
        assert (result["rows"], list(result["columns"]), len(result["preview"])) == (len(TEXTS), ["id", "note"], 5)
        assert result["bytes"] == (texts.folder / dest).stat().st_size
        assert left(texts) == {dest}

    def test_parameters_give_the_same_bytes_as_none(self, texts: FarSide) -> None:
        name = texts.name("orders")
        export(texts, "a.csv", sql=f"SELECT id, note FROM {name} WHERE id >= 0 ORDER BY id;", chunk_size=4)
        bound = f"SELECT id, note FROM {name} WHERE id >= {texts.mark} ORDER BY id"
        export(texts, "b.csv", sql=bound, parameters=[0], chunk_size=7, context={"run_id": "2"})
        assert (texts.folder / "a.csv").read_bytes() == (texts.folder / "b.csv").read_bytes()
        named = texts.named_mark.format("least")
        single = f"SELECT note FROM {name} WHERE id >= {named} ORDER BY id"
        export(texts, "c.csv", sql=single, parameters={"least": 1}, context={"run_id": "3"})
        export(texts, "d.csv", sql=f"SELECT note FROM {name} WHERE id >= 1 ORDER BY id", context={"run_id": "4"})
        assert (texts.folder / "c.csv").read_bytes() == (texts.folder / "d.csv").read_bytes()

    def test_a_comment_may_follow_the_final_semicolon(self, texts: FarSide) -> None:
        query = f"SELECT id, note FROM {texts.name('orders')} WHERE note <> '; -- x'; -- don't export more;\n"
        assert export(texts, "a.csv", sql=query)["rows"] > 0
        assert export(texts, "b.csv", sql=query, order_by=["id"], context={"run_id": "2"})["rows"] > 0

    def test_what_is_exported_can_be_loaded(self, texts: FarSide) -> None:
        result = export(texts, "out.jsonl", columns=["note", "id"])
        load_rows(texts, result, "copy", create_table=True, context={"run_id": "2"})
        assert texts.run(f"SELECT id, note FROM {texts.name('copy')} ORDER BY id") == list(enumerate(TEXTS))

    @pytest.mark.parametrize("dest", ["out.csv.gz", "out.jsonl", "out.parquet"])
    def test_many_files(self, texts: FarSide, dest: str) -> None:
        stem, _, suffix = dest.partition(".")
        (texts.folder / f"{stem}-00009.{suffix}").touch()
        (texts.folder / f"{stem}-x.{suffix}").touch()
        result = export(texts, dest, max_rows_per_file=6, chunk_size=4)
        assert [file["rows"] for file in result["files"]] == [6, 6, 4]
        names = {f"{stem}-{n:05d}.{suffix}" for n in (1, 2, 3)}
        assert {Path(file["path"]).name for file in result["files"]} == names
        assert left(texts) == names | {f"{stem}-x.{suffix}"}
        for number, file in enumerate(result["files"]):
            load_rows(texts, file, "copy", create_table=True, context={"run_id": f"back{number}"})
        assert len(texts.rows("copy")) == len(TEXTS)

    @pytest.fixture
    def regions(self, far: FarSide) -> FarSide:
        far.run(f"CREATE TABLE {far.name('orders')} (id integer, region varchar(40), year integer, note varchar(20))")
        places = ["a", "A", "b/c", "", None, "__HIVE_DEFAULT_PARTITION__", "é=%2F", "a", "..", "a"]
        rows = [{"id": n, "region": place, "year": 2020 + n % 2, "note": None} for n, place in enumerate(places)]
        load_rows(far, far.jsonl(rows), context={"run_id": "fill"})
        (far.folder / "source.jsonl").unlink()
        return far

    @pytest.mark.parametrize("dest", ["out.csv", "out.jsonl.gz", "out.parquet", "out.xlsx"])
    def test_folders(self, regions: FarSide, dest: str) -> None:
        (regions.folder / "region=gone" / "year=2020").mkdir(parents=True)
        (regions.folder / "region=gone" / "year=2020" / dest).write_text("of another run")
        by = {"partition_by": ["region", "year"], "order_by": ["id"]}
        result = export(regions, dest, chunk_size=4, **by)
        null = "__HIVE_DEFAULT_PARTITION__"
        wanted = {
            "region=a/year=2020": 1, "region=A/year=2021": 1, "region=b%2Fc/year=2020": 1, "region=/year=2021": 1,
            f"region={null}/year=2020": 1, f"region=%5F{null[1:]}/year=2021": 1, "region=é%3D%252F/year=2020": 1,
            "region=../year=2020": 1, "region=a/year=2021": 2,
        }  # fmt: skip
        found = {str(Path(file["path"]).relative_to(regions.folder).parent): file["rows"] for file in result["files"]}
        assert found == wanted
        assert list(result["columns"]) == ["id", "note"]
        there = {str(path.relative_to(regions.folder).parent) for path in regions.folder.glob(f"*/*/{dest}")}
        assert there == {*wanted, "region=gone/year=2020"}
        assert not [path for path in regions.folder.iterdir() if path.name.startswith(".")]

    @pytest.mark.parametrize("dest", ["out.csv", "out.parquet"])
    def test_folders_of_many_files(self, regions: FarSide, dest: str) -> None:
        stem, _, suffix = dest.partition(".")
        (regions.folder / "region=a").mkdir()
        (regions.folder / "region=a" / f"{stem}-00003.{suffix}").touch()
        result = export(
            regions, dest, partition_by=["region"], columns=["id", "region"], max_rows_per_file=2, order_by=["id"]
        )
        assert result["rows"] == 10
        files = sorted(path.name for path in (regions.folder / "region=a").iterdir())
        assert files == [f"{stem}-00001.{suffix}", f"{stem}-00002.{suffix}"]
        ids = [int(row[0]) for name in files for row in read(regions, f"region=a/{name}")]
        assert ids == [0, 7, 9]

    @pytest.mark.parametrize(
        "arguments",
        [
            {"partition_by": ["nope"]},
            {"partition_by": ["id", "region", "year", "note"]},
            {"partition_by": "region"},
            {"partition_by": ["region", "region"]},
            {"partition_by": ["region"], "columns": ["region"]},
        ],
    )
    def test_bad_folders(self, regions: FarSide, arguments: dict[str, Any]) -> None:
        with pytest.raises(ConfigError) as caught:
            export(regions, **arguments)
        assert caught.value.field == "partition_by"
        assert left(regions) == set()

    def test_a_value_that_is_no_folder(self, regions: FarSide) -> None:
        long = "x" * 300
        table = regions.name("orders")
        for sql in (f"SELECT id, '{long}' AS region FROM {table}", f"SELECT id, 1.5 AS region FROM {table}"):
            with pytest.raises(ConfigError, match="region") as caught:
                export(regions, sql=sql, partition_by=["region"])
            assert caught.value.field == "partition_by"
            assert long not in repr(caught.value.to_event())
        assert left(regions) == set()

    @pytest.mark.parametrize("dest", ["out.csv", "out.jsonl", "out.parquet"])
    def test_no_rows(self, far: FarSide, dest: str) -> None:
        far.run(f"CREATE TABLE {far.name('orders')} (id integer, note text)")
        assert export(far, dest, skip_if_empty=True)["files"] == []
        assert left(far) == set()
        result = export(far, dest, context={"run_id": "2"})
        assert (result["rows"], len(result["files"])) == (0, 1)
        assert read(far, dest) == []
        assert list(result["columns"]) == ["id", "note"]

    @pytest.mark.parametrize("split", [{"max_rows_per_file": 2}, {"partition_by": ["note"], "max_rows_per_file": 2}])
    def test_no_rows_keep_the_files_of_an_earlier_run(self, far: FarSide, split: Any) -> None:
        far.run(f"CREATE TABLE {far.name('orders')} (id integer, note varchar(9))")
        far.run(f"INSERT INTO {far.name('orders')} VALUES (1, 'a'), (2, 'a'), (3, 'a')")
        files = export(far, "out.csv", skip_if_empty=True, **split)["files"]
        before = {file["path"]: Path(file["path"]).read_bytes() for file in files}
        assert len(before) == 2
        far.run(f"DELETE FROM {far.name('orders')}")
        assert export(far, "out.csv", skip_if_empty=True, **split, context={"run_id": "2"})["files"] == []
        assert {path: Path(path).read_bytes() for path in before} == before

    @pytest.mark.parametrize("dest", ["out.csv", "out.jsonl"])
    def test_a_wrong_count_writes_nothing(self, texts: FarSide, dest: str) -> None:
        (texts.folder / dest).write_text("old")
        with pytest.raises(IntegrityError, match="expected were 3"):
            export(texts, dest, expected_rows="3")
        assert left(texts) == {dest}
        assert (texts.folder / dest).read_text() == "old"
        assert export(texts, dest, expected_rows=len(TEXTS))["rows"] == len(TEXTS)

    @pytest.mark.parametrize(
        "sql",
        [
            "DELETE FROM {}", "DELETE FROM {} RETURNING id", "SELECT 1; DELETE FROM {}",
            "INSERT INTO {} VALUES (99, 'x')", "DROP TABLE {}", "SELECT 1) TO STDOUT; DELETE FROM {}; --", "COMMIT",
        ],
    )  # fmt: skip
    def test_an_export_only_reads(self, texts: FarSide, sql: str) -> None:
        for parameters in (None, []):
            with pytest.raises(FlowRunnerError):
                export(texts, sql=sql.format(texts.name("orders")), parameters=parameters)
        assert len(texts.rows()) == len(TEXTS)
        assert left(texts) == set()

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"sql": "SELECT 1 AS a, 2 AS a"}, "sql"),
            ({"sql": "SELECT 1 AS a", "table": "orders"}, "sql"),
            ({"sql": ""}, "sql"),
            ({"table": "a;b"}, "table"),
            ({"parameters": [1]}, "parameters"),
            ({"columns": ["nope"]}, "columns"),
            ({"columns": []}, "columns"),
            ({"columns": "id"}, "columns"),
            ({"order_by": ["id", "id"]}, "order_by"),
            ({"order_by": ["id DESC"]}, "order_by"),
            ({"max_rows_per_file": 0}, "max_rows_per_file"),
            ({"chunk_size": 0}, "chunk_size"),
            ({"expected_rows": "x"}, "expected_rows"),
            ({"dest": "out.txt"}, "dest"),
            ({"dest": "s3://x/out.csv"}, "dest"),
        ],
    )
    def test_bad_arguments(self, texts: FarSide, arguments: dict[str, Any], field: str) -> None:
        given: dict[str, Any] = {"dest": str(texts.folder / "out.csv"), **arguments}
        if "sql" not in given:
            given.setdefault("table", texts.name("orders"))
        with pytest.raises(ConfigError) as caught:
            act(texts, SqlExportOperator, **given)
        assert caught.value.field == field
        assert left(texts) == set()

    def test_a_table_that_is_missing(self, far: FarSide) -> None:
        far.run(f"CREATE TABLE {far.name('other')} (id integer)")
        with pytest.raises(NotFound):
            export(far)

    def test_export_payloads_are_names_or_refused(self, far: FarSide) -> None:
        """As a table, a column and a sort key: read back, or refused; nothing else happens."""
        far.run(f"CREATE TABLE {far.name('victim')} (id integer)")
        far.run(f"INSERT INTO {far.name('victim')} VALUES (1)")
        source = far.jsonl([{"id": 1}])
        schema = far.name("x").rpartition(".")[0]
        prefix = f'"{schema}".' if schema else ""
        made = 0
        for number, payload in enumerate(PAYLOADS[::3]):
            table = prefix + '"' + payload.replace('"', '""') + '"'
            run_id = {"context": {"run_id": f"p{number}"}}
            try:
                act(
                    far, SqlExportOperator, table=far.name("victim"), columns=[payload], dest=str(far.folder / "n.csv"),
                    order_by=[payload], **run_id,
                )  # fmt: skip
                raise AssertionError(f"{payload!r} was taken")
            except ConfigError:
                pass
            try:
                load = {"column_map": {"id": payload}, "create_table": True, "conn_id": "warehouse"}
                from flowrunner_provider.database.operators import SqlLoadOperator

                act(far, SqlLoadOperator, table=table, source=source, **load, **run_id)
            except FlowRunnerError:
                continue
            names = {"columns": [payload], "order_by": [payload], "dest": str(far.folder / "n.jsonl")}
            act(far, SqlExportOperator, table=table, **names, context={"run_id": f"q{number}"})
            assert json.loads((far.folder / "n.jsonl").read_text()) == {payload: 1}
            made += 1
        assert made > 40
        assert far.rows("victim") == [(1,)]
