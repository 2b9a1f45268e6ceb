"""What an object store's refusal means: the errors of the obstore library, and the statuses behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConnectionLost,
    CredentialExpired,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    PermanentError,
    Rejected,
    Throttled,
    TimedOut,
    Unavailable,
)

__all__ = ["code_in", "obstore_errors", "refusal", "status_of"]

# obstore has one class for all that is not one of its few named errors; its text is the only place with the status.
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_REQUEST = re.compile(r"[A-Za-z0-9+/=_.-]{1,100}")

_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_SLOW = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServerBusy"})
_LATER = frozenset({"RequestTimeout", "InternalError", "OperationAborted", "ConditionalRequestConflict"})
_DAMAGED = frozenset({"BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_ABSENT = frozenset({"NoSuchKey", "NotFound", "BlobNotFound"})


def refusal(
    what: str, status: int, code: str = "", *, retry_after: float | None = None, request: str = ""
) -> FlowRunnerError:
    """The error for an answer that is no success.

    :param what: what was being done, on what.
    :param status: the HTTP status; 0 when there was no answer.
    :param code: the far side's own code, e.g. ``SlowDown``.
    :param request: what the far side calls the request; its support will ask for it.
    """
    said = f"{what}: the store answered {status}{f' {code}' if code else ''}"
    if _REQUEST.fullmatch(request):
        said += f" (request {request})"
    if code in _EXPIRED:
        return CredentialExpired(said, remedy="nothing to do: the retry takes fresh credentials")
    if status == 429 or code in _SLOW:
        return Throttled(said, retry_after=retry_after, remedy="lower concurrency if it happens often")
    if status in (408, 500, 502, 503, 504) or code in _LATER:
        return Unavailable(said, retry_after=retry_after, remedy="nothing to do: it is tried again")
    if code in _DAMAGED:
        return Unavailable(f"{said}: it was damaged on its way", remedy="nothing to do: it is tried again")
    if code == "RequestTimeTooSkewed":
        return AccessDenied(said, remedy="set the clock of this machine")
    if status in (401, 403):
        return AccessDenied(said, remedy="check the credentials, and what they may do in this bucket")
    if status == 404 and code in ("", *_ABSENT):
        return NotFound(f"{what}: it is not there", remedy="check the path")
    if status == 404:
        return Rejected(said, status=status, code=code, remedy="check the bucket's name and its region")
    if status == 412:
        return IntegrityError(f"{what}: it has changed meanwhile", remedy="run the task again")
    return Rejected(said, status=status, code=code, remedy="look the code up in the store's documentation")


@contextmanager
def obstore_errors(what: str) -> Iterator[None]:
    """Errors of obstore as ours.

    :param what: what is being done, on what; for messages.
    """
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        code = _CODE.search(str(error))
        raise refusal(what, 404, code[1] if code else "") from None
    except exceptions.AlreadyExistsError:
        raise AlreadyExists(f"{what}: it is there already", remedy="choose another name, or replace it") from None
    except exceptions.PreconditionError:
        raise refusal(what, 412) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        code = _CODE.search(str(error))
        raise refusal(what, 403, code[1] if code else "") from None
    except (exceptions.InvalidPathError, ValueError):
        raise PermanentError(f"{what}: the name is not one that can be used here", remedy="rename it") from None
    except exceptions.BaseError as error:
        raise _generic(what, str(error)) from None
    except OSError as error:
        raise ConnectionLost(f"{what}: {type(error).__name__}", remedy="nothing to do: it is tried again") from None


def code_in(body: bytes) -> str:
    """The code in the body of an error; found as text, so that no XML of a stranger is parsed."""
    code = _CODE.search(body.decode("utf-8", "replace"))
    return code[1] if code else ""


def _generic(what: str, text: str) -> FlowRunnerError:
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is not None:
        return refusal(what, int(status[1]), code[1] if code else "")
    if "StartTooLarge" in text:  # an answer of no bytes where the range begins at the very end
        return refusal(what, 416)
    if "timed out" in text or "timeout" in text.partition("Debug source")[0].replace("retry_timeout", ""):
        return TimedOut(f"{what}: no answer in time", remedy="raise the connection's time-out, or look at the network")
    return ConnectionLost(f"{what}: the connection could not be made or broke", remedy="check host, port and network")


def status_of(error: Any) -> tuple[int, str]:
    """HTTP status and code of a boto-like ``ClientError``."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    code = str(response.get("Error", {}).get("Code") or "")
    return status, "" if code.isdigit() else code
