"""What the errors of an fsspec filesystem mean, whatever library it stands on."""

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
    """Types what a filesystem's own library raises, by what lies at its root: a system error or an HTTP status.

    An error that tells neither, a bug among them, passes as it is.

    :param what: what is being done, on what; for messages.
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
        return NotFound(f"{what} is not there", remedy="check the path")
    if isinstance(error, PermissionError) or status in (401, 403):
        return AccessDenied(f"{what}: access is denied", remedy="check the connection's credentials and their rights")
    if isinstance(error, FileExistsError):
        return AlreadyExists(f"{what}: it is there already", remedy="choose another name")
    if isinstance(error, TimeoutError):
        return TimedOut(f"{what}: the far side is silent")
    if isinstance(error, ConnectionError):
        return ConnectionLost(f"{what}: the connection was lost ({type(error).__name__})")
    if status == 429:
        return Throttled(f"{what}: asked to slow down")
    if isinstance(status, int) and status >= 500:
        return Unavailable(f"{what}: the far side answers {status}")
    if isinstance(status, int) and status >= 400:
        return Rejected(f"{what}: refused with {status}", status=status, remedy="check the path")
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return PermanentError(f"{what}: {reason}", remedy="look at the far side")
    if isinstance(error, NotImplementedError):
        return PermanentError(f"{what}: this filesystem cannot do that", remedy="use another store")
    return None
