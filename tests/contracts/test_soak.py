"""The same work again and again in one process: nothing is left behind that grows with the number of rounds.

``FLOWRUNNER_SOAK`` is the number of rounds. Every seventh round meets a far side that fails.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.email.support import connect
from tests.files.far import connection_of
from tests.support.context import execute, make_context
from tests.support.http_server import Blob, HttpServer
from tests.support.kill import attempt
from tests.support.smtp_sink import SmtpSink

pytestmark = [pytest.mark.faults, pytest.mark.backend, pytest.mark.timeout(86_400)]

ROUNDS = int(os.environ.get("FLOWRUNNER_SOAK", "140"))
PER_ROUND = {"blocks": 5, "allocated": 1_024}
"""What may be left of a round by chance; one answer, one connection or one task's context is more. Of anything else
nothing may be left."""


class _Allocated(ctypes.Structure):
    """What glibc's ``mallinfo2`` tells; resident memory also moves with the allocator's arenas and tells less."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


@dataclass(frozen=True)
class Scene:
    folder: Path
    sftp: str
    partner: str


@dataclass(frozen=True)
class Held:
    """What the process holds after a round.

    :param blocks: small objects, in number.
    :param allocated: everything else, in bytes.
    """

    blocks: int
    allocated: int
    descriptors: int
    threads: int
    tasks: int
    loops: int
    temporary: int
    secrets: int

    @classmethod
    def now(cls, temporary: Path) -> Held:
        from flowrunner_provider.runtime import masking

        gc.collect()
        alive = gc.get_objects()
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _Allocated
        memory = libc.mallinfo2()
        return cls(
            blocks=sys.getallocatedblocks(),
            allocated=memory.uordblks + memory.hblkhd,
            descriptors=len(os.listdir("/proc/self/fd")),
            threads=threading.active_count(),
            tasks=sum(isinstance(each, asyncio.Task) for each in alive),
            loops=sum(isinstance(each, asyncio.AbstractEventLoop) for each in alive),
            temporary=sum(1 for _ in temporary.rglob("*")),
            secrets=sum(len(group.values) for group in masking._redactor._groups),
        )


def actions(scene: Scene, fails: bool) -> list[Any]:
    """One operator of each kind; ``fails`` gives each a far side that refuses it."""
    from flowrunner_provider.database.operators import SqlLoadOperator
    from flowrunner_provider.email.operators import EmailSendOperator
    from flowrunner_provider.files.operators import FileCopyOperator
    from flowrunner_provider.http.operators import HttpDownloadOperator, HttpRequestOperator

    away = "-away" if fails else ""
    http = "nobody" if fails else "http_default"
    return [
        FileCopyOperator(task_id="copy", source=f"{scene.folder}/in{away}/*", dest=f"sftp://partner@{scene.sftp}/"),
        FileCopyOperator(task_id="back", source=f"sftp://partner@{scene.sftp}{away}/*", dest=f"{scene.folder}/back/"),
        HttpRequestOperator(task_id="request", http_conn_id=http, endpoint="/blob"),
        HttpDownloadOperator(task_id="get", http_conn_id=http, endpoint="/blob", save_to=f"{scene.folder}/blob"),
        SqlLoadOperator(
            task_id="load", conn_id="rows", source=f"{scene.folder}/rows.csv", table=f"orders{away and '_away'}"
        ),
        EmailSendOperator(task_id="send", to=f"a@{'b c' if fails else 'example.com'}", subject="s", text="t"),
    ]


def soak(scene: Scene, rounds: int) -> list[dict[str, int]]:
    """What is held after half of the rounds, and at the end."""
    from flowrunner_provider.core.errors import FlowRunnerError
    from flowrunner_provider.core.retry import Backoff

    Backoff.ceiling = lambda self, attempt: 0.001  # type: ignore[method-assign]
    os.environ["AIRFLOW_CONN_PARTNER"] = scene.partner
    temporary = scene.folder / "tmp"
    tempfile.tempdir = str(temporary)
    held = []
    for number in range(rounds):
        fails = number % 7 == 6
        for operator in actions(scene, fails):
            try:
                state = scene.folder / "state" / operator.task_id
                execute(operator, make_context(operator, state=state, run_id=f"run-{number}"))
            except FlowRunnerError:
                assert fails, number
            else:
                assert not fails, operator.task_id
        shutil.rmtree(scene.folder / "state")  # what a run has remembered belongs to Airflow
        if number % 10 == 0:
            gc.collect()  # a task has a process of its own, and what goes in cycles has not the time to pile up
        if number in (rounds // 2, rounds - 1):
            held.append(asdict(Held.now(temporary)))
    return held


def test_nothing_grows(
    tmp_path: Path, sshd: Any, http_server: HttpServer, smtp_sink: SmtpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in", "back", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "a.csv").write_bytes(b"alpha" * 10_000)
    (tmp_path / "rows.csv").write_text("id\n1\n2\n")
    with sqlite3.connect(tmp_path / "rows.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER)")
    http_server.route("GET", "/blob", Blob(bytes(100_000)))
    connect(smtp_sink)
    secret = {"password": "canary-soak-4711"}
    http = {"conn_type": "http", "host": http_server.url, "extra": {"X-Api-Key": "canary-soak-0815"}, **secret}
    for conn_id, value in (
        ("HTTP_DEFAULT", http),
        ("NOBODY", {**http, "host": "http://127.0.0.1:1"}),
        ("ROWS", {"conn_type": "sqlite", "host": str(tmp_path / "rows.db")}),
    ):
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id}", json.dumps(value))
    scene = Scene(tmp_path, str(sshd.root()), connection_of(sshd))
    outcome = attempt(soak, scene, ROUNDS, timeout=max(300, ROUNDS))
    assert outcome.ok, f"{outcome.error}\n{outcome.output[-3000:]}"
    early, late = outcome.result
    rounds = ROUNDS - ROUNDS // 2
    grown = {
        name: f"{was} -> {late[name]}"
        for name, was in early.items()
        if late[name] - was > PER_ROUND.get(name, 0) * rounds
    }
    assert grown == {}
    assert len(list(smtp_sink.directory.glob("*.eml"))) == ROUNDS - ROUNDS // 7
    with sqlite3.connect(tmp_path / "rows.db") as database:
        assert database.execute("SELECT count(*) FROM orders").fetchone() == (2 * (ROUNDS - ROUNDS // 7),)
