"""Shared by the tests of email: a connection to the sink, a scene for the kill harness."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.context import FileStateStore, execute, make_context
from tests.support.smtp_sink import Mail, SmtpSink

PASSWORD = "canary-Pa55word-7f3e"
MAIL: dict[str, Any] = {
    "to": ["a@example.com", "b@example.com"],
    "subject": "Orders",
    "html": "<p>Good morning</p>",
}


def connect(sink: SmtpSink, *, login: str = "", password: str = "", **extra: Any) -> None:
    """Define the connection ``smtp_default`` for this process and its children."""
    plain = {"disable_ssl": True, "disable_tls": True, "from_email": "Robot <robot@example.com>"}
    os.environ["AIRFLOW_CONN_SMTP_DEFAULT"] = json.dumps(
        {
            "conn_type": "smtp",
            "host": extra.pop("host", sink.host),
            "port": extra.pop("port", sink.port),
            "login": login,
            "password": password,
            "extra": {**plain, **extra},
        }
    )


@dataclass(frozen=True)
class Scene:
    """One task instance and the mailbox that it sends to."""

    directory: Path
    mailbox: Path
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> FileStateStore:
        return FileStateStore(self.directory / "state")

    def mails(self) -> list[Path]:
        """The mails that carry this scene's topic."""
        return [p for p in sorted(self.mailbox.glob("*.eml")) if f"X-Scene: {self.directory.name}\r\n".encode()
                in p.read_bytes()]  # fmt: skip


def send(scene: Scene, **more: Any) -> Any:
    """One attempt of ``email.send``."""
    from flowrunner_provider.email.operators import EmailSendOperator

    headers = {"X-Scene": scene.directory.name}
    arguments = {"task_id": "task", "timeout": "20s", "headers": headers, **MAIL, **scene.arguments, **more}
    return execute(EmailSendOperator(**arguments), make_context(state=scene.state))


def people(count: int) -> list[dict[str, Any]]:
    """Rows for a batch."""
    return [{"id": n, "email": f"u{n}@example.com", "name": f"Nö <b> {n}"} for n in range(count)]


@dataclass(frozen=True)
class BatchScene:
    """One batch and the mailbox that it sends to."""

    directory: Path
    mailbox: Path
    rows: list[dict[str, Any]]
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> FileStateStore:
        return FileStateStore(self.directory / "state")

    @property
    def journals(self) -> Path:
        return self.directory / "airflow" / "flowrunner" / "email"

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / name).read_text().splitlines()]

    def mails(self) -> list[Mail]:
        """The mails of this scene, read back by the standard library's parser."""
        return [
            Mail("", (), path.read_bytes())
            for path in sorted(self.mailbox.glob("*.eml"))
            if f"X-Scene: {self.directory.name}\r\n".encode() in path.read_bytes()
        ]


def report(scene: BatchScene) -> list[dict[str, Any]]:
    """The lines of the batch's report."""
    return scene.lines("report.jsonl")


def send_batch(scene: BatchScene, *, retry_plan: bool = False, **more: Any) -> Any:
    """One attempt of ``email.send_batch``; ``retry_plan`` makes the waits in place short."""
    from flowrunner_provider.core import retry
    from flowrunner_provider.email.operators import EmailBatchOperator

    os.environ["AIRFLOW_HOME"] = str(scene.directory / "airflow")
    arguments: dict[str, Any] = {
        "task_id": "task",
        "timeout": "30s",
        "recipients": scene.rows,
        "subject": "Hello {{ name }}",
        "text": "Dear {{ name }}, you are number {{ id }}.\n",
        "report": str(scene.directory / "report.jsonl"),
        "dead_letter": str(scene.directory / "dead.jsonl"),
        **scene.arguments,
        **more,
    }
    arguments["headers"] = {"X-Scene": scene.directory.name, **(arguments.get("headers") or {})}
    longest = retry.Backoff.ceiling
    if retry_plan:
        retry.Backoff.ceiling = lambda self, attempt: 0.01  # type: ignore[method-assign]
    try:
        return execute(EmailBatchOperator(**arguments), make_context(state=scene.state))
    finally:
        retry.Backoff.ceiling = longest  # type: ignore[method-assign]
