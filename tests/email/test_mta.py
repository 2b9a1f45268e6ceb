"""A batch through a real Postfix, with STARTTLS and a login, into a real Dovecot; read back by the standard library."""

from __future__ import annotations

import email
import email.policy
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from flowrunner_provider.core.errors import AccessDenied, OutcomeUnknown, PartialFailure
from flowrunner_provider.email.hook import FlowRunnerSmtpHook
from flowrunner_provider.email.smtp_line import SmtpLine
from tests.email.support import BatchScene, Scene, report, send, send_batch
from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.dovecot import PASSWORD, Dovecot, Mailbox, dovecot
from tests.support.kill import attempt, kill_at
from tests.support.oidc import SECRET, Idp
from tests.support.postfix import Postfix, postfix
from tests.support.tls import Tls

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def mta(dovecot: Dovecot) -> Iterator[Postfix]:
    with postfix(dovecot) as server:
        yield server


def connect(mta: Postfix, ca_file: Path, login: str, *, port: int = 0, password: str = PASSWORD, **extra: Any) -> None:
    options = {"ca_file": str(ca_file), **extra.pop("flowrunner", {})}
    value = {
        "conn_type": "smtp", "host": "127.0.0.1", "port": port or mta.starttls, "login": login, "password": password,
        "extra": {"disable_ssl": True, "from_email": "Röbot <robot@example.com>", "flowrunner": options, **extra},
    }  # fmt: skip
    os.environ["AIRFLOW_CONN_SMTP_DEFAULT"] = json.dumps(value)


def read(box: Mailbox) -> list[Any]:
    """Every message of the mailbox, parsed by another parser than ours."""
    with box.client() as client:
        client.select("INBOX", readonly=True)
        numbers = client.uid("SEARCH", "ALL")[1][0].split()  # type: ignore[no-untyped-call]
        raw: list[Any] = [client.uid("FETCH", number, "(BODY.PEEK[])")[1] for number in numbers]  # type: ignore[no-untyped-call]
    return [email.message_from_bytes(answer[0][1], policy=email.policy.default) for answer in raw]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the mail did not arrive"
        time.sleep(0.05)


@pytest.fixture
def boxes(dovecot: Dovecot) -> list[Mailbox]:
    return [dovecot.mailbox() for _ in range(8)]


def rows(boxes: list[Mailbox]) -> list[dict[str, Any]]:
    return [{"id": n, "email": box.login, "name": f"Zoë {n}, Dr."} for n, box in enumerate(boxes)]


def test_everybody_has_one_and_refusals_are_told_apart(
    mta: Postfix, dovecot: Dovecot, boxes: list[Mailbox], tmp_path: Path
) -> None:
    connect(mta, dovecot.tls.ca_file, boxes[0].login)
    data, name = os.urandom(50_000), "Übersicht – März.pdf"
    (tmp_path / name).write_bytes(data)
    people = rows(boxes)
    people[3:3] = [
        {"id": 98, "email": "never@example.com", "name": "N"},
        {"id": 99, "email": "later@example.com", "name": "L"},
    ]
    (tmp_path / "scene").mkdir()
    scene = BatchScene(
        tmp_path / "scene", tmp_path, people,
        {"to_name": "name", "html": "<p>Grüße, {{ name }}</p>\n.\n<p>Ende</p>", "attachments": [str(tmp_path / name)]},
    )  # fmt: skip
    for _ in range(2):  # the second attempt sends nobody a second one
        with pytest.raises(PartialFailure) as caught:
            send_batch(scene)
        assert (caught.value.done, caught.value.retryable) == (8, True)
        assert {row: why[:9] for row, why in caught.value.failed.items()} == {"3": "550 5.1.1", "4": "451 4.7.1"}
        until(lambda: all(box.uids() for box in boxes))
    known = {line["address"]: line["message_id"] for line in report(scene)}
    for row, box in zip(rows(boxes), boxes, strict=True):
        (message,) = read(box)
        assert message["Message-ID"] == known[box.login]
        assert message["Subject"] == f"Hello {row['name']}"
        assert message["To"].addresses[0].display_name == row["name"]
        assert message["From"].addresses[0].display_name == "Röbot"
        assert (
            message.get_body(("html",)).get_content().replace("\r", "")
            == f"<p>Grüße, {row['name']}</p>\n.\n<p>Ende</p>\n"
        )
        (part,) = message.iter_attachments()
        assert (part.get_filename(), part.get_content_type(), part.get_content()) == (name, "application/pdf", data)


@pytest.mark.faults
def test_killed_and_resent(mta: Postfix, dovecot: Dovecot, boxes: list[Mailbox], tmp_path: Path) -> None:
    connect(mta, dovecot.tls.ca_file, boxes[0].login)
    (tmp_path / "scene").mkdir()
    scene = BatchScene(tmp_path / "scene", tmp_path, rows(boxes), {"on_unknown": "resend", "concurrency": 2})
    assert attempt(send_batch, scene, rules=[kill_at("email.send_batch.after_data", 4)]).killed
    outcome = attempt(send_batch, scene, try_number=2)
    assert outcome.ok, outcome.error
    until(lambda: all(box.uids() for box in boxes))
    found = [box.message_ids() for box in boxes]
    assert all(len(set(ids)) == 1 for ids in found)
    assert sum(map(len, found)) - len(boxes) <= 2, "more copies than were on the wire"


@contextmanager
def silent_at_the_end(proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server gets the final dot, and its reply is held back; then the connection is gone."""
    write = SmtpLine.write

    async def silenced(self: SmtpLine, message: bytes, timeout: float) -> None:
        proxy.toxics = Toxics(blackhole_down=True)
        await write(self, message, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(SmtpLine, "write", silenced)
        yield
    proxy.reset()


@pytest.mark.faults
@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
def test_a_reply_that_never_comes(
    mta: Postfix, dovecot: Dovecot, tmp_path: Path, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = dovecot.mailbox()
    (tmp_path / "scene").mkdir()
    scene = Scene(tmp_path / "scene", tmp_path, {"to": box.login, "on_unknown": choice})
    with ChaosProxy("127.0.0.1", mta.starttls) as proxy:
        connect(mta, dovecot.tls.ca_file, box.login, port=proxy.port, flowrunner={"reply_timeout": 1.0})
        with silent_at_the_end(proxy, monkeypatch), pytest.raises(OutcomeUnknown) as caught:
            send(scene)
        until(lambda: bool(box.uids()))
        assert box.message_ids()[0] in caught.value.message
        if choice == "stop":
            with pytest.raises(OutcomeUnknown):
                send(scene)
        else:
            assert send(scene)["unknown"] == (1 if choice == "skip" else 0)
    copies = 2 if choice == "resend" else 1
    until(lambda: len(box.uids()) == copies)
    assert len(set(box.message_ids())) == 1


def test_starttls_fails_closed(mta: Postfix, dovecot: Dovecot, tls: Tls) -> None:
    """Without the authority's certificate, and without the offer: no login is ever sent."""
    box = dovecot.mailbox()
    connect(mta, Path("/etc/ssl/certs/ca-certificates.crt"), box.login)
    ok, message = FlowRunnerSmtpHook("smtp_default").test_connection()
    assert not ok
    assert "not trusted" in message
    connect(mta, dovecot.tls.ca_file, box.login, password="canary-wrong-7f3e")
    with pytest.raises(AccessDenied) as caught:
        FlowRunnerSmtpHook("smtp_default").check()
    assert "canary" not in str(caught.value)
    connect(mta, dovecot.tls.ca_file, box.login)
    ok, message = FlowRunnerSmtpHook("smtp_default").test_connection()
    assert ok, message
    assert "certificate verified" in message


# XOAUTH2: Postfix asks Dovecot, and Dovecot a real OAuth server


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idp]:
    from tests.support.oidc import idp

    with idp(tmp_path_factory.mktemp("idp")) as server:
        yield server


def test_xoauth2(tls: Tls, idp: Idp, tmp_path: Path) -> None:
    """A good token sends; one of somebody else, an altered one and a revoked one do not."""
    import requests

    inspector = f"http://inspector:{quote(quote_plus(SECRET), safe='')}@{idp.issuer.removeprefix('http://')}"
    form = {"grant_type": "client_credentials", "client_id": "post", "client_secret": SECRET, "scope": "api.read"}
    token = requests.post(idp.token_url, data=form, timeout=10).json()["access_token"]
    with dovecot(tls, introspection=f"{inspector}/token/introspection") as verifier, postfix(verifier) as server:

        def given(login: str, text: str) -> FlowRunnerSmtpHook:
            connect(server, tls.ca_file, login, password="", auth_type="oauth2", access_token=text)
            return FlowRunnerSmtpHook("smtp_default")

        assert "logged in as post" in given("post", token).check()
        box = verifier.mailbox()
        (tmp_path / "scene").mkdir()
        assert send(Scene(tmp_path / "scene", tmp_path, {"to": box.login}))["accepted"] == 1
        until(lambda: bool(box.uids()))
        for login, text in (("mallory", token), ("post", f"{token}x")):
            with pytest.raises(AccessDenied) as caught:
                given(login, text).check()
            assert token not in str(caught.value)
        idp.revoke(token, "post")
        with pytest.raises(AccessDenied):
            given("post", token).check()
