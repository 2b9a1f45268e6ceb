"""Map the errors of SSH and SFTP to the classes of :mod:`flowrunner_provider.core.errors`."""

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

__all__ = ["classify", "ssh_errors"]

_BY_CODE: dict[int, tuple[type[FlowRunnerError], str, str]] = {
    2: (NotFound, "does not exist", "check the path"),
    3: (AccessDenied, "is not permitted", "ask the owner of the server for the permission"),
    10: (NotFound, "does not exist", "check the path"),
    11: (AlreadyExists, "already exists", "choose another name, or set if_exists='overwrite'"),
    12: (AccessDenied, "is write-protected", "ask the owner of the server for write access"),
    14: (PermanentError, "failed: the disk of the server is full", "free some space there, then retry"),
    15: (PermanentError, "failed: the quota on the server is exhausted", "free some space there, then retry"),
    17: (Unavailable, "is locked", "retry when the other program has released the file"),
    19: (PermanentError, "failed: it is not a folder", "check the path"),
    24: (PermanentError, "failed: it is a folder", "check the path"),
}
"""SFTP status (draft-ietf-secsh-filexfer-13, section 9.1) -> error class, text, remedy."""


def _ssh() -> Any:
    return load("asyncssh", extra="sftp", needed_for="SFTP")


class ssh_errors:  # noqa: N801 - used like a function
    """A context manager that converts the exceptions of SSH and SFTP.

    :param what: the operation and its object; the message begins with it.
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
            raise classify(error, self._what) from error


def classify(error: BaseException, what: str) -> FlowRunnerError:
    """Return the error for an exception that interrupted the operation ``what``."""
    if isinstance(error, TimeoutError):
        return TimedOut(f"{what}: the server did not answer in time", remedy="retry; the transfer resumes")
    if isinstance(error, StatusError):
        return _status_error(error, what)
    if isinstance(error, Violation):
        return Unavailable(
            f"{what}: the server violated the SFTP protocol ({error})",
            remedy="retry; if it happens again, check whether the login script prints output",
        )
    if isinstance(error, _ssh().ChannelOpenError):
        return Unavailable(f"{what}: the server refused another session", remedy="lower the concurrency, or retry")
    return ConnectionLost(f"{what}: the connection was lost ({error})", remedy="retry; the transfer resumes")


def _status_error(error: StatusError, what: str) -> FlowRunnerError:
    if mapped := _BY_CODE.get(error.code):
        cls, text, remedy = mapped
        return cls(f"{what} {text}", remedy=remedy)
    reason = re.sub(r"\s+", " ", error.reason).strip() or "no reason given"
    return Rejected(
        f"{what}: the server refused ({reason})",
        status=error.code,
        code="SSH_FX_FAILURE" if error.code == 4 else "",
        remedy="see the log of the server; the SFTP protocol carries no further detail",
    )
