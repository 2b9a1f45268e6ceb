"""The JSON API of Google Cloud Storage over aiohttp, with credentials from google-auth.

obstore is not used here: it uses the XML API, which has no precondition for completing a multipart upload, and which
no emulator implements well enough for tests.

Sources: cloud.google.com/storage/docs/json_api/v1, and .../docs/hashes-etags for the checksums.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    CredentialExpired,
    IntegrityError,
    MissingCredential,
    TimedOut,
)
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.retry import parse_retry_after
from flowrunner_provider.files.config import GcsConfig
from flowrunner_provider.files.stores.gcs_sign import signed_url
from flowrunner_provider.files.stores.object_errors import refusal

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "GcsClient", "crc32c"]

_NEEDED = "files in Google Cloud Storage"
_CONNECTIONS = 32

Resource = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A successful answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Resource:
        """Return the body, which is a JSON object."""
        found = json.loads(self.body)
        return found if isinstance(found, dict) else {}


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of ``data``, which Google stores for every object."""
    return int(load("google_crc32c", extra="gcs", needed_for=_NEEDED).value(data))


class GcsClient:
    """A client for one endpoint.

    :param config: the connection.
    """

    def __init__(self, config: GcsConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._credentials: Any = None
        self._refreshing = asyncio.Lock()

    async def open(self, stack: AsyncExitStack) -> None:
        """Load the credentials, get a token and open the session; ``stack`` closes it.

        :raises MissingExtra: if a package of the extra is not installed.
        """
        http = load("aiohttp", extra="gcs", needed_for=_NEEDED)
        load("google.auth", extra="gcs", needed_for=_NEEDED)
        load("google_crc32c", extra="gcs", needed_for=_NEEDED)
        if not self._config.is_anonymous:
            with _credential_errors():
                self._credentials = await asyncio.to_thread(_credentials, self._config)
        await self._authorization()
        self._session = await stack.enter_async_context(
            http.ClientSession(
                timeout=http.ClientTimeout(
                    total=None, sock_connect=self._config.conn_timeout, sock_read=self._config.timeout
                ),
                connector=http.TCPConnector(limit=_CONNECTIONS),
                auto_decompress=False,  # objects that are stored compressed are returned as they are
            )
        )

    async def request(
        self,
        what: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> Answer:
        """Send a request; raise the matching error unless it succeeds.

        :param what: the operation and its path, for messages.
        :param path: the quoted path below the endpoint.
        """
        answer = await self._send(what, method, path, params or {}, headers or {}, data)
        if answer.status == 401 and self._credentials is not None:  # the token was revoked early
            self._credentials.token = None
            answer = await self._send(what, method, path, params or {}, headers or {}, data)
            if answer.status == 401:
                raise CredentialExpired(f"{what}: the token was rejected twice", remedy="check the service account")
        if answer.status >= 300:
            retry_after = parse_retry_after(answer.headers.get("Retry-After"), SYSTEM_CLOCK.now())
            raise refusal(what, answer.status, retry_after=retry_after)
        return answer

    async def _send(
        self, what: str, method: str, path: str, params: Mapping[str, str], headers: Mapping[str, str], data: Any
    ) -> Answer:
        import aiohttp

        if self._session is None:
            raise ValueError("the client is not open")
        if self._config.user_project:
            params = {**params, "userProject": str(self._config.project)}
        headers = {"Accept-Encoding": "gzip", **headers, **await self._authorization()}
        url = f"{self._config.endpoint_url.rstrip('/')}{path}"
        try:
            async with self._session.request(
                method, _url(url), params=params, headers=headers, data=data, allow_redirects=False
            ) as response:
                return Answer(response.status, response.headers, await response.read())
        except TimeoutError:
            raise TimedOut(f"{what}: no answer in time", remedy="raise the timeout of the connection") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost(
                f"{what}: the connection failed ({type(error).__name__})",
                remedy="check the endpoint and the network",
            ) from None

    async def _authorization(self) -> dict[str, str]:
        if self._credentials is None:
            return {}
        if not self._credentials.valid:
            async with self._refreshing:
                if not self._credentials.valid:
                    with _credential_errors():
                        await asyncio.to_thread(_refresh, self._credentials, self._config.timeout)
        return {"Authorization": f"Bearer {self._credentials.token}"}

    async def signed(self, bucket: str, key: str, method: str, expires: timedelta) -> str:
        """Return a signed URL; the client need not be open."""
        load("google.auth", extra="gcs", needed_for=_NEEDED)

        def sign() -> str:
            credentials = None if self._config.is_anonymous else _credentials(self._config)
            now = SYSTEM_CLOCK.now()
            return signed_url(credentials, self._config.endpoint_url, bucket, key, method, expires, now)

        with _credential_errors():
            return await asyncio.to_thread(sign)

    async def upload(
        self, what: str, bucket: str, name: str, data: bytes, *, params: Mapping[str, str], checksum: int
    ) -> Resource:
        """Put an object in one request with its checksum, and verify the answer.

        :return: the metadata of the object.
        """
        boundary = secrets.token_hex(16)
        proof = b64encode(checksum.to_bytes(4, "big")).decode()
        about = json.dumps({"name": name, "crc32c": proof, "contentType": "application/octet-stream"})
        body = b"".join(
            [
                f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n".encode(),
                f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(),
                data,
                f"\r\n--{boundary}--".encode(),
            ]
        )
        answer = await self.request(
            what,
            "POST",
            f"/upload/storage/v1/b/{quote(bucket, safe='')}/o",
            params={"uploadType": "multipart", **params},
            headers={"Content-Type": f"multipart/related; boundary={boundary}"},
            data=body,
        )
        found = answer.json()
        if found.get("crc32c") != proof or int(found.get("size", -1)) != len(data):
            raise IntegrityError(
                f"{what}: the stored object does not match the sent data", remedy="retry; check the network"
            )
        return found


def _url(text: str) -> Any:
    from yarl import URL

    return URL(text, encoded=True)  # keeps quoted names as they are


def _credentials(config: GcsConfig) -> Any:
    """Load the credentials: the key of the connection, else Google's application default credentials. Blocking."""
    google = load("google.auth", extra="gcs", needed_for=_NEEDED)
    scopes = [scope.strip() for scope in config.scope.split(",") if scope.strip()]
    if config.keyfile_dict:
        found, _ = google.load_credentials_from_dict(json.loads(config.keyfile_dict), scopes=scopes)
    elif config.key_path:
        found, _ = google.load_credentials_from_file(config.key_path, scopes=scopes)
    else:
        found, _ = google.default(scopes=scopes)
    if config.impersonation_chain:
        *delegates, principal = config.impersonation_chain
        impersonated = load("google.auth.impersonated_credentials", extra="gcs", needed_for=_NEEDED)
        return impersonated.Credentials(
            source_credentials=found, target_principal=principal, delegates=delegates, target_scopes=scopes
        )
    return found


def _refresh(credentials: Any, timeout: float) -> None:
    """Refresh the token, with ``timeout`` seconds for each answer. Blocking."""
    from functools import partial

    from google.auth.transport.requests import Request

    credentials.refresh(partial(Request(), timeout=timeout))


@contextmanager
def _credential_errors() -> Iterator[None]:
    from google.auth import exceptions

    try:
        yield
    except exceptions.DefaultCredentialsError:
        raise MissingCredential(
            "the connection has no usable key, and this machine has no Google credentials",
            field="keyfile_dict",
            remedy="set key_path or keyfile_dict, or is_anonymous for a public bucket",
        ) from None
    except exceptions.TransportError:
        raise ConnectionLost("Google's token service cannot be reached", remedy="check the network") from None
    except exceptions.RefreshError as error:
        if error.retryable:
            raise ConnectionLost("Google's token service is temporarily unavailable") from None
        raise AccessDenied(
            "Google issued no token for this service account",
            remedy="check that the key is not revoked, and the permissions to impersonate",
        ) from None
    except (exceptions.GoogleAuthError, ValueError, KeyError):
        raise ConfigError(
            "the key of the service account is invalid", field="keyfile_dict", remedy="paste the complete JSON key"
        ) from None
