"""The connection: TLS that fails closed, logins, tokens, deadlines, and what a server's refusals become."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    NotFound,
    Rejected,
    SecurityError,
    Throttled,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.email.hooks.imap import FlowRunnerImapHook
from flowrunner_provider.email.mailbox.imap_config import ImapConfig, official_imap_values
from flowrunner_provider.email.mailbox.imap_errors import typed
from flowrunner_provider.runtime.masking import redact
from tests.email.mailboxes import mail, reading, run
from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.dovecot import PASSWORD, Dovecot, Mailbox, dovecot
from tests.support.oidc import SECRET, Idp
from tests.support.tls import Tls

pytestmark = pytest.mark.backend


@pytest.fixture
def box(dovecot: Dovecot) -> Mailbox:
    return dovecot.mailbox()


def checked() -> str:
    return FlowRunnerImapHook("mailbox").check()


@pytest.mark.parametrize(("security", "seen"), [("tls", "TLS"), ("starttls", "TLS"), ("plain", "NOT encrypted")])
def test_ways_to_connect(box: Mailbox, security: str, seen: str) -> None:
    box.connection(security=security)
    text = checked()
    assert seen in text
    assert box.login in text
    box.put(mail("one"))
    assert run(reading())["messages"] == 1


def test_the_official_connection_works_unchanged(box: Mailbox) -> None:
    """host, port, login, password, use_ssl, ssl_context; an untrusted certificate only with ``none``."""
    box.connection(extra={"use_ssl": "true", "ssl_context": "none"}, options={"ca_file": ""})
    assert "NOT verified" in checked()
    box.connection(security="starttls", extra={"use_ssl": False})
    assert "certificate verified" in checked()
    assert official_imap_values({"use_ssl": False}) == {"security": "starttls", "verify": True}


@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_an_untrusted_certificate_ends_it_before_the_password(box: Mailbox, security: str, tmp_path: Path) -> None:
    stranger = Tls.create(tmp_path)
    box.connection(security=security, options={"ca_file": str(stranger.ca_file)})
    with pytest.raises(SecurityError, match="not trusted"):
        checked()
    box.connection(security=security, host="localhost.localdomain")
    with pytest.raises((SecurityError, ConnectionLost)):
        checked()


def test_a_stripped_starttls_ends_it_before_the_password(tls: Tls) -> None:
    from tests.support.loop import LoopThread

    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready\r\n")
        while line := await reader.readline():
            heard.append(line)
            tag = line.split()[0]
            writer.write(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + tag + b" OK done\r\n")
        writer.close()

    loop = LoopThread("imap")
    loop.start()
    server = loop.run(asyncio.start_server(serve, "127.0.0.1", 0))
    try:
        value = {
            "conn_type": "imap", "host": "127.0.0.1", "port": server.sockets[0].getsockname()[1],
            "login": "u", "password": PASSWORD, "extra": {"use_ssl": False},
        }  # fmt: skip
        os.environ["AIRFLOW_CONN_MAILBOX"] = json.dumps(value)
        with pytest.raises(SecurityError, match="STARTTLS"):
            checked()
        assert not [line for line in heard if b"AUTH" in line or b"LOGIN" in line]
    finally:
        loop.end(server)
        loop.close()


def test_a_wrong_password(box: Mailbox) -> None:
    box.connection(password="canary-wrong-4711")
    with pytest.raises(AccessDenied) as caught:
        checked()
    assert "canary" not in redact(str(caught.value))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"port": 70_000}, "port"),
        ({"timeout": 0.0}, "timeout"),
        ({"login": "a\r\nb"}, "login"),
        ({"oauth": {"token_url": "https://x"}}, "auth"),
        ({"auth_type": "oauth2"}, "access_token"),
        ({"auth": "oauth2_client_credentials", "oauth": {"client_id": "x"}}, "token_url"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImapConfig(**{"host": "x", "login": "u", "password": "p", **values})
    assert caught.value.field == field


@pytest.mark.parametrize("extra", [{"use_ssl": "perhaps"}, {"ssl_context": "lax"}])
def test_official_extras_that_cannot_be_read(extra: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        official_imap_values(extra)
    assert caught.value.field in extra


@pytest.mark.parametrize("missing", [{"login": ""}, {"password": ""}, {"conn_type": "smtp"}])
def test_a_connection_that_lacks_something(box: Mailbox, missing: dict[str, str]) -> None:
    box.connection(**missing)
    with pytest.raises(ConfigError) as caught:
        checked()
    assert caught.value.field == next(iter(missing))


def test_a_missing_package_is_told_with_its_remedy(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    box.connection()
    for name in ("imapclient", "imapclient.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"\[imap\]"):
        checked()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("[NONEXISTENT] gone", NotFound),
        ("[TRYCREATE] no folder", NotFound),
        ("[NOPERM] no", AccessDenied),
        ("[AUTHENTICATIONFAILED] no", AccessDenied),
        ("[UNAVAILABLE] later", Unavailable),
        ("[INUSE] busy", Unavailable),
        ("[LIMIT] slow down", Throttled),
        ("Too many simultaneous connections", Throttled),
        ("[OVERQUOTA] full", FlowRunnerError),
        ("[BADCHARSET (US-ASCII)] no", Rejected),
        ("whatever", Rejected),
    ],
)
def test_what_a_refusal_becomes(reply: str, error: type[FlowRunnerError]) -> None:
    from imapclient.exceptions import IMAPClientError

    with pytest.raises(error) as caught, typed("copy to 'x' on", "mail.test"):
        raise IMAPClientError(f"copy failed: {reply}")
    assert caught.value.remedy
    if error is not FlowRunnerError:
        assert type(caught.value) is error


# -- time


@pytest.fixture
def behind(box: Mailbox, chaos: Callable[[str, int], ChaosProxy]) -> ChaosProxy:
    proxy = chaos("127.0.0.1", box.ports["imaps"])
    box.connection(port=proxy.port, options={"timeout": 0.5})
    return proxy


@pytest.mark.parametrize("after", [10, 400, 1_500])
def test_a_server_that_falls_silent_ends_in_time(behind: ChaosProxy, after: int) -> None:
    """GAPS: no socket had a time-out."""
    behind.toxics = Toxics(cut_down=after, blackhole_down=after < 100)
    with pytest.raises((TimedOut, ConnectionLost, SecurityError)):
        checked()


def test_a_connection_that_breaks_is_made_anew(
    box: Mailbox, chaos: Callable[[str, int], ChaosProxy], tmp_path: Path
) -> None:
    """In the middle of an attachment: it goes on where it was, in the same attempt."""
    data = os.urandom(3_000_000)
    box.put(mail("one", ("a.bin", data)))
    proxy = chaos("127.0.0.1", box.ports["imaps"])
    box.connection(port=proxy.port)
    proxy.toxics = Toxics(cut_down=2_000_000, rst=True, connections=1)
    result = run(reading(save_attachments_to=str(tmp_path), after="mark_seen"))
    assert Path(result["rows"][0]["attachments"][0]["path"]).read_bytes() == data
    assert box.uids(criteria="SEEN") == [1]


def test_a_server_that_never_answers(tls: Tls) -> None:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        value = {
            "conn_type": "imap", "host": "127.0.0.1", "port": listening.getsockname()[1], "login": "u",
            "password": "p", "extra": {"flowrunner": {"timeout": 0.3}},
        }  # fmt: skip
        os.environ["AIRFLOW_CONN_MAILBOX"] = json.dumps(value)
        began = time.monotonic()
        with pytest.raises(TimedOut):
            checked()
        assert time.monotonic() - began < 5


def test_a_cancelled_call_leaves_no_thread(box: Mailbox) -> None:
    import threading

    box.connection()
    connect = FlowRunnerImapHook("mailbox").connector()

    async def cancelled() -> None:
        session = await connect(Deadline(30))
        session._client.socket().setblocking(True)  # type: ignore[union-attr]
        # IDLE answers nothing until something happens.
        task = asyncio.create_task(session._do("idle on", lambda: session._client._imap._get_line()))  # type: ignore[union-attr]
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    end = time.monotonic() + 5
    while time.monotonic() < end and [t for t in threading.enumerate() if t.name.startswith("imap_")]:
        time.sleep(0.01)
    assert not [t for t in threading.enumerate() if t.name.startswith("imap_")]


# -- tokens


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idp]:
    from tests.support.oidc import idp

    with idp(tmp_path_factory.mktemp("idp")) as server:
        yield server


@pytest.fixture(scope="module")
def tokens(tls: Tls, idp: Idp) -> Iterator[Dovecot]:
    """A Dovecot that asks the OAuth server whether a token is good; the login is the client's id."""
    address = f"http://inspector:{quote(quote_plus(SECRET), safe='')}@{idp.issuer.removeprefix('http://')}/token/introspection"
    with dovecot(tls, introspection=address) as server:
        yield server


def oauth_connection(tokens: Dovecot, idp: Idp, **oauth: Any) -> None:
    client = {"client_id": "post", "client_secret": SECRET, "client_auth": "client_secret_post", "scope": "api.read"}
    tokens.mailbox("post").connection(
        password="",
        options={"auth": "oauth2_client_credentials", "oauth": {"token_url": idp.token_url, **client, **oauth}},
    )


def test_xoauth2_with_a_grant(tokens: Dovecot, idp: Idp) -> None:
    oauth_connection(tokens, idp)
    assert "logged in as post" in checked()
    asked = idp.token_requests()
    checked()
    assert idp.token_requests() == asked, "the token is used again"


def test_xoauth2_with_a_token_that_was_revoked_meanwhile(tokens: Dovecot, idp: Idp) -> None:
    """Refused once, renewed once."""
    oauth_connection(tokens, idp)
    hook = FlowRunnerImapHook("mailbox")
    connector: Any = hook.connector()

    async def token() -> str:
        return str((await connector._credentials.headers())["Authorization"]).removeprefix("Bearer ")

    async def opened() -> str:
        session = await connector(Deadline(20))
        await session.close()
        return await token()

    first = asyncio.run(token())
    idp.revoke(first, "post")
    assert asyncio.run(opened()) != first


def test_xoauth2_with_a_token_that_was_given(tokens: Dovecot, idp: Idp) -> None:
    import requests

    form = {"grant_type": "client_credentials", "client_id": "post", "client_secret": SECRET, "scope": "api.read"}
    token = requests.post(idp.token_url, data=form, timeout=10).json()["access_token"]
    given = {"auth_type": "oauth2", "access_token": token}
    tokens.mailbox("post").connection(password="", extra=given)
    assert "logged in" in checked()
    tokens.mailbox("mallory").connection(password="", extra=given)
    with pytest.raises(AccessDenied):
        checked()
    tokens.mailbox("post").connection(password="", extra={**given, "access_token": f"{token}x"})
    with pytest.raises(AccessDenied) as caught:
        checked()
    assert token not in redact(str(caught.value))
