"""Credentials on their way into requests: which headers go along on a hop, and what follows a 401.

Static credentials are put together once per transport; a token is asked for before each request, and a
signature is made for each. Both may ask a third party, and have as long for it as the run has.
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

__all__ = ["Proofs", "api_key_credentials", "bearer_credentials", "client_certificate"]

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2: names of headers and cookies
_COOKIE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")  # RFC 6265, 4.1.1


class Proofs:
    """The headers of one transport's requests.

    :param what: a call's method and redacted address, for messages.
    """

    def __init__(self, settings: HttpSettings, run: Run, what: Callable[[Call], str]) -> None:
        from multidict import CIMultiDict

        self._credentials, self._run, self._what = settings.credentials, run, what
        common = {"User-Agent": settings.user_agent, "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
        self._foreign: CIMultiDict[str] = CIMultiDict(common)
        self._home = CIMultiDict(common)
        self._home.update(settings.headers)
        self._proof = settings.credentials.fixed
        self._proven = self._home.copy()
        self._proven.update(self._proof or {})

    async def headers(self, call: Call) -> CIMultiDict[str]:
        """What goes along on this hop: at home with the credentials; what the caller gave goes before the rest."""
        credentials = self._credentials
        if not call.home:
            headers = self._foreign
        else:
            if credentials.fixed is None:
                await self._prove(call)
            headers = self._proven
        if call.headers:
            headers = headers.copy()
            headers.update(call.headers)
        if call.home and credentials.signs:
            outgoing = Outgoing(call.method, str(call.url), headers, call.body)
            call.proof = await self._in_time(call, credentials.sign(outgoing))
            headers = headers.copy()
            headers.update(call.proof)
        return headers

    async def renew(self, call: Call, raw: ClientResponse) -> bool:
        """After a 401: whether the request should be sent once more.

        :raises CredentialExpired: when it should, and its body is gone.
        """
        refused = Refused(call.proof, tuple(raw.headers.getall("WWW-Authenticate", ())))
        if not await self._in_time(call, self._credentials.renew(refused)):
            return False
        if call.once_only:
            raise CredentialExpired(
                f"{self._what(call)}: the token ran out while the body was sent",
                retry_after=0.0,
                remedy="nothing to do: a fresh token is there, and the retry sends the body again",
            )
        return True

    async def _prove(self, call: Call) -> None:
        """Put the connection's headers together anew when its credentials have changed."""
        call.proof = proof = await self._in_time(call, self._credentials.headers())
        if proof is not self._proof:
            self._proof, self._proven = proof, self._home.copy()
            self._proven.update(proof)

    async def _in_time(self, call: Call, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._run.deadline.remaining()):
                return await work
        except TimeoutError:
            raise TimedOut(
                f"{self._what(call)}: no credentials in time; it was not sent with them",
                remedy="look at what gives the credentials (the token endpoint, say), or raise `timeout`",
            ) from None


def bearer_credentials(token: str) -> StaticCredentials:
    """A token that somebody else made (RFC 6750)."""
    _check_value(token, "password")
    return StaticCredentials(fixed={"Authorization": f"Bearer {token}"}, hidden=(token,), fields=("password",))


def api_key_credentials(name: str, key: str, where: str) -> StaticCredentials:
    """An API key.

    :param where: ``header``, ``query`` or ``cookie``.
    :raises ConfigError: if it cannot be sent there.
    """
    if where == "query":
        return StaticCredentials(query={name: key}, hidden=(key,), fields=("password", "api_key_name"))
    _check_value(key, "password")
    if not _TOKEN.fullmatch(name):
        raise ConfigError(
            "api_key_name cannot be sent", field="api_key_name", remedy="write letters, digits and dashes"
        )
    fixed: Mapping[str, str] = {name: key}
    if where == "cookie":
        if not _COOKIE_VALUE.fullmatch(key):
            raise ConfigError(
                "the key holds a character that a cookie cannot hold", field="password", remedy="give it encoded"
            )
        fixed = {"Cookie": f"{name}={key}"}
    return StaticCredentials(fixed=fixed, hidden=(key,), fields=("password", "api_key_name"))


def client_certificate() -> StaticCredentials:
    """The TLS client certificate is all there is: no header proves anything."""
    return StaticCredentials(fields=("cert_file", "key_file"))


def _check_value(value: str, field: str) -> None:
    if _CONTROL.search(value):
        raise ConfigError(
            f"{field} holds a line break or another control character", field=field, remedy="remove it and save again"
        )
