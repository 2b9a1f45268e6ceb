"""Translation of the errors that fsspec filesystems raise, whatever library they are built on."""

from __future__ import annotations

from types import TracebackType

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConnectionLost,
    FlowRunnerError,
    NotFound,
    PermanentError,
    Rejected,
    Throttled,
    TimedOut,
    Unavailable,
)

__all__ = ["FilesystemErrors"]

_DEEPEST = 10


class FilesystemErrors:
    """Translates an error by its root cause: an operating system error or an HTTP status.

    Other errors, such as bugs, pass unchanged.

    :param what: the operation and its path, for messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cause, seen = error, 0
        while cause is not None and not isinstance(error, FlowRunnerError) and seen < _DEEPEST:
            if (typed := _typed(self._what, cause)) is not None:
                raise typed from error
            cause, seen = cause.__cause__ or cause.__context__, seen + 1


def _typed(what: str, error: BaseException) -> FlowRunnerError | None:
    status = getattr(error, "status_code", None) or getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status == 404:
        return NotFound(f"{what}: does not exist", remedy="check the path")
    if isinstance(error, PermissionError) or status in (401, 403):
        return AccessDenied(f"{what}: access is denied", remedy="check the connection's credentials and their rights")
    if isinstance(error, FileExistsError):
        return AlreadyExists(f"{what}: already exists", remedy="choose another name")
    if isinstance(error, TimeoutError):
        return TimedOut(f"{what}: the server did not answer in time")
    if isinstance(error, ConnectionError):
        return ConnectionLost(f"{what}: the connection was lost ({type(error).__name__})")
    if status == 429:
        return Throttled(f"{what}: the server throttles requests")
    if isinstance(status, int) and status >= 500:
        return Unavailable(f"{what}: the server answered {status}")
    if isinstance(status, int) and status >= 400:
        return Rejected(f"{what}: refused with {status}", status=status, remedy="check the path")
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return PermanentError(f"{what}: {reason}", remedy="check the file system of the server")
    if isinstance(error, NotImplementedError):
        return PermanentError(f"{what}: this file system does not support the operation", remedy="use another store")
    return None
