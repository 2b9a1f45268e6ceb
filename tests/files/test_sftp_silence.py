"""One request that a server leaves without an answer: the session ends, and the retry goes on with all files."""

from __future__ import annotations

import os
from typing import Any

import pytest

from flowrunner_provider.core.errors import TimedOut
from flowrunner_provider.files.operators import FileCopyOperator, FileSyncOperator
from flowrunner_provider.transport.sftp_session import SftpSession
from flowrunner_provider.transport.sftp_wire import Kind
from tests.files.far import connection_of
from tests.files.stage import Stage, stage

pytestmark = pytest.mark.backend

COUNT = 40


def leave_unanswered(monkeypatch: pytest.MonkeyPatch, kind: int, nth: int) -> list[SftpSession]:
    """The answer to the ``nth`` request of this kind never comes, once; returns the sessions that there were."""
    sessions: list[SftpSession] = []
    lost: set[int] = set()
    request, answer = SftpSession._enqueue, SftpSession._answer
    left = nth

    def count(self: SftpSession, asked: int, *more: Any, **named: Any) -> None:
        nonlocal left
        if self not in sessions:
            sessions.append(self)
        request(self, asked, *more, **named)
        if asked == kind:
            left -= 1
            if left == 0:
                lost.add(self._last_number)

    def drop(self: SftpSession, type_: int, number: int, body: bytes) -> None:
        if sessions[1:] or number not in lost:
            answer(self, type_, number, body)

    monkeypatch.setattr(SftpSession, "_enqueue", count)
    monkeypatch.setattr(SftpSession, "_answer", drop)
    return sessions


def run(place: Stage, operator: type[Any], one: Stage, two: Stage, **options: Any) -> Any:
    more = {"recursive": True, "on_item_error": "continue"} if operator is FileCopyOperator else {}
    return place.run(operator(task_id="t", source=one.uri("d"), dest=two.uri("e/"), **more, **options), fresh=False)


@pytest.mark.parametrize(
    ("operator", "way", "what"),
    [
        (FileCopyOperator, "up", "OPEN"),
        (FileCopyOperator, "up", "WRITE"),
        (FileCopyOperator, "up", "EXTENDED"),
        (FileCopyOperator, "down", "READ"),
        (FileSyncOperator, "up", "CLOSE"),
        (FileSyncOperator, "down", "OPEN"),
    ],
)
def test_the_others_are_copied_by_the_retry(tmp_path, sshd, monkeypatch, operator, way, what):
    here, there = stage("local", tmp_path / "here", sshd), stage("sftp", tmp_path / "there", sshd)
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", connection_of(sshd, flowrunner={"timeout": 0.4}))
    one, two = (here, there) if way == "up" else (there, here)
    one.put(*(f"d/{number}" for number in range(COUNT)))
    one.disk.put("d/large", large := os.urandom(2_000_000))
    sessions = leave_unanswered(monkeypatch, getattr(Kind, what), 20)
    with pytest.raises(TimedOut, match="did not answer in time") as caught:
        run(there, operator, one, two)
    assert "partner@" in str(caught.value)
    result = run(there, operator, one, two)
    assert len(sessions) == 2
    assert result.get("files", result.get("listed")) == COUNT + 1
    assert two.disk.names() == sorted(f"e/{name}" for name in [*range(COUNT), "large"])
    assert two.disk.get("e/large") == large
