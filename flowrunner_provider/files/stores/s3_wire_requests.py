"""Requests to one bucket by connections of our own, signed, and repeated while that may help: see :mod:`.s3_wire`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Deadline
from flowrunner_provider.core.errors import (
    ConfigError,
    ConnectionLost,
    CredentialExpired,
    FlowRunnerError,
    IntegrityError,
    TimedOut,
)
from flowrunner_provider.core.retry import RetryPlan, parse_retry_after
from flowrunner_provider.files.stores.object_errors import code_in, refusal
from flowrunner_provider.files.stores.s3_body import Body
from flowrunner_provider.files.stores.s3_client import client_errors
from flowrunner_provider.files.stores.s3_objects import Stored
from flowrunner_provider.files.stores.s3_wire import Answer, Violation
from flowrunner_provider.files.stores.s3_wire_lines import Lines
from flowrunner_provider.files.stores.s3_wire_place import Place
from flowrunner_provider.files.stores.s3_wire_pool import Pool
from flowrunner_provider.files.stores.s3_wire_sign import UNSIGNED, Keys, payload_of, signed, written

__all__ = ["LARGE", "Renewed", "WireRequests", "broken", "stored"]

_ASKED_EVERY = 60.0
"""Seconds; botocore renews what expires at the latest ten minutes before."""

_SMALL = 64 * 1024
"""Bytes that an answer may have of which none are wanted."""

LARGE = 512 * 1024
"""Bytes from which a body is digested in a thread."""

_NONE: Mapping[str, str] = {}

_UNTOUCHED = {"accept-encoding": "identity", "user-agent": "airflow-provider-flowrunner"}
"""Not signed, as what stands between may change them."""

_HEADERS = {
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}


class Renewed:
    """Credentials of botocore, which renews them; asked in a thread, as that may take requests of its own."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._keys: Keys | None = None
        self._until = 0.0
        self._asking = asyncio.Lock()

    def fresh(self) -> Keys | None:
        """Those that were asked for not long ago."""
        return self._keys if SYSTEM_CLOCK.monotonic() < self._until else None

    async def keys(self, what: str) -> Keys:
        """Those of now."""
        async with self._asking:
            keys = self.fresh()
            if keys is None:
                try:
                    with client_errors(what):
                        frozen = await asyncio.to_thread(self._credentials.get_frozen_credentials)
                except RuntimeError:  # botocore's word for credentials that have expired as they came
                    raise CredentialExpired(f"{what}: the credentials have expired", remedy="renew them") from None
                keys = self._keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
                self._until = SYSTEM_CLOCK.monotonic() + _ASKED_EVERY
            return keys

    def forget(self) -> None:
        """They were refused: ask before the next request."""
        self._keys = None


class WireRequests:
    """What all requests share.

    :param credentials: None for anonymous requests.
    :param lines: for what is large.
    :param settings: what is sent with everything that is written, as boto3 calls it.
    :param sign_bodies: over a connection that somebody could change.
    """

    def __init__(
        self,
        place: Place,
        pool: Pool,
        credentials: Renewed | None,
        plan: RetryPlan,
        *,
        lines: Lines,
        settings: Mapping[str, str],
        sign_bodies: bool,
    ) -> None:
        self.place, self._lines = place, lines
        self._pool, self._credentials, self._plan, self._sign_bodies = pool, credentials, plan, sign_bodies
        self._settings = {_HEADERS[name]: value for name, value in settings.items()}

    def _deadline(self) -> Deadline:
        return Deadline(2 * self._pool.server.timeout)

    async def _ask(self, what: str, method: str, key: str = "", **more: Any) -> Answer:
        """A success, after some repetitions."""

        async def once() -> Answer:
            return self._good(what, await self._answer(what, method, key, **more))

        return await self._plan.acall(once, self._deadline())

    async def _answer(
        self,
        what: str,
        method: str,
        key: str = "",
        *,
        query: str = "",
        headers: Mapping[str, str] = _NONE,
        data: bytes = b"",
        most: int = _SMALL,
        again: bool = True,
    ) -> Answer:
        """Whatever the server says.

        :param again: repeat it at once if the connection was given up by the server meanwhile.
        """
        request = await self._request(what, method, key, query=query, headers=headers, data=data)
        try:
            return await self._pool.ask(request, data, bodiless=method == "HEAD", most=most, again=again)
        except (OSError, Violation) as error:
            raise broken(what, error) from None

    async def _request(
        self, what: str, method: str, key: str, *, query: str = "", headers: Mapping[str, str], data: bytes | Body = b""
    ) -> bytes:
        """The head of a request, signed.

        :param data: that will follow.
        """
        path = self.place.path(key)
        every = {"host": self.place.netloc, **headers}
        if self._credentials is not None:
            keys, now = self._credentials.fresh() or await self._credentials.keys(what), SYSTEM_CLOCK.now()
            payload = await self._payload(data) if self._sign_bodies else UNSIGNED
            every = signed(method, path, query, every, keys=keys, region=self.place.region, now=now, payload=payload)
        if method in ("PUT", "POST"):
            every["content-length"] = str(len(data))
        return written(method, path, query, {**every, **_UNTOUCHED})

    async def _payload(self, data: bytes | Body) -> str:
        if isinstance(data, Body):
            return await asyncio.to_thread(data.sha256)
        return payload_of(data) if len(data) < LARGE else await asyncio.to_thread(payload_of, data)

    def _good(self, what: str, answer: Answer) -> Answer:
        if answer.status < 300:
            return answer
        raise self._refused(what, answer)

    def _refused(self, what: str, answer: Answer) -> FlowRunnerError:
        headers = answer.headers
        region = headers.get("x-amz-bucket-region", "")
        if answer.status in (301, 307):
            where = f"; it is in {region}" if region.replace("-", "").isalnum() else ""
            return ConfigError(
                f"{what}: the server sends us elsewhere ({answer.status}{where})",
                field="region_name",
                remedy="set region_name, or the endpoint_url, to where the bucket is",
            )
        wait = parse_retry_after(headers.get("retry-after"), SYSTEM_CLOCK.now())
        code, request = code_in(answer.body), headers.get("x-amz-request-id", "")
        error = refusal(what, answer.status, code, retry_after=wait, request=request)
        if isinstance(error, CredentialExpired) and self._credentials is not None:
            self._credentials.forget()
        return error

    def close(self) -> None:
        """End all connections."""
        self._pool.close()
        self._lines.close()


def broken(what: str, error: Exception) -> FlowRunnerError:
    """Why there is no answer."""
    if isinstance(error, Violation):
        return IntegrityError(f"{what}: the server answered with {error}", remedy="look at what stands between")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigError(
            f"{what}: the server's certificate is not trusted",
            field="ca_bundle",
            remedy="name the CA's file as ca_bundle in the connection's flowrunner extra",
        )
    if isinstance(error, TimeoutError):
        return TimedOut(f"{what}: no answer in time", remedy="raise timeout, or look at the network")
    return ConnectionLost(f"{what}: the connection failed", remedy="check host, port and network")


def stored(answer: Answer) -> Stored:
    """What is said of what was put."""
    return Stored(answer.headers.get("etag", ""), answer.headers.get("x-amz-checksum-crc32", ""))
