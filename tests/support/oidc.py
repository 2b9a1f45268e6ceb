"""A real OAuth 2.0 / OpenID Connect server: npm's ``oidc-provider``, run by node.

Its packages are pinned, with hashes, by ``idp/package-lock.json`` and installed once into a cache outside
the checkout; without a network the cache of npm is enough. :func:`install` is that step by itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlsplit

import pytest

from tests.support.servers import HOST, Server, greets, require

__all__ = ["SECRET", "Idp", "idp", "install"]

SECRET = "p+%&=:/ ~odd-secret-of-32-characters"
"""Of every client that has one."""

_HERE = Path(__file__).parent / "idp"
_INSTALL_SECONDS = 300


def install(package: Path = _HERE) -> Path:
    """Return the folder with the server's packages, installed if they are not yet.

    :param package: a folder with a ``package.json`` and its lock file.
    :raises OSError: without npm, or when npm fails (no network and nothing in its cache).
    """
    lock = (package / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowrunner-tests" / "npm"
    target = cache / f"{package.name}-{hashlib.sha256(lock).hexdigest()[:16]}"
    if target.exists():  # it got this name when it was complete
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as name:
        fresh = Path(name) / package.name
        fresh.mkdir()
        for file in ("package.json", "package-lock.json"):
            shutil.copy(package / file, fresh)
        npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error"]
        try:
            done = subprocess.run(npm, cwd=fresh, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise OSError(f"npm took longer than {_INSTALL_SECONDS} s") from error
        if done.returncode:
            raise OSError(f"npm ci failed: {done.stderr[-500:]}")
        try:
            fresh.rename(target)
        except OSError:
            if not target.exists():  # else another worker was quicker
                raise
    return target


@dataclass
class Idp:
    """The running server. ``keys`` holds the clients' private keys as JWK: ``rsa``, ``ec``, ``ed``."""

    server: Server
    keys: Mapping[str, dict[str, Any]] = field(repr=False)

    @property
    def issuer(self) -> str:
        return f"http://{HOST}:{self.server.port}"

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/token"

    def token_requests(self) -> int:
        """How many token requests have come so far."""
        import requests

        return int(requests.get(f"{self.issuer}/counted", timeout=10).text)

    def introspect(self, token: str) -> dict[str, Any]:
        """What the server knows about a token (RFC 7662): ``{"active": false}`` if it is not good."""
        answer = self._post("/token/introspection", {"token": token}, "inspector")
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def revoke(self, token: str, client: str) -> None:
        """End a token before its time (RFC 7009)."""
        answer = self._post("/token/revocation", {"token": token}, client)
        assert answer.status_code == 200, answer.text

    def consent(self, client: str, user: str = "alice") -> str:
        """Log in and consent as ``user``: authorization code with PKCE. Returns a refresh token."""
        import requests

        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        back = "http://127.0.0.1:9/back"
        with requests.Session() as browser:
            question = {
                "client_id": client, "response_type": "code", "redirect_uri": back, "prompt": "consent",
                "scope": "openid offline_access api.read", "code_challenge": challenge, "code_challenge_method": "S256",
            }  # fmt: skip
            page = browser.get(f"{self.issuer}/auth", params=question, timeout=10)
            page = browser.post(
                _action(page.text), data={"prompt": "login", "login": user, "password": "x"}, timeout=10
            )
            answer = browser.post(_action(page.text), data={"prompt": "consent"}, allow_redirects=False, timeout=10)
            while not (location := answer.headers["Location"]).startswith(back):
                answer = browser.get(location, allow_redirects=False, timeout=10)
        code = parse_qs(urlsplit(location).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back, "code_verifier": verifier}
        tokens = self._post("/token", form, client)
        assert tokens.status_code == 200, tokens.text
        return str(tokens.json()["refresh_token"])

    def _post(self, path: str, form: Mapping[str, str], client: str) -> Any:
        import requests

        pair = f"{quote_plus(client)}:{quote_plus(SECRET)}".encode()
        basic = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        return requests.post(self.issuer + path, data=form, headers=basic, timeout=10)


def _action(page: str) -> str:
    match = re.search(r'action="([^"]+)"', page)
    assert match, page
    return match[1]


def _keys() -> dict[str, dict[str, Any]]:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    made = {
        "rsa": RSAKey.generate_key(2048, {"kid": "rsa-1", "alg": "RS256", "use": "sig"}),
        "ec": ECKey.generate_key("P-256", {"kid": "ec-1", "alg": "ES256", "use": "sig"}),
        "ed": OKPKey.generate_key("Ed25519", {"kid": "ed-1", "use": "sig"}),
    }
    return {name: dict(key.as_dict(private=True)) for name, key in made.items()}


@contextmanager
def idp(directory: Path) -> Iterator[Idp]:
    """Run the server for the block; ``directory`` gets its log."""
    node = require("node", apt="nodejs npm")
    try:
        modules = install()
    except OSError as error:
        if os.environ.get("REQUIRE_BACKENDS") == "1":
            raise
        pytest.skip(f"oidc-provider is not installed: {error}")
    keys = _keys()
    private = {"d", "p", "q", "dp", "dq", "qi"}
    public = {n: {"keys": [{k: v for k, v in key.items() if k not in private}]} for n, key in keys.items()}
    with Server(
        "oidc-provider",
        lambda port: ["env", f"JWKS={json.dumps(public)}", node, str(_HERE / "server.mjs"), str(port), str(modules)],
        ready=lambda port: greets(port, b"HTTP/1.1 200", say=b"GET /counted HTTP/1.0\r\n\r\n"),
        log=directory / "idp.log",
    ) as server:
        yield Idp(server, keys)
