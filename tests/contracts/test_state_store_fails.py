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
from tests.support.kill import attempt
from tests.support.smtp_sink import SmtpSink

pytestmark = pytest.mark.faults
STEP = 1 if int(os.environ.get("FLOWRUNNER_KILLS", "3")) > 3 else 4
"""Nightly every call, otherwise every fourth, the first and the last."""


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
    os.environ["AIRFLOW_CONN_ROWS"] = json.dumps({"conn_type": "sqlite", "host": str(scene.folder / "rows.db")})
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


def names(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def is_copied(scene: Scene, finished: bool) -> None:
    assert finished
    assert names(scene.folder / "out") == {"a": b"alpha" * 1000, "b": b"beta"}
    assert names(scene.folder / "in") == {}


def is_appended(scene: Scene, finished: bool) -> None:
    assert finished
    assert names(scene.folder / "in")["a"] == b"alpha" * 1000 + b"more"


def is_loaded(scene: Scene, finished: bool) -> None:
    assert finished
    with sqlite3.connect(scene.folder / "rows.db") as database:
        assert sorted(database.execute("SELECT id FROM orders")) == [(number,) for number in range(50)]


def is_written(scene: Scene, finished: bool) -> None:
    assert finished
    assert (scene.folder / "copy.csv").read_text().split() == (scene.folder / "rows.csv").read_text().split()


def is_mailed(scene: Scene, finished: bool) -> None:
    sent = scene.mailed()
    assert len(sent) == len(set(sent)), "nobody has it twice"
    assert len(sent) == (1 if scene.action == "email.send" else 7) or not finished, "a success, and somebody has none"


ACTIONS: dict[str, tuple[Callable[[Scene], Any], Callable[[Scene, bool], None]]] = {
    "files.copy": (copied, is_copied),
    "files.write": (appended, is_appended),
    "sql.load": (loaded, is_loaded),
    "data.write_csv": (written, is_written),
    "email.send": (mailed, is_mailed),
    "email.send_batch": (batch_mailed, is_mailed),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_at_any_call(action: str, tmp_path: Path, smtp_sink: SmtpSink) -> None:
    connect(smtp_sink)

    def scene(name: str) -> Scene:
        made = Scene(action, tmp_path / name, smtp_sink.directory, len(list(smtp_sink.directory.glob("*.eml"))))
        (made.folder / "in").mkdir(parents=True)
        (made.folder / "in" / "a").write_bytes(b"alpha" * 1000)
        (made.folder / "in" / "b").write_bytes(b"beta")
        (made.folder / "rows.csv").write_text("id\n" + "".join(f"{number}\n" for number in range(50)))
        with sqlite3.connect(made.folder / "rows.db") as database:
            database.execute("CREATE TABLE orders (id INTEGER)")
        return made

    check = ACTIONS[action][1]
    clean = scene("clean")
    assert attempt(run, clean, {}).ok
    check(clean, True)
    calls = FileStateStore(clean.folder / "state").calls
    assert calls["set"], "it remembers nothing"
    for method, applied in (("get", False), ("set", False), ("set", True)):
        for number in sorted({1, *range(2, calls[method], STEP), calls[method]}):
            made = scene(f"{method}-{number}-{applied}")
            outcome = attempt(run, made, {"fail": {method: {number}}, "apply_failed": applied})
            if not outcome.ok:
                assert isinstance(getattr(errors, outcome.error_type or "", None), type), outcome.error
                outcome = attempt(run, made, {}, try_number=2)
                assert outcome.ok or (action.startswith("email.") and outcome.error_type == "OutcomeUnknown")
            check(made, outcome.ok)
