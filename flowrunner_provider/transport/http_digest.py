"""HTTP Digest authentication (RFC 7616): SHA-256 and MD5, ``qop=auth``, and RFC 2069 for old servers.

The first request of a transport is refused, and answered with the server's challenge; from then on each request
brings its proof along, with a counter, until the server wants another nonce. The password is never sent.
``auth-int``, ``-sess`` and mutual authentication are not spoken.
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
_LONGEST = 8192
_HASHES = {"SHA-256": "sha256", "MD5": "md5"}  # the better one first


def read_challenges(headers: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Scheme (lower case) and parameters of each challenge; quoted values stay as they are between the quotes."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        scheme: dict[str, str] = {}
        for name, value in _ITEM.findall(header[:_LONGEST]):
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
    """Login and password, proved without being sent. For one transport: the counter is its own."""

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
        """The proof for this request; nothing as long as there is no challenge."""
        if isinstance(request.body, AsyncIterator):
            raise ConfigError(
                "digest authentication sends a request twice, and this body is a stream that can be sent once",
                field="auth",
                remedy="send it from memory or from a file, or use another `auth`",
            )
        if self._challenge is None:
            return {}
        parts = urlsplit(request.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return {"Authorization": self._answer(self._challenge, request.method, target)}

    async def renew(self, refused: Refused) -> bool:
        """Take the server's challenge, unless another request has brought a newer one."""
        match = _NONCE.search(refused.sent.get("Authorization", ""))
        used = match[1] if match else ""
        if self._challenge is not None and self._challenge.nonce != used:
            return True
        challenge = _best(read_challenges(refused.challenges))
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


def _best(challenges: list[tuple[str, dict[str, str]]]) -> _Challenge | None:
    """The strongest challenge that we can meet; None when the server did not say how it wants to be asked.

    :raises ConfigError: when it wants something else.
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
        f"the server asks for {asked}, not for digest with SHA-256 or MD5 and qop=auth",
        field="auth",
        remedy="set the connection's `auth` to what the server asks for; the password was not sent",
    )


def _offers_auth(items: Mapping[str, str]) -> bool:
    return "qop" not in items or "auth" in {word.strip().lower() for word in items["qop"].split(",")}
