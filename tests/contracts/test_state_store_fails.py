"""The task state store fails at any of its calls: the work stops or is done, and is never begun afresh in silence.

Every action here changes something; each of its calls of the store fails once, a write also after it was stored. Then
the task is tried again with a store that works, and what is on the far side is looked at.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core import errors
from tests.email.support import connect
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import attempt, kill_at, trace
from tests.support.smtp_sink import SmtpSink

pytestmark = pytest.mark.faults
STEP = 1 if int(os.environ.get("FLOWRUNNER_KILLS", "3")) > 3 else 8
"""Nightly every call, otherwise every eighth, the first and the last."""


@dataclass(frozen=True)
class Scene:
    """One task instance in a folder of its own."""

    action: str
    folder: Path
    mailbox: Path
    before: int

    def mailed(self) -> list[str]:
        """To whom, since the scene was made."""
        mails = sorted(self.mailbox.glob("*.eml"), key=lambda path: path.stat().st_mtime_ns)[self.before :]
        return [line[4:] for mail in mails for line in mail.read_text().splitlines() if line.startswith("To: ")]


def run(scene: Scene, store: dict[str, Any]) -> Any:
    """One attempt, in a process of its own: an attempt of a living process is waited for."""
    for conn_id, name in (("ROWS", "rows.db"), ("SOURCE", "source.db")):
        connection = {"conn_type": "sqlite", "host": str(scene.folder / name)}
        os.environ[f"AIRFLOW_CONN_{conn_id}"] = json.dumps(connection)
    operator = ACTIONS[scene.action][0](scene)
    return execute(operator, make_context(operator, state=FileStateStore(scene.folder / "state", **store)))


def copied(scene: Scene) -> Any:
    from flowrunner_provider.files.operators import FileCopyOperator

    return FileCopyOperator(task_id="t", source=f"{scene.folder}/in/*", dest=f"{scene.folder}/out/", move=True)


def appended(scene: Scene) -> Any:
    from flowrunner_provider.files.operators import FileWriteOperator

    return FileWriteOperator(task_id="t", path=f"{scene.folder}/in/a", content="more", append=True)


def loaded(scene: Scene) -> Any:
    from flowrunner_provider.database.operators import SqlLoadOperator

    return SqlLoadOperator(task_id="t", conn_id="rows", source=f"{scene.folder}/rows.csv", table="orders")


def written(scene: Scene) -> Any:
    from flowrunner_provider.data.operators import WriteCsvOperator

    return WriteCsvOperator(task_id="t", source=f"{scene.folder}/rows.csv", path=f"{scene.folder}/copy.csv")


def mailed(scene: Scene) -> Any:
    from flowrunner_provider.email.operators import EmailSendOperator

    return EmailSendOperator(task_id="t", to="a@example.com", subject="s", text="t", from_email="etl@example.com")


def batch_mailed(scene: Scene) -> Any:
    from flowrunner_provider.email.operators import EmailBatchOperator

    rows = [{"email": f"u{number}@example.com"} for number in range(7)]
    return EmailBatchOperator(
        task_id="t", recipients=rows, subject="s", text="t", from_email="etl@example.com", concurrency=2
    )


def written_as_parquet(scene: Scene) -> Any:
    from flowrunner_provider.data.operators import WriteColumnarOperator

    return WriteColumnarOperator(task_id="t", source=f"{scene.folder}/rows.csv", path=f"{scene.folder}/copy.parquet")


def read_json(scene: Scene) -> Any:
    from flowrunner_provider.data.operators import ReadJsonOperator

    (scene.folder / "rows.jsonl").write_text("".join(f'{{"id":{number}}}\n' for number in range(50)))
    return ReadJsonOperator(task_id="t", path=f"{scene.folder}/rows.jsonl", save_to=f"{scene.folder}/copy.jsonl")


def synced(scene: Scene) -> Any:
    from flowrunner_provider.files.operators import FileSyncOperator

    return FileSyncOperator(
        task_id="t", source=f"{scene.folder}/in", dest=f"{scene.folder}/out", delete_extra=True, max_deletes=10
    )


def planned(scene: Scene) -> Any:
    return _of_the_sync(scene, "FileSyncPlanOperator", shards=2)


def sharded(scene: Scene) -> Any:
    execute(planned(scene), make_context(state=FileStateStore(scene.folder / "plan-state")))
    return _of_the_sync(scene, "FileSyncShardOperator", shard=0)


def sync_finished(scene: Scene) -> Any:
    for number in range(2):
        execute(planned(scene), make_context(state=FileStateStore(scene.folder / "plan-state")))
        shard = _of_the_sync(scene, "FileSyncShardOperator", shard=number)
        execute(shard, make_context(state=FileStateStore(scene.folder / f"shard-state-{number}")))
    return _of_the_sync(scene, "FileSyncFinishOperator")


def _of_the_sync(scene: Scene, kind: str, **how: Any) -> Any:
    from flowrunner_provider.files import operators

    return getattr(operators, kind)(
        task_id="t",
        source=f"{scene.folder}/in",
        dest=f"{scene.folder}/out",
        plan_path=f"{scene.folder}/the-plan",
        delete_extra=True,
        max_deletes=10,
        **how,
    )


def transacted(scene: Scene) -> Any:
    from flowrunner_provider.database.operators import SqlTransactionOperator

    statements = [{"sql": f"INSERT INTO orders VALUES ({number})"} for number in range(50)]
    return SqlTransactionOperator(task_id="t", conn_id="rows", statements=statements)


def tables_synced(scene: Scene) -> Any:
    from flowrunner_provider.database.operators import SqlSyncOperator

    return SqlSyncOperator(
        task_id="t", source_conn_id="source", conn_id="rows", source_table="orders", table="orders", replace_by="delete"
    )


def names(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def is_copied(scene: Scene, finished: bool) -> None:
    assert finished
    assert names(scene.folder / "out") == {"a": b"alpha" * 1000, "b": b"beta"}
    assert names(scene.folder / "in") == {}


def is_appended(scene: Scene, finished: bool) -> None:
    assert finished
    assert names(scene.folder / "in")["a"] == b"alpha" * 1000 + b"more"


def is_synced(scene: Scene, finished: bool) -> None:
    assert finished
    assert names(scene.folder / "out") == names(scene.folder / "in") == {"a": b"alpha" * 1000, "b": b"beta"}


def is_planned(scene: Scene, finished: bool) -> None:
    assert finished
    assert names(scene.folder / "out") == {"gone": b"old"}, "a plan changes nothing"
    (plan,) = (scene.folder / "the-plan").iterdir()
    assert sorted(path.name.rpartition("-")[2] for path in plan.iterdir()) == ["000001.jsonl", "end.json", "plan.json"]


def is_sharded(scene: Scene, finished: bool) -> None:
    """What its shard has, and nothing is deleted yet."""
    assert finished
    out, whole = names(scene.folder / "out"), names(scene.folder / "in")
    assert out.pop("gone") == b"old"
    assert out
    assert out.items() <= whole.items()


def is_loaded(scene: Scene, finished: bool) -> None:
    assert finished
    with sqlite3.connect(scene.folder / "rows.db") as database:
        assert sorted(database.execute("SELECT id FROM orders")) == [(number,) for number in range(50)]


def is_written(scene: Scene, finished: bool) -> None:
    assert finished
    assert (scene.folder / "copy.csv").read_text().split() == (scene.folder / "rows.csv").read_text().split()


def is_parquet(scene: Scene, finished: bool) -> None:
    import pyarrow.parquet as pq

    assert finished
    table = pq.read_table(scene.folder / "copy.parquet")
    assert sorted(int(value) for value in table["id"].to_pylist()) == list(range(50))
    assert not list(scene.folder.glob(".*"))


def is_read(scene: Scene, finished: bool) -> None:
    assert finished
    assert (scene.folder / "copy.jsonl").read_text() == (scene.folder / "rows.jsonl").read_text()
    assert not list(scene.folder.glob(".*"))


def is_mailed(scene: Scene, finished: bool) -> None:
    sent = scene.mailed()
    assert len(sent) == len(set(sent)), "nobody has it twice"
    assert len(sent) == (1 if scene.action == "email.send" else 7) or not finished, "a success, and somebody has none"


ACTIONS: dict[str, tuple[Callable[[Scene], Any], Callable[[Scene, bool], None]]] = {
    "files.copy": (copied, is_copied),
    "files.write": (appended, is_appended),
    "files.sync": (synced, is_synced),
    "files.sync_plan": (planned, is_planned),
    "files.sync_shard": (sharded, is_sharded),
    "files.sync_finish": (sync_finished, is_synced),
    "sql.load": (loaded, is_loaded),
    "sql.transaction": (transacted, is_loaded),
    "sql.sync": (tables_synced, is_loaded),
    "data.write_csv": (written, is_written),
    "data.write_parquet": (written_as_parquet, is_parquet),
    "data.read_json": (read_json, is_read),
    "email.send": (mailed, is_mailed),
    "email.send_batch": (batch_mailed, is_mailed),
}


def at_any_call(
    make: Callable[[str], Any],
    run: Callable[[Any, dict[str, Any]], Any],
    check: Callable[[Any, bool], None],
    *,
    may_stop: bool,
) -> None:
    """Fail each call of the store once, try again with one that works, and look.

    :param make: a fresh scene, by a name; it has a ``folder``, in which ``state`` is the store's.
    :param may_stop: nobody may be able to tell what became of it: then ``OutcomeUnknown`` is an end, too.
    """
    clean = make("clean")
    points = trace(run, clean, {})
    check(clean, True)
    calls = FileStateStore(clean.folder / "state").calls
    assert calls["set"], "it remembers nothing"
    middle = kill_at(points[len(points) // 2], points[: len(points) // 2 + 1].count(points[len(points) // 2]))
    for method, applied, killed in (
        ("get", False, False),
        ("set", False, False),
        ("set", True, False),
        ("get", False, True),  # what a killed attempt has left is not taken for absent
    ):
        for number in sorted({1, *range(2, calls[method], STEP), calls[method]}):
            made = make(f"{method}-{number}-{applied}-{killed}")
            if killed:
                assert attempt(run, made, {}, rules=[middle]).killed
            outcome = attempt(run, made, {"fail": {method: {number}}, "apply_failed": applied}, try_number=2)
            if not outcome.ok:
                assert isinstance(getattr(errors, outcome.error_type or "", None), type), outcome.error
                outcome = attempt(run, made, {}, try_number=3)
                assert outcome.ok or (may_stop and outcome.error_type == "OutcomeUnknown"), outcome.error
            check(made, outcome.ok)


@pytest.mark.parametrize("action", ACTIONS)
def test_at_any_call(action: str, tmp_path: Path, smtp_sink: SmtpSink) -> None:
    connect(smtp_sink)

    def scene(name: str) -> Scene:
        made = Scene(action, tmp_path / name, smtp_sink.directory, len(list(smtp_sink.directory.glob("*.eml"))))
        (made.folder / "in").mkdir(parents=True)
        (made.folder / "in" / "a").write_bytes(b"alpha" * 1000)
        (made.folder / "in" / "b").write_bytes(b"beta")
        if action.startswith("files.sync"):
            (made.folder / "out").mkdir()
            (made.folder / "out" / "gone").write_bytes(b"old")
        (made.folder / "rows.csv").write_text("id\n" + "".join(f"{number}\n" for number in range(50)))
        for database, rows in (("rows.db", 0), ("source.db", 50)):
            with sqlite3.connect(made.folder / database) as connection:
                connection.execute("CREATE TABLE orders (id INTEGER)")
                connection.executemany("INSERT INTO orders VALUES (?)", [(number,) for number in range(rows)])
        return made

    at_any_call(scene, run, ACTIONS[action][1], may_stop=action.startswith("email."))
