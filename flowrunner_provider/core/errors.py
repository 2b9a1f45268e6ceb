"""All errors of the package, named after what the caller should do about them.

::

    FlowRunnerError
     |- ConfigError            correct the DAG or the connection; never retried
     |   |- MissingExtra       install the extra it names
     |   '- MissingCredential  complete the connection it names
     |- PermanentError         a retry cannot help
     |   |- NotFound  AlreadyExists  AccessDenied  Rejected  IntegrityError  Fenced
     |   '- SecurityError      HostKeyMismatch  PathEscape  TargetForbidden  BadSignature  BombDetected
     |- TransientError         a retry may help, not before ``retry_after`` seconds
     |   '- Throttled  Unavailable  ConnectionLost  TimedOut  CredentialExpired
     |- OutcomeUnknown         may or may not have happened: reconcile before acting again
     '- PartialFailure         a batch with a reason per failed item; the retry repeats only ``failed``

An error crosses a process boundary (trigger event, state record) as the JSON object of
:meth:`FlowRunnerError.to_event`; :func:`from_event` rebuilds the same class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "BadSignature",
    "BombDetected",
    "ConfigError",
    "ConnectionLost",
    "CredentialExpired",
    "Fenced",
    "FlowRunnerError",
    "HostKeyMismatch",
    "IntegrityError",
    "Json",
    "MissingCredential",
    "MissingExtra",
    "NotFound",
    "OutcomeUnknown",
    "PartialFailure",
    "PathEscape",
    "PermanentError",
    "Rejected",
    "SecurityError",
    "TargetForbidden",
    "Throttled",
    "TimedOut",
    "TransientError",
    "Unavailable",
    "from_event",
]


class FlowRunnerError(Exception):
    """Base class of all errors that the package raises.

    :param message: what failed and on what, already redacted.
    :param remedy: what to do next, in the imperative.
    """

    _details: ClassVar[tuple[str, ...]] = ()

    status: int = 0
    """The far side's numeric status; 0 if it has none."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} -> {self.remedy}" if self.remedy else self.message

    def to_event(self) -> dict[str, Json]:
        """Return the error as a small JSON object, for a trigger event or a state record."""
        details: dict[str, Json] = {name: getattr(self, name) for name in self._details}
        return {"error_type": type(self).__name__, "message": self.message, "remedy": self.remedy, **details}

    @classmethod
    def _rebuild(cls, message: str, remedy: str, details: dict[str, Any]) -> FlowRunnerError:
        return cls(message, remedy=remedy, **details)


class ConfigError(FlowRunnerError):
    """The DAG or the connection is wrong; ``field`` names the parameter or connection field to correct."""

    _details: ClassVar[tuple[str, ...]] = ("field",)

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.field = field


class MissingExtra(ConfigError):
    """A package of an optional extra is not installed."""

    _details = ("extra", "needed_for")

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs a package that is not installed",
            field=extra,
            remedy=f"pip install 'airflow-provider-flowrunner[{extra}]'",
        )
        self.extra = extra
        self.needed_for = needed_for

    @classmethod
    def _rebuild(cls, message: str, remedy: str, details: dict[str, Any]) -> FlowRunnerError:
        return cls(**details)


class MissingCredential(ConfigError):
    """The connection lacks the login, password, key or token that the server requires."""


class PermanentError(FlowRunnerError):
    """A retry cannot help."""


class NotFound(PermanentError):
    """The requested object does not exist; never raised for a failed look-up."""


class AlreadyExists(PermanentError):
    """The target exists and must not be replaced."""


class AccessDenied(PermanentError):
    """The credentials are valid but not sufficient, or were refused."""


class Rejected(PermanentError):
    """The far side understood the request and refused it.

    :param status: its numeric status, e.g. an HTTP or SMTP reply code; 0 if it has none.
    :param code: its own error code, e.g. an SQLSTATE; empty if it has none.
    """

    _details = ("status", "code")

    def __init__(self, message: str, *, status: int = 0, code: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.code = code


class IntegrityError(PermanentError):
    """Bytes or counts do not match: short body, wrong checksum, changed source."""


class Fenced(PermanentError):
    """Another attempt of the same task has taken over; this one must not act any more."""


class SecurityError(PermanentError):
    """Refused for security reasons."""


class HostKeyMismatch(SecurityError):
    """The server's host key differs from the known one."""


class PathEscape(SecurityError):
    """A name would lead outside its folder."""


class TargetForbidden(SecurityError):
    """The connection may not access this address."""


class BadSignature(SecurityError):
    """A signature is missing or invalid."""


class BombDetected(SecurityError):
    """Data exceeds its size limit while it is decompressed."""


class TransientError(FlowRunnerError):
    """A retry may help; the failed operation is known not to have happened.

    :param retry_after: seconds to wait before the retry; None if unknown.
    """

    _details = ("retry_after",)

    def __init__(self, message: str, *, retry_after: float | None = None, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after = retry_after


class Throttled(TransientError):
    """The far side, or our own rate limit, asks for a slower pace."""


class Unavailable(TransientError):
    """The far side cannot serve the request at the moment."""


class ConnectionLost(TransientError):
    """The connection could not be established, or broke."""


class TimedOut(TransientError):
    """A deadline passed."""


class CredentialExpired(TransientError):
    """A token has expired; the retry fetches a new one."""


class OutcomeUnknown(FlowRunnerError):
    """The effect may or may not have happened: reconcile before acting again.

    :param effect_key: the key under which the far side may know the effect.
    :param reconcilable: False if another attempt could not find out either.
    """

    _details = ("effect_key", "reconcilable")

    def __init__(self, message: str, *, effect_key: str = "", reconcilable: bool = True, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.effect_key = effect_key
        self.reconcilable = reconcilable


class PartialFailure(FlowRunnerError):
    """Some items of a batch failed; a retry repeats only those.

    :param done: number of successful items.
    :param failed: maps item to reason.
    :param retryable: False if all failures are permanent.
    """

    _details = ("done", "failed", "retryable")

    def __init__(
        self, message: str, *, done: int, failed: Mapping[str, str], retryable: bool = True, remedy: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.done = done
        self.failed = dict(failed)
        self.retryable = retryable


def _tree(root: type[FlowRunnerError]) -> dict[str, type[FlowRunnerError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def from_event(event: Mapping[str, Any]) -> FlowRunnerError:
    """Rebuild the error from :meth:`FlowRunnerError.to_event`.

    An unknown ``error_type`` (an event of a newer version) becomes a plain :class:`FlowRunnerError`.
    """
    cls = _tree(FlowRunnerError).get(str(event.get("error_type")), FlowRunnerError)
    details = {name: event[name] for name in cls._details if name in event}
    return cls._rebuild(str(event.get("message", "")), str(event.get("remedy", "")), details)
