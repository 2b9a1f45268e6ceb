"""What goes wrong with SSH and SFTP, as the errors that say what to do."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConnectionLost,
    FlowRunnerError,
    NotFound,
    PermanentError,
    Rejected,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.core.extras import load
from flowrunner_provider.transport.sftp_wire import StatusError, Violation

__all__ = ["classified", "ssh_errors"]

_BY_CODE: dict[int, tuple[type[FlowRunnerError], str, str]] = {
    2: (NotFound, "is not there", "check the path"),
    3: (AccessDenied, "is not allowed", "ask the owner of the server for the permission"),
    10: (NotFound, "is not there", "check the path"),
    11: (AlreadyExists, "is there already", "choose another name, or if_exists='overwrite'"),
    12: (AccessDenied, "is write-protected", "ask the owner of the server"),
    14: (PermanentError, "failed: the disk of the server is full", "free some space there, then retry"),
    15: (PermanentError, "failed: the quota on the server is used up", "free some space there, then retry"),
    17: (Unavailable, "is locked", "wait for the other program"),
    19: (PermanentError, "failed: it is not a folder", "check the path"),
    24: (PermanentError, "failed: it is a folder", "check the path"),
}
"""SFTP status (draft-ietf-secsh-filexfer-13, section 9.1) -> error, text, remedy."""


def _ssh() -> Any:
    return load("asyncssh", extra="sftp", needed_for="SFTP")


class ssh_errors:  # noqa: N801 - reads as what it does
    """Turn what SSH and SFTP raise into the error that says what to do.

    :param what: what was being done, on what; the message begins with it.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and isinstance(error, (StatusError, Violation, OSError, _ssh().Error)):
            raise classified(error, self._what) from error


def classified(error: BaseException, what: str) -> FlowRunnerError:
    """The error for what was raised while ``what`` was being done."""
    if isinstance(error, TimeoutError):
        return TimedOut(f"{what}: the server was silent for too long", remedy="retry; it goes on where it was")
    if isinstance(error, StatusError):
        return _refused(error, what)
    if isinstance(error, Violation):
        return Unavailable(
            f"{what}: the server does not keep to the SFTP protocol ({error})",
            remedy="retry; if it comes again, look whether its login prints something before SFTP begins",
        )
    if isinstance(error, _ssh().ChannelOpenError):
        return Unavailable(f"{what}: the server opens no more sessions", remedy="lower the concurrency, or retry")
    return ConnectionLost(f"{what}: the connection broke ({error})", remedy="retry; it goes on where it was")


def _refused(error: StatusError, what: str) -> FlowRunnerError:
    if known := _BY_CODE.get(error.code):
        cls, text, remedy = known
        return cls(f"{what} {text}", remedy=remedy)
    reason = re.sub(r"\s+", " ", error.reason).strip() or "no reason given"
    return Rejected(
        f"{what}: the server refused ({reason})",
        status=error.code,
        code="SSH_FX_FAILURE" if error.code == 4 else "",
        remedy="the SFTP protocol says no more; the server's log does",
    )
