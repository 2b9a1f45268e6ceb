"""The transport against a real server: TLS, login, and what each phase of a failure means."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    MissingCredential,
    OutcomeUnknown,
    Rejected,
    SecurityError,
    Throttled,
    TimedOut,
)
from flowrunner_provider.email.config import SmtpConfig
from flowrunner_provider.email.message import build, compose
from flowrunner_provider.email.smtp import SmtpTransport
from tests.email.test_message import DATE
from tests.support.loop import LoopThread
from tests.support.smtp_sink import AfterData, SmtpSink
from tests.support.tls import Tls

MAIL = compose(sender="robot@example.com", to=["a@example.com", "b@example.com"], subject="s", text=".\n..dots\n.\n")


def config(sink: Any, **changes: Any) -> SmtpConfig:
    return SmtpConfig(**{"host": sink.host, "port": sink.port, "security": "plain", "timeout": 3.0, **changes})


def post(given: SmtpConfig, mail: Any = MAIL, seconds: float = 10.0) -> dict[str, str]:
    """Send ``mail``; the refused recipients and why."""

    async def work() -> dict[str, str]:
        data = build(mail, "<key@example.com>", DATE)
        envelope = await SmtpTransport(given).envelope(mail, mail.recipients, len(data), Deadline(seconds))
        try:
            if len(envelope.refused) < len(mail.recipients):
                await envelope.data(data)
        finally:
            await envelope.close()
        return {who: str(why) for who, why in envelope.refused.items()}

    return asyncio.run(work())


def test_what_arrives_is_what_was_built(smtp_sink: SmtpSink) -> None:
    assert post(config(smtp_sink)) == {}
    (mail,) = smtp_sink.mails()
    assert mail.data == build(MAIL, "<key@example.com>", DATE)
    assert (mail.sender, mail.recipients) == ("robot@example.com", MAIL.recipients)


def test_a_large_mail_arrives_whole(smtp_sink: SmtpSink) -> None:
    large = compose(sender="r@example.com", to="a@example.com", subject="s", text=("." + "x" * 70 + "\n") * 60_000)
    assert post(config(smtp_sink), large) == {}
    assert smtp_sink.mails()[0].data == build(large, "<key@example.com>", DATE)


def test_each_recipient_has_an_outcome(smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse = {"a@example.com": "550 5.1.1 no such user"}
    assert post(config(smtp_sink)) == {"a@example.com": "550 5.1.1 no such user"}
    assert smtp_sink.mails()[0].recipients == ("b@example.com",)


@pytest.mark.parametrize(
    ("after", "error", "kept"),
    [
        (AfterData.DROP, OutcomeUnknown, 1),
        (AfterData.LOSE, OutcomeUnknown, 0),
        (AfterData.HANG, OutcomeUnknown, 1),
        ("452 4.3.1 full", Throttled, 0),
        ("421 4.3.2 going down", Throttled, 0),
        ("554 5.6.0 content refused", Rejected, 0),
    ],
)
def test_after_the_final_dot(smtp_sink: SmtpSink, after: Any, error: type[FlowRunnerError], kept: int) -> None:
    smtp_sink.after_data = [after]
    with pytest.raises(error) as caught:
        post(config(smtp_sink, reply_timeout=0.4))
    assert len(smtp_sink.mails()) == kept
    assert f"{smtp_sink.host}:{smtp_sink.port}" in str(caught.value)
    if isinstance(caught.value, Rejected):
        assert (caught.value.status, caught.value.code) == (554, "5.6.0")


def test_starttls_login_and_a_private_authority(tmp_path: Path, tls: Tls) -> None:
    context = tls.server_context()
    with SmtpSink(tmp_path / "mail", tls=context, starttls=True, users={"user": "pass-word"}) as sink:
        good = {"host": "localhost", "security": "starttls", "login": "user", "ca_file": str(tls.ca_file)}
        assert post(config(sink, **good, password="pass-word")) == {}
        with pytest.raises(AccessDenied, match="535"):
            post(config(sink, **good, password="wrong-word"))
        with pytest.raises(SecurityError, match="not trusted"):
            post(config(sink, **{**good, "ca_file": ""}, password="pass-word"))
        other = Tls.create(tmp_path)
        with pytest.raises(SecurityError, match="not trusted"):
            post(config(sink, **{**good, "ca_file": str(other.ca_file)}, password="pass-word"))
        with pytest.raises(MissingCredential):
            post(config(sink, **{**good, "login": ""}))
        with pytest.raises(ConfigError, match="cannot be read"):
            post(config(sink, **{**good, "ca_file": "/nowhere"}, password="pass-word"))
        assert post(config(sink, **{**good, "ca_file": "", "verify": False}, password="pass-word")) == {}
        assert len(sink.mails()) == 2


def test_a_wrong_host_name_is_not_trusted(tmp_path: Path, tls: Tls) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.ca.issue_cert("wrong.test").configure_cert(context)
    with SmtpSink(tmp_path / "mail", tls=context) as sink:
        with pytest.raises(SecurityError, match="not trusted"):
            post(config(sink, host="localhost", security="starttls", ca_file=str(tls.ca_file)))
        assert sink.mails() == []


def test_stripped_starttls_is_refused_before_the_password(smtp_sink: SmtpSink) -> None:
    with pytest.raises(SecurityError, match="STARTTLS"):
        post(config(smtp_sink, security="starttls", login="u", password="secret-word"))
    assert smtp_sink.mails() == []


def test_tls_to_a_plain_server_fails_closed(smtp_sink: SmtpSink) -> None:
    with pytest.raises(SecurityError, match="no TLS"):
        post(config(smtp_sink, security="tls"))


@contextmanager
def scripted(answer: Callable[[str], str | None], *, tls: ssl.SSLContext | None = None) -> Iterator[Any]:
    """A server of a few lines: ``answer(line)`` is its reply, None to hang up, "" to say nothing."""
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = "connect"
        while (reply := answer(line)) is not None:
            if reply:
                writer.write(reply.encode() + b"\r\n")
            line = (await reader.readline()).decode(errors="replace").strip()
            heard.append(line)
            if not line and reader.at_eof():
                break
        writer.close()

    loop = LoopThread("scripted")
    loop.start()
    server = loop.run(asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls))  # type: ignore[arg-type]
    try:
        yield type("Scripted", (), {"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1], "heard": heard})
    finally:
        loop.end(server)
        loop.close()


def replies(changes: dict[str, str | None]) -> Callable[[str], str | None]:
    usual: dict[str, str | None] = {
        "connect": "220 hi", "EHLO": "250-hi\r\n250-SIZE 9999\r\n250 AUTH PLAIN LOGIN XOAUTH2", "MAIL": "250 ok",
        "RCPT": "250 ok", "DATA": "354 go", ".": "250 ok", "QUIT": "221 bye", "AUTH": "235 ok", "NOOP": "250 ok",
    }  # fmt: skip
    table = {**usual, **changes}
    return lambda line: table.get(line.split(" ")[0], "")


OPENING: list[tuple[dict[str, str | None], type[FlowRunnerError]]] = [
    ({"connect": None}, ConnectionLost),
    ({"connect": ""}, TimedOut),
    ({"connect": "554 go away"}, Rejected),
    ({"connect": "421 too many connections"}, Throttled),
    ({"connect": "HTTP/1.1 400 Bad Request"}, ConnectionLost),
    ({"EHLO": None}, ConnectionLost),
    ({"EHLO": ""}, TimedOut),
    ({"EHLO": "250-hi\r\n250 SIZE 10"}, Rejected),
]
PHASES: list[tuple[dict[str, str | None], type[FlowRunnerError]]] = [
    ({"MAIL": "451 4.3.0 later"}, Throttled),
    ({"MAIL": "553 5.1.8 bad sender"}, Rejected),
    ({"MAIL": "530 5.7.0 authentication required"}, MissingCredential),
    ({"MAIL": None}, ConnectionLost),
    ({"RCPT": "421 4.7.0 bye"}, Throttled),
    ({"RCPT": None}, ConnectionLost),
    ({"DATA": "451 4.3.0 later"}, Throttled),
    ({"DATA": "554 5.5.1 no valid recipients"}, Rejected),
    ({"DATA": None}, ConnectionLost),
    ({"DATA": ""}, TimedOut),
    ({".": None}, OutcomeUnknown),
    ({".": ""}, OutcomeUnknown),
    ({".": "nonsense"}, OutcomeUnknown),
    ({".": "999 what"}, OutcomeUnknown),
]


@pytest.mark.parametrize(("changes", "error"), [*OPENING, *PHASES])
def test_what_is_known_in_each_phase(changes: dict[str, str | None], error: type[FlowRunnerError]) -> None:
    patience = 0.3 if "" in changes.values() else 5.0
    with scripted(replies(changes)) as server, pytest.raises(error) as caught:
        post(config(server, timeout=patience, reply_timeout=patience))
    assert type(caught.value) is error
    assert caught.value.remedy or error is OutcomeUnknown


def test_a_drop_within_the_message_is_known_not_sent() -> None:
    seen = 0

    def answer(line: str) -> str | None:
        nonlocal seen
        seen += line.startswith("xxx")
        return None if seen > 100 else replies({"EHLO": "250 hi"})(line)

    large = compose(sender="r@example.com", to="a@example.com", subject="s", text=("x" * 70 + "\n") * 200_000)
    with scripted(answer) as server, pytest.raises(ConnectionLost):
        post(config(server), large)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"login": "u", "password": "p-word"}, "AUTH PLAIN " + base64.b64encode(b"\0u\0p-word").decode()),
        (
            {"login": "u", "auth_type": "oauth2", "access_token": "tok"},
            "AUTH XOAUTH2 " + base64.b64encode(b"user=u\x01auth=Bearer tok\x01\x01").decode(),
        ),
    ],
)
def test_one_login_with_the_right_mechanism(changes: dict[str, Any], line: str) -> None:
    with scripted(replies({})) as server:
        assert post(config(server, **changes)) == {}
        assert [heard for heard in server.heard if heard.startswith("AUTH")] == [line]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("535 5.7.8 no", AccessDenied),
        ("454 4.7.0 later", Throttled),
        (None, ConnectionLost),
        ("534 weak", AccessDenied),
    ],
)
def test_a_refused_login_is_tried_once(reply: str | None, error: type[FlowRunnerError]) -> None:
    with scripted(replies({"AUTH": reply})) as server:
        with pytest.raises(error) as caught:
            post(config(server, login="u", password="secret-word"))
        assert len([heard for heard in server.heard if heard.startswith("AUTH")]) == 1
    assert "secret-word" not in str(caught.value)


def test_a_server_without_login() -> None:
    with scripted(replies({"EHLO": "250-hi\r\n250 AUTH CRAM-MD5"})) as server:
        with pytest.raises(ConfigError, match="PLAIN or LOGIN") as caught:
            post(config(server, login="u", password="p-word"))
        assert caught.value.field == "auth_type"


def test_implicit_tls(tls: Tls) -> None:
    with scripted(replies({}), tls=tls.server_context()) as server:
        assert post(config(server, security="tls", ca_file=str(tls.ca_file))) == {}
        with pytest.raises(SecurityError):
            post(config(server, security="tls"))


def test_the_deadline_of_the_task_wins(smtp_sink: SmtpSink) -> None:
    smtp_sink.after_data = [AfterData.HANG]
    with pytest.raises(OutcomeUnknown):
        post(config(smtp_sink), seconds=0.7)


def test_smtputf8_only_where_the_server_knows_it(smtp_sink: SmtpSink) -> None:
    mail = compose(sender="r@example.com", to="jörg@example.com", subject="s", text="t")
    assert post(config(smtp_sink), mail) == {}
    assert smtp_sink.mails()[0].recipients == ("jörg@example.com",)
    with scripted(replies({})) as server, pytest.raises(Rejected, match="jörg"):
        post(config(server), mail)
