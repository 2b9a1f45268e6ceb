"""Authentication of requests: the headers for each hop, and the reaction to a 401.

Static credentials are prepared once per transport. A token is requested before each request, and a signature is created
for each one. Both may contact a third party, limited by the run's deadline.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from flowrunner_provider.core.errors import ConfigError, CredentialExpired, TimedOut
from flowrunner_provider.core.run import Run
from flowrunner_provider.transport.http_body import Call
from flowrunner_provider.transport.http_settings import HttpSettings, Outgoing, Refused, StaticCredentials

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from multidict import CIMultiDict

__all__ = ["Authenticator", "api_key_credentials", "bearer_credentials", "client_certificate"]

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2: names of headers and cookies
_COOKIE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")  # RFC 6265, 4.1.1


class Authenticator:
    """Builds the headers of one transport's requests.

    :param describe: returns a call's method and redacted URL, for messages.
    """

    def __init__(self, settings: HttpSettings, run: Run, describe: Callable[[Call], str]) -> None:
        from multidict import CIMultiDict

        self._credentials, self._run, self._describe = settings.credentials, run, describe
        common = {"User-Agent": settings.user_agent, "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
        self._foreign_headers: CIMultiDict[str] = CIMultiDict(common)
        self._own_headers = CIMultiDict(common)
        self._own_headers.update(settings.headers)
        self._auth_headers = settings.credentials.fixed
        self._authenticated_headers = self._own_headers.copy()
        self._authenticated_headers.update(self._auth_headers or {})

    async def headers(self, call: Call) -> CIMultiDict[str]:
        """Return the headers of this hop; on the own origin with credentials. The caller's headers take precedence."""
        credentials = self._credentials
        if not call.home:
            headers = self._foreign_headers
        else:
            if credentials.fixed is None:
                await self._update_auth_headers(call)
            headers = self._authenticated_headers
        if call.headers:
            headers = headers.copy()
            headers.update(call.headers)
        if call.home and credentials.signs:
            outgoing = Outgoing(call.method, str(call.url), headers, call.body)
            call.proof = await self._before_deadline(call, credentials.sign(outgoing))
            headers = headers.copy()
            headers.update(call.proof)
        return headers

    async def renew(self, call: Call, raw: ClientResponse) -> bool:
        """Renew the credentials after a 401; return whether to send the request once more.

        :raises CredentialExpired: if it should be sent again but its body was a one-time stream.
        """
        refused = Refused(call.proof, tuple(raw.headers.getall("WWW-Authenticate", ())))
        if not await self._before_deadline(call, self._credentials.renew(refused)):
            return False
        if call.once_only:
            raise CredentialExpired(
                f"{self._describe(call)}: the token expired while the body was sent",
                retry_after=0.0,
                remedy="nothing to do: the retry sends the body with a new token",
            )
        return True

    async def _update_auth_headers(self, call: Call) -> None:
        """Rebuild the connection's headers if its credentials have changed."""
        call.proof = proof = await self._before_deadline(call, self._credentials.headers())
        if proof is not self._auth_headers:
            self._auth_headers, self._authenticated_headers = proof, self._own_headers.copy()
            self._authenticated_headers.update(proof)

    async def _before_deadline(self, call: Call, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._run.deadline.remaining()):
                return await work
        except TimeoutError:
            raise TimedOut(
                f"{self._describe(call)}: no credentials before the deadline; the request was not sent",
                remedy="check the credential source, e.g. the token endpoint, or raise `timeout`",
            ) from None


def bearer_credentials(token: str) -> StaticCredentials:
    """Return credentials for a fixed bearer token (RFC 6750)."""
    _check_value(token, "password")
    return StaticCredentials(fixed={"Authorization": f"Bearer {token}"}, hidden=(token,), fields=("password",))


def api_key_credentials(name: str, key: str, where: str) -> StaticCredentials:
    """Return credentials for an API key.

    :param where: ``header``, ``query`` or ``cookie``.
    :raises ConfigError: if the key cannot be sent there.
    """
    if where == "query":
        return StaticCredentials(query={name: key}, hidden=(key,), fields=("password", "api_key_name"))
    _check_value(key, "password")
    if not _TOKEN.fullmatch(name):
        raise ConfigError(
            "api_key_name is not a valid header or cookie name",
            field="api_key_name",
            remedy="use letters, digits and dashes",
        )
    fixed: Mapping[str, str] = {name: key}
    if where == "cookie":
        if not _COOKIE_VALUE.fullmatch(key):
            raise ConfigError(
                "the key contains a character that cookies do not allow", field="password", remedy="encode it"
            )
        fixed = {"Cookie": f"{name}={key}"}
    return StaticCredentials(fixed=fixed, hidden=(key,), fields=("password", "api_key_name"))


def client_certificate() -> StaticCredentials:
    """Return credentials without headers: the TLS client certificate authenticates."""
    return StaticCredentials(fields=("cert_file", "key_file"))


def _check_value(value: str, field: str) -> None:
    if _CONTROL.search(value):
        raise ConfigError(
            f"{field} contains a line break or another control character",
            field=field,
            remedy="remove it and save again",
        )
