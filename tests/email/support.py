"""Shared by the tests of email: a connection to the sink, a scene for the kill harness."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.context import FileStateStore, execute, make_context
from tests.support.smtp_sink import SmtpSink

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
            "port": sink.port,
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
