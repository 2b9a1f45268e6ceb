"""Migrations on each database: what runs, what stops before anything runs, what the history says."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    MissingExtra,
    NotFound,
    PermanentError,
    Rejected,
)
from flowrunner_provider.database.operators.migrate import SqlMigrateOperator
from tests.database.far_side import FarSide, act
from tests.database.payloads import PAYLOADS

CANARY = "canary-8d20e1"
V1 = "CREATE TABLE {a} (id integer PRIMARY KEY, note varchar(99));\nINSERT INTO {a} VALUES (1, 'x;y');"
V2 = "/* two; */ INSERT INTO {a} VALUES (2, 'it''s'); -- the end;\n"
R = "UPDATE {a} SET note = 'again' WHERE id = 1;"


@pytest.fixture(params=["sqlite", "postgres", "mysql", "mssql"])
def far(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FarSide:
    made: FarSide = request.getfixturevalue(f"make_{request.param}")()
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", made.connection)
    return made


@pytest.fixture
def make_far(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], FarSide]:
    def make(kind: str) -> FarSide:
        made: FarSide = request.getfixturevalue(f"make_{kind}")()
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", made.connection)
        return made

    return make


def write(far: FarSide, scripts: Mapping[str, str | None]) -> None:
    """Put scripts into the far side's folder, or remove them; ``{x}`` is a table."""
    folder = far.folder / "migrations"
    folder.mkdir(exist_ok=True)
    for name, text in scripts.items():
        if text is None:
            (folder / name).unlink()
        else:
            for table in "abc":
                text = text.replace("{" + table + "}", far.name(table))
            (folder / name).write_text(text, encoding="utf-8")


def migrate(far: FarSide, command: str = "apply", run_id: str = "r1", **more: Any) -> Any:
    more = {"location": str(far.folder / "migrations"), "history_table": far.name("history"), **more}
    return act(far, SqlMigrateOperator, command=command, context={"run_id": run_id}, **more)


def states(result: Any) -> dict[str, str]:
    return {one["script"]: one["state"] for one in result["scripts"]}


def history(far: FarSide) -> list[tuple[Any, ...]]:
    return far.run(f"SELECT kind, version, script, state FROM {far.name('history')} ORDER BY position")


def test_from_the_first_to_the_last(far: FarSide) -> None:
    write(far, {"V1__a.sql": V1, "V1.10__b.sql": V2, "R__r.sql": R, "readme.md": "no script"})
    if far.kind != "sqlite":
        assert states(migrate(far, "status", "s")) == {
            "V1__a.sql": "pending", "V1.10__b.sql": "pending", "R__r.sql": "pending",
        }  # fmt: skip
    listed = migrate(far, dry_run=True, run_id="d") if far.kind != "sqlite" else None
    assert far.tables() == set()
    assert listed is None or listed["done"] == ["V1__a.sql", "V1.10__b.sql", "R__r.sql"]
    result = migrate(far)
    assert result["done"] == ["V1__a.sql", "V1.10__b.sql", "R__r.sql"]
    assert (result["version"], set(states(result).values())) == ("1.10", {"applied"})
    assert far.rows("a") == [(1, "again"), (2, "it's")]
    assert migrate(far, run_id="r2")["done"] == []
    far.forget()
    assert migrate(far)["done"] == result["done"]
    write(far, {"V2_0__c.sql": "CREATE TABLE {b} (id integer)", "R__r.sql": R.replace("again", "anew")})
    assert states(migrate(far, "validate", "v"))["R__r.sql"] == "outdated"
    assert migrate(far, run_id="r3")["done"] == ["V2_0__c.sql", "R__r.sql"]
    assert far.rows("a")[0] == (1, "anew")
    assert history(far)[-2:] == [
        ("versioned", "2", "V2_0__c.sql", "done"), ("repeatable", None, "R__r.sql", "done"),
    ]  # fmt: skip
    one = migrate(far, "status", "s")["scripts"][0]
    assert one["applied_by"].split()[1:3] == ["r1", "load"]
    assert one["applied_at"].startswith("20")
    assert one["duration_ms"] >= 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"V1__a.sql": V1 + "--"}, "was changed"),
        ({"V1__a.sql": None}, "is no longer in the folder"),
        ({"V1.5__late.sql": "CREATE TABLE {b} (id integer)"}, "older than the applied version"),
    ],
)
def test_what_does_not_fit_stops_before_anything_runs(far: FarSide, change: dict[str, str | None], why: str) -> None:
    write(far, {"V1__a.sql": V1, "V2__b.sql": V2})
    migrate(far)
    write(far, {**change, "V3__c.sql": "CREATE TABLE {c} (id integer)"})
    for command in ("apply", "validate"):
        with pytest.raises(IntegrityError, match=why):
            migrate(far, command, "r2")
    assert far.tables() == {"a", "history"}
    assert {"changed", "missing", "out_of_order"} & set(states(migrate(far, "status", "s")).values())


def test_line_ends_and_marks_are_no_change(far: FarSide) -> None:
    write(far, {"V1__a.sql": V1})
    migrate(far)
    (far.folder / "migrations" / "V1__a.sql").write_bytes(
        b"\xef\xbb\xbf" + V1.replace("{a}", far.name("a")).replace("\n", "\r\n").encode()
    )
    migrate(far, "validate", "v")


def test_targets_and_undo(far: FarSide) -> None:
    write(far, {"V1__a.sql": V1, "V2__b.sql": V2, "V3__c.sql": "CREATE TABLE {c} (id integer)", "R__r.sql": R})
    with pytest.raises(ConfigError, match="no version 7"):
        migrate(far, target="7")
    assert migrate(far, target="2")["done"] == ["V1__a.sql", "V2__b.sql"]
    assert migrate(far, run_id="r2")["done"] == ["V3__c.sql", "R__r.sql"]
    write(far, {"U3__c.sql": "DROP TABLE {c}"})
    with pytest.raises(ConfigError, match="version 2 has no undo script"):
        migrate(far, "undo", "u", target="1")
    with pytest.raises(ConfigError, match="was not applied"):
        migrate(far, "undo", "u", target="9")
    write(far, {"U2__b.sql": "DELETE FROM {a} WHERE id = 2"})
    assert migrate(far, "undo", "u0", target="1", dry_run=True)["done"] == ["U3__c.sql", "U2__b.sql"]
    assert "c" in far.tables()
    result = migrate(far, "undo", "u", target="1")
    assert (result["done"], result["version"]) == (["U3__c.sql", "U2__b.sql"], "1")
    far.forget()
    assert migrate(far, "undo", "u", target="1")["done"] == result["done"]
    assert far.rows("a") == [(1, "again")]
    assert migrate(far, run_id="r3")["done"] == ["V2__b.sql", "V3__c.sql"]
    assert far.rows("a") == [(1, "again"), (2, "it's")]


def test_a_database_that_is_there_already(far: FarSide) -> None:
    far.run(V1.split(";\n")[0].replace("{a}", far.name("a")))
    write(far, {"V1__a.sql": V1, "V2__b.sql": V2})
    assert migrate(far, "baseline", "b", target="1")["version"] == "1"
    assert migrate(far, "baseline", "b2", target="1")["version"] == "1"
    assert migrate(far)["done"] == ["V2__b.sql"]
    assert far.rows("a") == [(2, "it's")]
    with pytest.raises(AlreadyExists):
        migrate(far, "baseline", "b3", target="2")


def test_a_script_that_fails_has_not_happened_or_is_told(far: FarSide) -> None:
    broken = "INSERT INTO {a} VALUES (3, 'q');\nCREATE TABLE {b} (id integer);\nINSERT INTO {a} VALUES (1, '" + CANARY
    write(far, {"V1__a.sql": V1, "V2__b.sql": broken + "');", "V3__c.sql": "CREATE TABLE {c} (id integer)"})
    with pytest.raises(PermanentError, match=r"V2__b.sql") as caught:
        migrate(far)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    write(far, {"V2__b.sql": V2})
    if far.kind != "mysql":
        assert far.rows("a") == [(1, "x;y")]
        assert migrate(far, run_id="r2")["done"] == ["V2__b.sql", "V3__c.sql"]
        return
    assert "statement 3" in str(caught.value)
    for command in ("apply", "validate"):
        with pytest.raises(IntegrityError, match="may be incomplete"):
            migrate(far, command, "r2")
    assert far.tables() == {"a", "b", "history"}
    assert states(migrate(far, "status", "s"))["V2__b.sql"] == "interrupted"
    assert migrate(far, run_id="r3", on_interrupted="done")["done"] == ["V3__c.sql"]
    assert far.rows("a") == [(1, "x;y"), (3, "q")]
    migrate(far, "validate", "v")


def test_a_script_without_changes_of_structures_is_undone_everywhere(far: FarSide) -> None:
    write(far, {"V1__a.sql": V1})
    migrate(far)
    write(far, {"V2__b.sql": "INSERT INTO {a} VALUES (5, 'five'); INSERT INTO {a} VALUES (1, 'twice');"})
    with pytest.raises(FlowRunnerError, match=r"V2__b\.sql"):
        migrate(far, run_id="r2")
    assert far.rows("a") == [(1, "x;y")]
    write(far, {"V2__b.sql": V2})
    assert migrate(far, run_id="r3")["done"] == ["V2__b.sql"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("V2_b.sql", "SELECT 1", "not named like a migration"),
        ("V1.0__twice.sql", "SELECT 1", "same version"),
        ("V2__b.sql", " \n", "is empty"),
        ("V2__b.sql", "-- flowrunner:fast\nSELECT 1", "unknown directive"),
    ],
)
def test_bad_scripts(far: FarSide, name: str, text: str, why: str) -> None:
    write(far, {"V1__a.sql": V1, name: text})
    with pytest.raises(ConfigError, match=why):
        migrate(far)
    assert far.tables() == set()


@pytest.mark.parametrize("text", ["COMMIT", "/* ; */ Rollback; SELECT 1", "SELECT 1;\nBEGIN TRANSACTION;\nSELECT 2"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mssql"])
def test_the_transaction_is_ours(make_far: Callable[[str], FarSide], kind: str, text: str) -> None:
    far = make_far(kind)
    write(far, {"V1__a.sql": V1, "V2__b.sql": text})
    with pytest.raises(ConfigError, match="change the transaction of the script"):
        migrate(far)
    assert far.tables() <= {"history"}


@pytest.mark.backend
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("postgres", "CREATE TABLE {a} (id integer); COMMIT; BEGIN; SELECT 1"),
        ("mssql", "CREATE TABLE {a} (id integer); COMMIT TRANSACTION; BEGIN TRANSACTION; SELECT 1 AS one"),
    ],
)
def test_a_transaction_that_ends_unseen_is_a_half_state(
    make_far: Callable[[str], FarSide], monkeypatch: pytest.MonkeyPatch, kind: str, text: str
) -> None:
    from flowrunner_provider.database.migrate.servers import _KNOWN

    far = make_far(kind)
    monkeypatch.setattr(_KNOWN[kind], "check", lambda script, file: None)
    write(far, {"V1__a.sql": text})
    with pytest.raises(IntegrityError, match="ended"):
        migrate(far)
    with pytest.raises(IntegrityError, match="may be incomplete"):
        migrate(far, run_id="r2")


def test_batches_of_sql_server(make_far: Callable[[str], FarSide]) -> None:
    far = make_far("mssql")
    text = "INSERT INTO {a} VALUES (7, 'a\nGO\nb') -- GO\n/*\nGO\n*/\nGO -- next\n"
    text += "UPDATE {a} SET id = id + 1 WHERE id > 6\n  go 3"
    write(far, {"V1__a.sql": V1, "V2__b.sql": text, "V3__c.sql": "GO\n\nGO\n" + V2})
    assert migrate(far)["done"] == ["V1__a.sql", "V2__b.sql", "V3__c.sql"]
    assert far.rows("a") == [(1, "x;y"), (2, "it's"), (10, "a\nGO\nb")]
    write(far, {"V4__d.sql": "DELETE FROM {a}\nGO\nSELECT 1 AS one\nGO\n\nINSERT INTO {a} VALUES (1, 'x'), (1, 'x')"})
    with pytest.raises(Rejected, match=r"V4__d.sql: batch in line 6"):
        migrate(far, run_id="r2")
    assert len(far.rows("a")) == 3
    failing = "INSERT INTO {a} VALUES (1, 'twice'); DELETE FROM {a}; SELECT 1 AS one;"
    write(far, {"V4__d.sql": failing})
    with pytest.raises(Rejected, match="2627"):
        migrate(far, run_id="r3")
    assert len(far.rows("a")) == 3
    write(far, {"V4__d.sql": "SELECT 1 AS one\nGO\n\n\nSELECT 2 AS two\nROLLBACK"})
    with pytest.raises(ConfigError, match="line 6: ROLLBACK"):
        migrate(far, run_id="r4")
    for bad in ("SELECT 1\nGO 0", "SELECT 1\nGO now", "SELECT 'a", "USE other", "SET NOEXEC ON", "SAVE TRAN x"):
        write(far, {"V4__d.sql": bad})
        with pytest.raises(ConfigError) as caught:
            migrate(far, run_id="r4")
        assert caught.value.remedy
    assert far.tables() == {"a", "history"}
    write(far, {"V4__d.sql": "DELETE FROM {a}; INSERT INTO {a} VALUES (4, ${x:text})"})
    migrate(far, run_id="r6", vars={"x": "a line\\\n'goes' on\\\nhere\\"})
    assert far.rows("a") == [(4, "a line\\\n'goes' on\\\nhere\\")]
    with pytest.raises(ConfigError) as caught:
        migrate(far, run_id="r5", engine="alembic", location=str(far.folder))
    assert caught.value.remedy


@pytest.mark.backend
def test_bodies_are_not_divided(make_far: Callable[[str], FarSide]) -> None:
    far = make_far("postgres")
    body = "BEGIN UPDATE {a} SET note = 'f;'; done := 1; END"
    write(far, {
        "V1__a.sql": V1,
        "V2__f.sql": f"CREATE FUNCTION {far.name('f')}() RETURNS void LANGUAGE plpgsql AS $x$ DECLARE done int;"
        f" {body} $x$; SELECT {far.name('f')}(); SELECT '%s $1 ?';",
        "V3__search.sql": "SET search_path = ''; SET ROLE NONE",
        "V4__l.sql": "UPDATE {a} SET note = note || '!'",
    })  # fmt: skip
    migrate(far)
    assert far.rows("a") == [(1, "f;!")]
    far = make_far("sqlite")
    write(far, {
        "V1__a.sql": V1,
        "V2__t.sql": "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET note = 'b;'; DELETE FROM a WHERE id = 1;"
        "END; INSERT INTO a VALUES (7, 'p');",
    })  # fmt: skip
    migrate(far)
    assert far.rows("a") == [(7, "b;")]
    far = make_far("mysql")
    write(far, {
        "V1__a.sql": V1,
        "V2__p.sql": "CREATE PROCEDURE p() BEGIN UPDATE a SET note = 'p;'; INSERT INTO a VALUES (9, '%s'); END;\n"
        "CALL p(); # done;\n",
    })  # fmt: skip
    migrate(far)
    assert far.rows("a") == [(1, "p;"), (9, "%s")]
    write(far, {"V3__d.sql": "DELIMITER //\nSELECT 1//"})
    with pytest.raises(ConfigError, match="DELIMITER"):
        migrate(far, run_id="r2")


@pytest.mark.backend
def test_copy_from_stdin_is_refused(make_far: Callable[[str], FarSide]) -> None:
    far = make_far("postgres")
    write(far, {"V1__a.sql": "CREATE TABLE {a} (id int); COPY {a} FROM STDIN; SELECT 1"})
    with pytest.raises(FlowRunnerError, match=r"V1__a\.sql"):
        migrate(far, timeout="20s")
    assert far.tables() == {"history"}


def test_statements_that_run_alone(far: FarSide) -> None:
    alone = {
        "postgres": "CREATE INDEX CONCURRENTLY by_note ON {a} (note);",
        "sqlite": "VACUUM;",
        "mysql": "CREATE INDEX by_note ON {a} (note)",
        "mssql": "CREATE INDEX by_note ON {a} (note);",
    }[far.kind]
    write(far, {"V1__a.sql": V1, "V2__i.sql": f"-- a note\n-- flowrunner:no-transaction\n{alone}", "V3__b.sql": V2})
    assert migrate(far)["done"] == ["V1__a.sql", "V2__i.sql", "V3__b.sql"]
    write(far, {"V4__two.sql": "-- flowrunner:no-transaction\nDELETE FROM {a}; DELETE FROM {a}"})
    with pytest.raises(FlowRunnerError, match=r"V4__two\.sql"):
        migrate(far, run_id="r2")
    assert len(far.rows("a")) == 2
    with pytest.raises(IntegrityError, match="may be incomplete"):
        migrate(far, run_id="r3")
    write(far, {"V4__two.sql": "-- flowrunner:no-transaction\nDELETE FROM {a}"})
    assert migrate(far, run_id="r4", on_interrupted="again")["done"] == ["V4__two.sql"]
    assert far.rows("a") == []


def test_variables(far: FarSide) -> None:
    odd = "o\"d`d ' t"
    text = "CREATE TABLE ${t:identifier} (id integer, note varchar(200));\n"
    text += "INSERT INTO ${t:identifier} VALUES (${n}, ${x:text})"
    nasty = "it's \\' ; -- ${n} \U0001f642"
    write(far, {"V1__a.sql": text})
    if far.kind == "postgres":
        write(far, {"V1__a.sql": text.replace("${t:identifier}", f"{far.name('${t:identifier}')}")})
    migrate(far, vars={"t": odd, "n": 3, "x": nasty})
    quoted = f'"{odd.replace(chr(34), chr(34) * 2)}"' if far.kind != "mysql" else f"`{odd.replace('`', '``')}`"
    assert far.run(f"SELECT * FROM {far.name(quoted)}") == [(3, nasty)]
    for values, why in [
        ({"n": 3, "x": "a"}, "without a value"),
        ({"t": "a", "n": "1; DROP", "x": "a"}, "not a plain word"),
        ({"t": "a", "n": 1, "x": "a", "z": "1"}, "no script has the variable 'z'"),
        ({"t": "a", "n": 1.5, "x": "a"}, "texts and whole numbers"),
    ]:
        with pytest.raises(ConfigError, match=why):
            migrate(far, run_id="r2", vars=values)
    write(far, {"V2__b.sql": "SELECT '${ n }'"})
    with pytest.raises(ConfigError, match="malformed"):
        migrate(far, run_id="r3", vars={"t": odd, "n": 3, "x": nasty})


def test_odd_names_of_the_history(far: FarSide) -> None:
    far.run(f"CREATE TABLE {far.name('victim')} (id integer)")
    write(far, {"V1__a.sql": "SELECT 1"})
    prefix = far.name("x")[:-1]
    for number, name in enumerate(PAYLOADS[::50]):
        quoted = prefix + '"' + name.replace('"', '""') + '"'
        try:
            migrate(far, run_id=f"r{number}", history_table=quoted)
        except (ConfigError, Rejected):  # some names are the server's own
            continue
        assert name in far.tables() or name.lower() in far.tables()
    assert far.run(f"SELECT * FROM {far.name('victim')}") == []


def test_bad_input(far: FarSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(far, {"V1__a.sql": V1})
    for arguments, field in [
        ({"command": "up"}, "command"),
        ({"command": "undo"}, "target"),
        ({"command": "baseline"}, "target"),
        ({"target": "one"}, "target"),
        ({"engine": "flyway"}, "engine"),
        ({"on_interrupted": "go"}, "on_interrupted"),
        ({"history_table": "a b"}, "history_table"),
        ({"vars": ["a"]}, "vars"),
        ({"location": str(tmp_path / "*")}, "location"),
        ({"conn_id": "nowhere"}, "conn_id"),
    ]:
        with pytest.raises(ConfigError) as caught:
            migrate(far, **{"command": "apply", **arguments})
        assert caught.value.field == field or field == "conn_id", arguments
        assert caught.value.remedy
    if far.kind != "mssql":  # whose scripts are divided by words of their own
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "sqlglot", None)
            with pytest.raises(MissingExtra, match="migrate"):
                migrate(far)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound):
        migrate(far, location=str(tmp_path / "empty"))
    with pytest.raises(NotFound):
        migrate(far, location=str(tmp_path / "nothing"))
    far.run(f"CREATE TABLE {far.name('history')} (id integer)")
    with pytest.raises(ConfigError, match="not a migration history"):
        migrate(far)
