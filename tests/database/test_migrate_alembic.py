"""Alembic as the engine: each revision once, with its row in the version table."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, MissingExtra
from flowrunner_provider.database.operators.migrate import SqlMigrateOperator
from tests.database.far_side import FarSide, act
from tests.database.test_faults import ENVIRONMENT
from tests.support.kill import sweep

CANARY = "canary-57b0aa"
FIRST = """
    op.create_table("a", sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.Text), schema={schema!r})
    op.execute("INSERT INTO {a} VALUES (1, 'one')")
"""
SECOND = "\n    op.execute(sa.text(\"INSERT INTO {a} VALUES (2, :note)\").bindparams(note='two'))\n"


def revision(far: FarSide, name: str, after: str | None, body: str, down: str = "\n    pass\n") -> None:
    folder = far.folder / "alembic" / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    schema = far.name("x").rpartition(".")[0] or None
    text = f"revision, down_revision = {name!r}, {after!r}\nimport sqlalchemy as sa\nfrom alembic import op\n"
    text += f"def upgrade():{body}\ndef downgrade():{down}\n"
    (folder / f"{name}.py").write_text(text.replace("{a}", far.name("a")).replace("{schema!r}", repr(schema)))


def migrate(far: FarSide, command: str = "apply", run_id: str = "r1", **more: Any) -> Any:
    os.environ[ENVIRONMENT] = far.connection
    arguments = {"location": str(far.folder / "alembic"), "history_table": far.name("versions"), "engine": "alembic"}
    return act(far, SqlMigrateOperator, command=command, context={"run_id": run_id}, **{**arguments, **more})


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], FarSide]:
    monkeypatch.setenv(ENVIRONMENT, "")
    found: Callable[[], FarSide] = request.getfixturevalue(f"make_{request.param}")
    return found


def prepared(far: FarSide) -> FarSide:
    revision(far, "r1", None, FIRST, "\n    op.drop_table('a', schema={schema!r})\n")
    revision(far, "r2", "r1", SECOND, '\n    op.execute("DELETE FROM {a} WHERE id = 2")\n')
    return far


def check(far: FarSide) -> None:
    assert far.rows("a") == [(1, "one"), (2, "two")]
    assert far.run(f"SELECT version_num FROM {far.name('versions')}") == [("r2",)]


def test_up_and_down(make: Callable[[], FarSide]) -> None:
    far = prepared(make())
    far.run(f"CREATE TABLE {far.name('mine')} (id integer)")
    assert migrate(far, dry_run=True, run_id="d")["done"] == ["r1", "r2"]
    assert [one["state"] for one in migrate(far, "status", "s")["scripts"]] == ["pending", "pending"]
    assert far.tables() == {"mine"}
    assert migrate(far, target="r1")["done"] == ["r1"]
    result = migrate(far, run_id="r2")
    assert (result["done"], result["version"]) == (["r2"], "r2")
    check(far)
    assert migrate(far, run_id="r3")["done"] == []
    assert migrate(far, "undo", "u", target="r1")["done"] == ["r2"]
    assert far.rows("a") == [(1, "one")]
    assert migrate(far, "undo", "u2", target="0")["version"] is None
    assert far.tables() == {"mine", "versions"}
    assert migrate(far, "baseline", "b", target="r2")["version"] == "r2"
    assert migrate(far, "baseline", "b2", target="r2")["version"] == "r2"
    assert migrate(far, run_id="r4")["done"] == []


def test_what_fails_has_not_happened(make: Callable[[], FarSide]) -> None:
    far = prepared(make())
    bad = "\n".join(f"    op.execute(\"INSERT INTO {{a}} VALUES ({n}, '{CANARY}')\")" for n in (3, 1))
    revision(far, "r3", "r2", f"\n{bad}\n")
    with pytest.raises(FlowRunnerError) as caught:
        migrate(far)
    assert CANARY not in str(caught.value)
    check(far)
    (far.folder / "alembic" / "versions" / "r2.py").unlink()
    (far.folder / "alembic" / "versions" / "r3.py").unlink()
    with pytest.raises(IntegrityError, match="r2"):
        migrate(far, run_id="r2")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_every_kill(make: Callable[[], FarSide]) -> None:
    assert sweep(lambda: prepared(make()), migrate, check, at=lambda point: point.endswith("_commit")).kills == 6


def test_bad_input(make: Callable[[], FarSide], monkeypatch: pytest.MonkeyPatch) -> None:
    far = prepared(make())
    for arguments, why in [
        ({"target": "nope"}, "Alembic"),
        ({"location": str(far.folder / "missing")}, "Alembic"),
        ({"location": "sftp://partner@/in"}, "local folder"),
        ({"vars": {"a": "b"}}, "builtin"),
    ]:
        with pytest.raises(ConfigError, match=why):
            migrate(far, **arguments)
    monkeypatch.setitem(sys.modules, "alembic", None)
    with pytest.raises(MissingExtra, match="migrate"):
        migrate(far)


@pytest.mark.backend
def test_where_structures_commit_it_is_refused(
    make_mysql: Callable[[], FarSide], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "")
    with pytest.raises(ConfigError, match="interrupted"):
        migrate(prepared(make_mysql()))
