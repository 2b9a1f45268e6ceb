"""Translation of the errors of object stores: HTTP statuses, vendor codes, and exceptions of obstore."""

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

# obstore raises one generic class for most errors; only its text contains the status.
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_REQUEST = re.compile(r"[A-Za-z0-9+/=_.-]{1,100}")

_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_THROTTLED_CODES = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServerBusy"})
_UNAVAILABLE_CODES = frozenset({"RequestTimeout", "InternalError", "OperationAborted", "ConditionalRequestConflict"})
_DAMAGED_CODES = frozenset({"BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_NOT_FOUND_CODES = frozenset({"NoSuchKey", "NotFound", "BlobNotFound"})


def refusal(
    what: str, status: int, code: str = "", *, retry_after: float | None = None, request: str = ""
) -> FlowRunnerError:
    """Return the error for an unsuccessful answer.

    :param what: the operation and its path.
    :param status: the HTTP status; 0 without an answer.
    :param code: the vendor's error code, e.g. ``SlowDown``.
    :param request: the vendor's request id, for support requests.
    """
    text = f"{what}: the store answered {status}{f' {code}' if code else ''}"
    if _REQUEST.fullmatch(request):
        text += f" (request {request})"
    if code in _EXPIRED_CODES:
        return CredentialExpired(text, remedy="nothing to do: the retry gets new credentials")
    if status == 429 or code in _THROTTLED_CODES:
        return Throttled(text, retry_after=retry_after, remedy="lower concurrency if it happens often")
    if status in (408, 500, 502, 503, 504) or code in _UNAVAILABLE_CODES:
        return Unavailable(text, retry_after=retry_after, remedy="nothing to do: it is retried")
    if code in _DAMAGED_CODES:
        return Unavailable(f"{text}: the data was damaged in transit", remedy="nothing to do: it is retried")
    if code == "RequestTimeTooSkewed":
        return AccessDenied(text, remedy="correct the clock of this machine")
    if status in (401, 403):
        return AccessDenied(text, remedy="check the credentials and their permissions for this bucket")
    if status == 404 and code in ("", *_NOT_FOUND_CODES):
        return NotFound(f"{what}: does not exist", remedy="check the path")
    if status == 404:
        return Rejected(text, status=status, code=code, remedy="check the bucket's name and its region")
    if status == 412:
        return IntegrityError(f"{what}: the object changed meanwhile", remedy="run the task again")
    return Rejected(text, status=status, code=code, remedy="look the code up in the store's documentation")


@contextmanager
def obstore_errors(what: str) -> Iterator[None]:
    """Translate the exceptions of obstore.

    :param what: the operation and its path, for messages.
    """
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        code = _CODE.search(str(error))
        raise refusal(what, 404, code[1] if code else "") from None
    except exceptions.AlreadyExistsError:
        raise AlreadyExists(
            f"{what}: already exists", remedy="choose another name, or set if_exists to 'overwrite'"
        ) from None
    except exceptions.PreconditionError:
        raise refusal(what, 412) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        code = _CODE.search(str(error))
        raise refusal(what, 403, code[1] if code else "") from None
    except (exceptions.InvalidPathError, ValueError):
        raise PermanentError(f"{what}: object stores cannot hold a file of this name", remedy="rename it") from None
    except exceptions.BaseError as error:
        raise _generic(what, str(error)) from None
    except OSError as error:
        raise ConnectionLost(f"{what}: {type(error).__name__}", remedy="nothing to do: it is retried") from None


def code_in(body: bytes) -> str:
    """Return the error code in a response body, searched as text so that no untrusted XML is parsed."""
    code = _CODE.search(body.decode("utf-8", "replace"))
    return code[1] if code else ""


def _generic(what: str, text: str) -> FlowRunnerError:
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is not None:
        return refusal(what, int(status[1]), code[1] if code else "")
    if "StartTooLarge" in text:  # an empty answer for a range that starts at the end
        return refusal(what, 416)
    if "timed out" in text or "timeout" in text.partition("Debug source")[0].replace("retry_timeout", ""):
        return TimedOut(
            f"{what}: no answer in time", remedy="raise the timeout of the connection, or check the network"
        )
    return ConnectionLost(f"{what}: the connection failed", remedy="check host, port and network")


def status_of(error: Any) -> tuple[int, str]:
    """Return the HTTP status and error code of a boto ``ClientError``."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    code = str(response.get("Error", {}).get("Code") or "")
    return status, "" if code.isdigit() else code
