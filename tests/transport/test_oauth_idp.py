"""OAuth against a real authorization server, which is asked what it knows about each token."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.errors import AccessDenied, FlowRunnerError, MissingCredential
from flowrunner_provider.core.journal import MemoryStore
from flowrunner_provider.core.run import Run
from flowrunner_provider.transport.http import HttpTransport
from flowrunner_provider.transport.http_settings import HttpSettings, NetPolicy
from flowrunner_provider.transport.oauth import OAuthCredentials
from flowrunner_provider.transport.oauth_settings import ClientCredentials, JwtBearer, OAuthSettings, RefreshToken
from flowrunner_provider.transport.oauth_tokens import TokenCache
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.oidc import SECRET, Idp

pytestmark = pytest.mark.backend

BASIC = "basic: +1"
ROOT = Path(__file__).parent.parent.parent


def oauth(settings: OAuthSettings, **more: Any) -> OAuthCredentials:
    return OAuthCredentials(settings, **{"tokens": TokenCache(), **more})


def token_of(credentials: OAuthCredentials) -> str:
    async def ask() -> str:
        return (await credentials.headers())["Authorization"].removeprefix("Bearer ")

    return asyncio.run(ask())


def fails(settings: OAuthSettings, **more: Any) -> FlowRunnerError:
    with pytest.raises(FlowRunnerError) as caught:
        token_of(oauth(settings, **more))
    assert SECRET not in str(caught.value)
    return caught.value


def basic(idp: Idp, **more: Any) -> ClientCredentials:
    return ClientCredentials(**{"issuer": idp.issuer, "client_id": BASIC, "client_secret": SECRET} | more)


def signing(idp: Idp, key: str, algorithm: Any, **more: Any) -> ClientCredentials:
    return ClientCredentials(
        issuer=idp.issuer,
        client_id=key,
        client_auth="private_key_jwt",
        algorithm=algorithm,
        **{"private_key": json.dumps(idp.keys[key])} | more,
    )


def refreshing(idp: Idp, client: str, refresh_token: str) -> RefreshToken:
    return RefreshToken(issuer=idp.issuer, client_id=client, client_secret=SECRET, refresh_token=refresh_token)


# Every flow gives a token that the server knows


def test_client_credentials_with_a_secret_in_the_header(idp):
    known = idp.introspect(token_of(oauth(basic(idp, scope="api.read"))))
    assert (known["active"], known["client_id"], known["scope"], known["aud"]) == (True, BASIC, "api.read", "urn:api")


def test_client_credentials_with_a_secret_in_the_body_and_a_token_url(idp):
    settings = ClientCredentials(
        token_url=idp.token_url, client_id="post", client_secret=SECRET, client_auth="client_secret_post"
    )
    known = idp.introspect(token_of(oauth(settings)))
    assert (known["active"], known["client_id"]) == (True, "post")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [("rsa", "RS256"), ("ec", "ES256"), ("ed", "Ed25519")],
)
def test_private_key_jwt(idp, key, algorithm):
    credentials = oauth(signing(idp, key, algorithm, key_id=idp.keys[key]["kid"]))
    known = idp.introspect(token_of(credentials))
    assert (known["active"], known["client_id"]) == (True, key)


def test_private_key_jwt_for_a_token_url(idp):
    settings = dataclasses.replace(signing(idp, "rsa", "RS256"), issuer="", token_url=idp.token_url)
    assert idp.introspect(token_of(oauth(settings)))["active"]


def test_a_resource_gets_a_token_of_its_own_which_its_keys_verify(idp):
    import requests
    from joserfc import jwt
    from joserfc.jwk import KeySet

    token = token_of(oauth(basic(idp, resource="urn:jwt", scope="api.write")))
    keys = KeySet.import_key_set(requests.get(f"{idp.issuer}/jwks", timeout=10).json())
    claims = jwt.decode(token, keys, algorithms=["RS256"]).claims
    assert (claims["iss"], claims["aud"], claims["scope"]) == (idp.issuer, "urn:jwt", "api.write")


def test_jwt_bearer(idp):
    settings = JwtBearer(
        issuer=idp.issuer, client_id="bearer", private_key=json.dumps(idp.keys["rsa"]), subject="alice"
    )
    assert idp.introspect(token_of(oauth(settings)))["active"]


def test_refresh_without_rotation(idp):
    settings, store = refreshing(idp, "steady", idp.consent("steady")), MemoryStore()
    for _ in range(3):
        known = idp.introspect(token_of(oauth(settings, store=store)))
        assert (known["active"], known["sub"]) == (True, "alice")
    assert store.values == {}


def test_refresh_with_rotation_over_processes(idp):
    settings, store = refreshing(idp, "rotating", idp.consent("rotating")), MemoryStore()
    kept = set()
    for _ in range(4):
        assert idp.introspect(token_of(oauth(settings, store=store)))["active"]
        (record,) = store.values.values()
        kept.add(record)
    assert len(kept) == 4
    assert idp.introspect(json.loads(record)["refresh_token"])["active"]


# What a real server refuses


def test_a_wrong_secret(idp):
    error = fails(basic(idp, client_secret="canary-wrong"))
    assert isinstance(error, AccessDenied)
    assert "client_secret" in error.remedy
    assert "canary" not in str(error)


def test_an_unknown_client(idp):
    assert isinstance(fails(basic(idp, client_id="nobody")), AccessDenied)


def test_the_wrong_way_to_prove_it(idp):
    assert isinstance(fails(dataclasses.replace(signing(idp, "ec", "ES256"), client_id=BASIC)), AccessDenied)


def test_somebody_elses_key(idp):
    error = fails(signing(idp, "ec", "ES256", private_key=json.dumps(_other_key())))
    assert isinstance(error, AccessDenied)
    assert "private_key" in error.remedy


def _other_key() -> dict[str, Any]:
    from joserfc.jwk import ECKey

    return dict(ECKey.generate_key("P-256").as_dict(private=True))


@pytest.mark.parametrize("more", [{"assertion_audience": "https://other.example.com"}, {"key_id": "../../dev/null"}])
def test_an_assertion_for_somebody_else_or_with_an_injected_key_id(idp, more):
    assert isinstance(fails(dataclasses.replace(signing(idp, "rsa", "RS256"), **more)), AccessDenied)


def test_an_assertion_of_a_worker_whose_clock_is_wrong(idp):
    clock = ManualClock(wall=datetime(2020, 1, 1, tzinfo=UTC))
    settings = JwtBearer(issuer=idp.issuer, client_id="bearer", private_key=json.dumps(idp.keys["rsa"]))
    error = fails(settings, clock=clock)
    assert isinstance(error, AccessDenied)
    assert "clock" in error.remedy


def test_a_scope_the_client_may_not_have(idp):
    error = fails(basic(idp, scope="openid"))
    assert isinstance(error, AccessDenied)
    assert "scope" in error.remedy


def test_an_unknown_resource(idp):
    error = fails(basic(idp, resource="urn:unknown"))
    assert isinstance(error, AccessDenied)
    assert "resource" in error.remedy


def test_a_grant_the_client_may_not_use(idp):
    error = fails(dataclasses.replace(basic(idp), client_id="rotating"))
    assert isinstance(error, FlowRunnerError)
    assert "grant" in str(error)


def test_a_revoked_refresh_token(idp):
    refresh_token = idp.consent("steady")
    idp.revoke(refresh_token, "steady")
    error = fails(refreshing(idp, "steady", refresh_token))
    assert isinstance(error, MissingCredential)
    assert error.field == "refresh_token"
    assert refresh_token not in str(error)


def test_a_refresh_token_used_twice_ends_its_family(idp):
    settings, store = refreshing(idp, "rotating", idp.consent("rotating")), MemoryStore()
    first = token_of(oauth(settings, store=store))
    assert isinstance(fails(settings, store=MemoryStore()), MissingCredential)
    assert isinstance(fails(settings, store=store), MissingCredential)
    assert idp.introspect(first) == {"active": False}


# Guarantee 14: a token that ends in mid-run


class Guarded:
    """An API that asks the authorization server about each token, and ends some of them in mid-run."""

    def __init__(self, idp: Idp, client: str) -> None:
        self.idp, self.client, self.end_at, self.served, self.refused = idp, client, set[str](), list[str](), 0

    def __call__(self, request: Request) -> Reply:
        token = request.headers["authorization"].removeprefix("Bearer ")
        if request.path in self.end_at:
            self.end_at.discard(request.path)
            self.idp.revoke(token, self.client)
        if not self.idp.introspect(token)["active"]:
            self.refused += 1
            return Reply(401)
        self.served.append(request.path)
        return Reply(200, b"{}")


def read(server: HttpServer, credentials: OAuthCredentials, *, pages: int, at_once: bool) -> None:
    how = HttpSettings(base_url=server.url, policy=NetPolicy(home=server.url), credentials=credentials)

    async def work() -> None:
        async with HttpTransport(how, Run.alone()) as http:
            paths = [f"/page/{number}" for number in range(pages)]
            if at_once:
                await asyncio.gather(*(http.request("GET", path) for path in paths))
            else:
                for path in paths:
                    await http.request("GET", path)

    asyncio.run(work())


def test_tokens_revoked_at_every_page(idp, http_server):
    http_server.route("GET", "*", api := Guarded(idp, BASIC))
    api.end_at = {f"/page/{number}" for number in range(6)}
    before = idp.token_requests()
    read(http_server, oauth_that_forgets_renewals(basic(idp)), pages=6, at_once=False)
    assert api.served == [f"/page/{number}" for number in range(6)]
    assert (api.refused, idp.token_requests() - before) == (6, 7)


def oauth_that_forgets_renewals(settings: OAuthSettings) -> OAuthCredentials:
    """As if a minute passed between two pages: renewals are not held against each other."""

    class Hasty(ManualClock):
        def monotonic(self) -> float:
            self.advance(20)
            return super().monotonic()

    return oauth(dataclasses.replace(settings, token_timeout=3000.0), clock=Hasty())


def test_100_requests_with_a_revoked_token_are_one_renewal(idp, http_server):
    http_server.route("GET", "*", api := Guarded(idp, BASIC))
    credentials = oauth(basic(idp))
    idp.revoke(token_of(credentials), BASIC)
    before = idp.token_requests()
    read(http_server, credentials, pages=100, at_once=True)
    assert len(api.served) == 100
    assert api.refused > 1
    assert idp.token_requests() - before == 1


def test_an_api_that_wants_no_token_of_ours_is_one_renewal(idp, http_server):
    http_server.route("GET", "*", Reply(401))
    before = idp.token_requests()
    with pytest.raises(AccessDenied):
        read(http_server, oauth(basic(idp)), pages=30, at_once=True)
    assert idp.token_requests() - before <= 2


def test_a_refresh_that_fails_in_mid_run(idp, http_server):
    http_server.route("GET", "*", api := Guarded(idp, "steady"))
    settings = refreshing(idp, "steady", idp.consent("steady"))
    api.end_at = {"/page/2"}  # ends the consent and all its tokens
    with pytest.raises(MissingCredential) as caught:
        read(http_server, oauth(settings), pages=5, at_once=False)
    assert caught.value.field == "refresh_token"
    assert api.served == ["/page/0", "/page/1"]


# Killed around a rotation

KILLED = """
import asyncio, json, os, sys
from pathlib import Path
from flowrunner_provider.transport.oauth import OAuthCredentials
from flowrunner_provider.transport.oauth_settings import RefreshToken

class FileStore:
    def get(self, key):
        path = Path(sys.argv[1], key)
        return json.loads(path.read_text()) if path.exists() else None
    def set(self, key, value):
        partial = Path(sys.argv[1], "partial")
        partial.write_text(json.dumps(value))
        partial.replace(Path(sys.argv[1], key))

credentials = OAuthCredentials(RefreshToken(**json.loads(os.environ["SETTINGS"])), store=FileStore())
print(asyncio.run(credentials.headers())["Authorization"])
"""


def process(settings: RefreshToken, folder: Path, kill_at: str = "") -> subprocess.CompletedProcess[str]:
    rules = [{"point": kill_at, "action": "kill"}] if kill_at else []
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "SETTINGS": json.dumps(dataclasses.asdict(settings)),
            "FLOWRUNNER_FAILPOINTS": json.dumps(rules),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    ("point", "lost"),
    [
        ("oauth.token.before_request", False),
        ("oauth.token.after_answer", True),
        ("oauth.refresh.before_store", True),
        ("oauth.refresh.after_store", False),
    ],
)
def test_killed_around_a_rotation(idp, tmp_path, point, lost):
    settings = refreshing(idp, "rotating", idp.consent("rotating"))
    assert process(settings, tmp_path, point).returncode == -9
    again = process(settings, tmp_path)
    if lost:  # between the answer and the store: this server forgives nothing, and we say so
        assert "MissingCredential" in again.stderr
        assert "consent again" in again.stderr
    else:
        assert idp.introspect(again.stdout.strip().removeprefix("Bearer "))["active"]
    for secret in (settings.refresh_token, SECRET, base64.b64encode(SECRET.encode()).decode()):
        assert secret not in again.stderr
