"""HTTP Digest authentication (RFC 7616): SHA-256 and MD5, ``qop=auth``, and RFC 2069 for old servers.

The first request of a transport is refused with the server's challenge. From then on, each request carries its response
with a counter, until the server sends another nonce. The password is never sent. ``auth-int``, ``-sess`` and mutual
authentication are not supported.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import quote, urlsplit

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.transport.http_settings import Outgoing, Refused

__all__ = ["DigestCredentials", "read_challenges"]

_ITEM = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^\s\",;=]+))?")
_NONCE = re.compile(r'\bnonce="((?:[^"\\]|\\.)*)"')
_MAX_HEADER_LENGTH = 8192
_HASHES = {"SHA-256": "sha256", "MD5": "md5"}  # strongest first


def read_challenges(headers: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Return scheme (lower case) and parameters of each challenge; quoted values are not unescaped."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        scheme: dict[str, str] = {}
        for name, value in _ITEM.findall(header[:_MAX_HEADER_LENGTH]):
            if value:
                value = value.partition("=")[2].strip()
                scheme.setdefault(name.lower(), value[1:-1] if value.startswith('"') else value)
            else:
                scheme = {}
                found.append((name.lower(), scheme))
    return found


@dataclass
class _Challenge:
    algorithm: str
    realm: str
    nonce: str
    opaque: str | None
    qop: bool
    userhash: bool
    used: int = 0


@dataclass(kw_only=True)
class DigestCredentials:
    """Login and password, proved without being sent. For one transport, because it keeps a counter."""

    login: str
    password: str = field(repr=False)

    configured: ClassVar[bool] = True
    fields: ClassVar[tuple[str, ...]] = ("login", "password")
    fixed: ClassVar[Mapping[str, str]] = {}
    query: ClassVar[Mapping[str, str]] = {}
    signs: ClassVar[bool] = True

    _challenge: _Challenge | None = field(default=None, init=False, repr=False)

    def secrets(self) -> Iterable[str]:
        return (self.password, f"{self.login}:{self.password}")

    async def headers(self) -> Mapping[str, str]:
        return {}

    async def sign(self, request: Outgoing) -> Mapping[str, str]:
        """Return the response for this request; nothing without a challenge."""
        if isinstance(request.body, AsyncIterator):
            raise ConfigError(
                "digest authentication sends a request twice, but this body can be sent only once",
                field="auth",
                remedy="send it from memory or from a file, or use another `auth`",
            )
        if self._challenge is None:
            return {}
        parts = urlsplit(request.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return {"Authorization": self._answer(self._challenge, request.method, target)}

    async def renew(self, refused: Refused) -> bool:
        """Adopt the server's challenge, unless another request has received a newer one."""
        match = _NONCE.search(refused.sent.get("Authorization", ""))
        used = match[1] if match else ""
        if self._challenge is not None and self._challenge.nonce != used:
            return True
        challenge = _strongest(read_challenges(refused.challenges))
        if challenge is None or challenge.nonce == used:
            return False
        self._challenge = challenge
        return True

    def _answer(self, challenge: _Challenge, method: str, target: str) -> str:
        def digest(text: str) -> str:
            return hashlib.new(_HASHES[challenge.algorithm], text.encode(), usedforsecurity=False).hexdigest()

        challenge.used += 1
        count, ours = f"{challenge.used:08x}", secrets.token_hex(16)
        who = digest(f"{self.login}:{challenge.realm}:{self.password}")
        what = digest(f"{method}:{target}")
        if challenge.qop:
            response = digest(f"{who}:{challenge.nonce}:{count}:{ours}:auth:{what}")
        else:
            response = digest(f"{who}:{challenge.nonce}:{what}")
        items = [self._user(challenge, digest), f'realm="{challenge.realm}"', f'nonce="{challenge.nonce}"']
        items += [f'uri="{target}"', f'response="{response}"', f"algorithm={challenge.algorithm}"]
        if challenge.qop:
            items += ["qop=auth", f"nc={count}", f'cnonce="{ours}"']
        if challenge.opaque is not None:
            items.append(f'opaque="{challenge.opaque}"')
        if challenge.userhash:
            items.append("userhash=true")
        return "Digest " + ", ".join(items)

    def _user(self, challenge: _Challenge, digest: Callable[[str], str]) -> str:
        if challenge.userhash:
            return f'username="{digest(f"{self.login}:{challenge.realm}")}"'
        if not self.login.isascii():
            return f"username*=UTF-8''{quote(self.login, safe='')}"
        escaped = self.login.replace("\\", "\\\\").replace('"', '\\"')
        return f'username="{escaped}"'


def _strongest(challenges: list[tuple[str, dict[str, str]]]) -> _Challenge | None:
    """Return the strongest supported challenge; None if the server sent none.

    :raises ConfigError: if the server requires another scheme.
    """
    digests = [items for scheme, items in challenges if scheme == "digest"]
    usable = {
        items.get("algorithm", "MD5").upper(): items
        for items in reversed(digests)
        if "nonce" in items and "realm" in items and _offers_auth(items)
    }
    for algorithm in _HASHES:
        if (items := usable.get(algorithm)) is not None:
            return _Challenge(
                algorithm=algorithm,
                realm=items["realm"],
                nonce=items["nonce"],
                opaque=items.get("opaque"),
                qop="qop" in items,
                userhash=items.get("userhash", "").lower() == "true",
            )
    if not challenges:
        return None
    asked = ", ".join(sorted({scheme[:20] for scheme, _ in challenges}))
    if digests:
        asked = "digest with " + ", ".join(sorted({items.get("algorithm", "auth-int")[:20] for items in digests}))
    raise ConfigError(
        f"the server requires {asked}, not digest with SHA-256 or MD5 and qop=auth",
        field="auth",
        remedy="set the connection's `auth` to what the server requires; the password was not sent",
    )


def _offers_auth(items: Mapping[str, str]) -> bool:
    return "qop" not in items or "auth" in {word.strip().lower() for word in items["qop"].split(",")}
