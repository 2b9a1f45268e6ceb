"""Shared by the tests of mailboxes: messages, and scenes for the kill harness."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from flowrunner_provider.email.operators import MailOrganizeOperator, MailReadOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.dovecot import Mailbox

Attached = tuple[str, bytes]


def mail(
    name: str, *attachments: Attached, subject: str = "", sender: str = "Billing <billing@example.com>", **headers: str
) -> EmailMessage:
    """A message whose Message-ID is ``<name@test>``."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, "team@example.com", subject or f"About {name}"
    message["Message-ID"] = f"<{name}@test>"
    message["Date"] = "Mon, 05 Jan 2026 10:00:00 +0100"
    for header, value in headers.items():
        message[header.replace("_", "-")] = value
    message.set_content(f"Text of {name}\n")
    for file, data in attachments:
        message.add_attachment(data, maintype="application", subtype="pdf", filename=file)
    return message


def run(operator: Any, state: Path | None = None) -> Any:
    """One attempt; without ``state`` of a task of its own."""
    context = make_context(operator, state=state) if state else make_context(operator, state=FileStateStore(_fresh()))
    return execute(operator, context)


def _fresh() -> Path:
    import tempfile

    return Path(tempfile.mkdtemp(prefix="flowrunner-state-"))


def reading(**arguments: Any) -> MailReadOperator:
    return MailReadOperator(task_id=f"t{uuid.uuid4().hex[:8]}", **{"imap_conn_id": "mailbox", **arguments})


def organizing(**arguments: Any) -> MailOrganizeOperator:
    return MailOrganizeOperator(task_id=f"t{uuid.uuid4().hex[:8]}", **{"imap_conn_id": "mailbox", **arguments})


@dataclass(frozen=True)
class Scene:
    """One task instance and its mailbox."""

    directory: Path
    box: Mailbox
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> FileStateStore:
        return FileStateStore(self.directory / "state")

    @property
    def files(self) -> Path:
        return self.directory / "files"


def read(scene: Scene, **more: Any) -> Any:
    """One attempt of ``email.read``."""
    scene.box.connection()
    arguments = {"task_id": "task", "imap_conn_id": "mailbox", "timeout": "30s", **scene.arguments, **more}
    return execute(MailReadOperator(**arguments), make_context(state=scene.state))


def organize(scene: Scene, **more: Any) -> Any:
    """One attempt of ``email.organize``."""
    scene.box.connection()
    arguments = {"task_id": "task", "imap_conn_id": "mailbox", "timeout": "30s", **scene.arguments, **more}
    return execute(MailOrganizeOperator(**arguments), make_context(state=scene.state))
