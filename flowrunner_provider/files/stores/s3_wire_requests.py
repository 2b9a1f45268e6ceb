"""Signed requests to one bucket over our own connections (:mod:`.s3_wire`), retried after transient errors."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Deadline
from flowrunner_provider.core.errors import (
    ConfigError,
    CredentialExpired,
    FlowRunnerError,
    IntegrityError,
    TimedOut,
)
from flowrunner_provider.core.retry import RetryPlan, parse_retry_after
from flowrunner_provider.files.stores.object_errors import code_in, refusal
from flowrunner_provider.files.stores.s3_body import Body
from flowrunner_provider.files.stores.s3_client import client_errors, connection_lost
from flowrunner_provider.files.stores.s3_objects import Stored
from flowrunner_provider.files.stores.s3_wire import Answer, Violation
from flowrunner_provider.files.stores.s3_wire_address import BucketAddress
from flowrunner_provider.files.stores.s3_wire_blocking_pool import BlockingPool
from flowrunner_provider.files.stores.s3_wire_pool import Pool
from flowrunner_provider.files.stores.s3_wire_sign import UNSIGNED, Keys, payload_of, request_head, signed

__all__ = ["LARGE", "RenewingCredentials", "WireRequests", "connection_error", "stored"]

_CACHE_SECONDS = 60.0
"""Seconds between two calls of botocore, which renews credentials at least ten minutes before they expire."""

_MAX_ANSWER = 64 * 1024
"""The largest body of an answer that has none to read, in bytes."""

LARGE = 512 * 1024
"""Bytes from which a body is hashed in a thread."""

_NONE: Mapping[str, str] = {}

_UNSIGNED_HEADERS = {"accept-encoding": "identity", "user-agent": "airflow-provider-flowrunner"}
"""Headers that are not signed, as a proxy may change them."""

_HEADERS = {
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}


class RenewingCredentials:
    """Credentials of botocore, which renews them; fetched in a thread, as a renewal sends requests."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._keys: Keys | None = None
        self._cached_until = 0.0
        self._lock = asyncio.Lock()

    def fresh(self) -> Keys | None:
        """Return the cached keys unless they are too old."""
        return self._keys if SYSTEM_CLOCK.monotonic() < self._cached_until else None

    async def keys(self, what: str) -> Keys:
        """Return the current keys."""
        async with self._lock:
            keys = self.fresh()
            if keys is None:
                try:
                    with client_errors(what):
                        frozen = await asyncio.to_thread(self._credentials.get_frozen_credentials)
                except RuntimeError:  # botocore received credentials that had expired already
                    raise CredentialExpired(
                        f"{what}: the credentials have expired", remedy="renew the credentials of the connection"
                    ) from None
                keys = self._keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
                self._cached_until = SYSTEM_CLOCK.monotonic() + _CACHE_SECONDS
            return keys

    def invalidate(self) -> None:
        """Fetch the keys again before the next request, as the server refused them."""
        self._keys = None


class WireRequests:
    """The base of all requests to one bucket.

    :param credentials: None for anonymous requests.
    :param blocking: the connections for large bodies.
    :param settings: parameters of every write, by their names in boto3.
    :param sign_bodies: sign the body too; needed without TLS.
    """

    def __init__(
        self,
        address: BucketAddress,
        pool: Pool,
        credentials: RenewingCredentials | None,
        plan: RetryPlan,
        *,
        blocking: BlockingPool,
        settings: Mapping[str, str],
        sign_bodies: bool,
    ) -> None:
        self.address, self._blocking = address, blocking
        self._pool, self._credentials, self._plan, self._sign_bodies = pool, credentials, plan, sign_bodies
        self._settings = {_HEADERS[name]: value for name, value in settings.items()}

    def _deadline(self) -> Deadline:
        return Deadline(2 * self._pool.server.timeout)

    async def _ask(self, what: str, method: str, key: str = "", **more: Any) -> Answer:
        """Send a request, with retries; return the answer if it is a success."""

        async def attempt() -> Answer:
            return self._raise_unless_success(what, await self._answer(what, method, key, **more))

        return await self._plan.acall(attempt, self._deadline())

    async def _answer(
        self,
        what: str,
        method: str,
        key: str = "",
        *,
        query: str = "",
        headers: Mapping[str, str] = _NONE,
        data: bytes = b"",
        most: int = _MAX_ANSWER,
        resend: bool = True,
    ) -> Answer:
        """Send a request once and return the answer, whatever its status.

        :param resend: send it again at once if the server closed the idle connection meanwhile.
        """
        request = await self._request(what, method, key, query=query, headers=headers, data=data)
        try:
            return await self._pool.ask(request, data, bodiless=method == "HEAD", most=most, resend=resend)
        except (OSError, Violation) as error:
            raise connection_error(what, error, self.address) from None

    async def _request(
        self, what: str, method: str, key: str, *, query: str = "", headers: Mapping[str, str], data: bytes | Body = b""
    ) -> bytes:
        """Return the head of a request, signed.

        :param data: the body that will follow.
        """
        path = self.address.path(key)
        all_headers = {"host": self.address.netloc, **headers}
        if self._credentials is not None:
            keys, now = self._credentials.fresh() or await self._credentials.keys(what), SYSTEM_CLOCK.now()
            payload = await self._payload(data) if self._sign_bodies else UNSIGNED
            all_headers = signed(
                method, path, query, all_headers, keys=keys, region=self.address.region, now=now, payload=payload
            )
        if method in ("PUT", "POST"):
            all_headers["content-length"] = str(len(data))
        return request_head(method, path, query, {**all_headers, **_UNSIGNED_HEADERS})

    async def _payload(self, data: bytes | Body) -> str:
        if isinstance(data, Body):
            return await asyncio.to_thread(data.sha256)
        return payload_of(data) if len(data) < LARGE else await asyncio.to_thread(payload_of, data)

    def _raise_unless_success(self, what: str, answer: Answer) -> Answer:
        if answer.status < 300:
            return answer
        raise self._refused(what, answer)

    def _refused(self, what: str, answer: Answer) -> FlowRunnerError:
        headers = answer.headers
        region = headers.get("x-amz-bucket-region", "")
        if answer.status in (301, 307):
            where = f"; it is in {region}" if region.replace("-", "").isalnum() else ""
            return ConfigError(
                f"{what}: the server redirects to another address ({answer.status}{where})",
                field="region_name",
                remedy="set region_name or endpoint_url to the location of the bucket",
            )
        wait = parse_retry_after(headers.get("retry-after"), SYSTEM_CLOCK.now())
        code, request = code_in(answer.body), headers.get("x-amz-request-id", "")
        error = refusal(what, answer.status, code, retry_after=wait, request=request)
        if isinstance(error, CredentialExpired) and self._credentials is not None:
            self._credentials.invalidate()
        return error

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._blocking.close()


def connection_error(what: str, error: Exception, address: BucketAddress) -> FlowRunnerError:
    """Return the error for a request without an answer."""
    if isinstance(error, Violation):
        return IntegrityError(f"{what}: the server answered with {error}", remedy="check proxies in between")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigError(
            f"{what}: the server's certificate is not trusted",
            field="ca_bundle",
            remedy="set ca_bundle in the flowrunner extra of the connection to the file of the CA",
        )
    if isinstance(error, TimeoutError):
        return TimedOut(f"{what}: no answer in time", remedy="raise timeout, or check the network")
    return connection_lost(what, f"{address.host}:{address.port}")


def stored(answer: Answer) -> Stored:
    """Return the ETag and checksum of a write."""
    return Stored(answer.headers.get("etag", ""), answer.headers.get("x-amz-checksum-crc32", ""))
