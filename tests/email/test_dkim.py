"""Signed mails, judged by dkimpy's own verifier with the key from a DNS of our own."""

from __future__ import annotations

import email
import email.policy
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from flowrunner_provider.core.errors import ConfigError, MissingCredential, MissingExtra
from flowrunner_provider.email.dkim import DkimSigner
from flowrunner_provider.email.hook import FlowRunnerSmtpHook
from tests.email.support import BatchScene, Scene, connect, people, send, send_batch
from tests.support.kill import attempt, kill_at
from tests.support.smtp_sink import SmtpSink

KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def pem(kind: Any = serialization.PrivateFormat.PKCS8) -> str:
    return KEY.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


def dns(name: bytes, timeout: float = 5) -> bytes | None:
    """What the domain's DNS would say."""
    import base64

    public = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    known = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    return known if name.rstrip(b".") == b"s1._domainkey.example.com" else None


def verified(data: bytes) -> bool:
    return bool(dkim.verify(data, dnsfunc=dns))


def options(**more: str) -> dict[str, Any]:
    return {"flowrunner": {"dkim_domain": "example.com", "dkim_selector": "s1", "dkim_private_key": pem(), **more}}


@pytest.fixture
def scene(tmp_path: Path, smtp_sink: SmtpSink) -> Scene:
    connect(smtp_sink, **options())
    (tmp_path / "scene").mkdir()
    return Scene(tmp_path / "scene", smtp_sink.directory)


def test_a_mail_is_signed_and_any_change_shows(scene: Scene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(bytes(range(256)) * 50)
    send(
        scene, subject="Größe " + "ä" * 90, attachments=[str(tmp_path / "a.csv")], cc="c@example.com",
        headers={"List-Unsubscribe": "<https://example.com/u>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
    )  # fmt: skip
    data = smtp_sink.mails()[0].data
    assert verified(data)
    signed = smtp_sink.mails()[0].message["DKIM-Signature"].lower()
    for name in ("from : ", "list-unsubscribe : ", "list-unsubscribe-post : ", "message-id", "date : ", "cc : "):
        assert name in " ".join(signed.split()), name
    for old, new in (
        (b"example.com", b"example.org"), (b"Good morning", b"Good evening"), (b"Subject: ", b"Subject: x"),
        (b"Message-ID: ", b"Message-ID: x"), (b"To: ", b"From: evil@example.com\r\nTo: "), (b"u>", b"v>"),
    ):  # fmt: skip
        at = data.index(old, data.index(b"\r\nFrom: "))
        assert not verified(data[:at] + new + data[at + len(old) :]), old


def test_the_same_bytes_again(scene: Scene, smtp_sink: SmtpSink) -> None:
    resent = Scene(scene.directory, scene.mailbox, {"on_unknown": "resend"})
    assert attempt(send, resent, rules=[kill_at("email.send.after_data")]).killed
    assert attempt(send, resent, try_number=2).ok
    first, second = smtp_sink.mails()
    assert first.data == second.data
    assert verified(first.data)


def test_a_batch_is_signed(tmp_path: Path, smtp_sink: SmtpSink) -> None:
    connect(smtp_sink, **options())
    (tmp_path / "scene").mkdir()
    send_batch(BatchScene(tmp_path / "scene", smtp_sink.directory, people(3)))
    assert [verified(mail.data) for mail in smtp_sink.mails()] == [True] * 3


@pytest.mark.parametrize("form", ["traditional", "pkcs8", "crlf", "escaped"])
def test_keys_in_every_usual_form(form: str) -> None:
    key = pem(
        serialization.PrivateFormat.TraditionalOpenSSL if form == "traditional" else serialization.PrivateFormat.PKCS8
    )
    key = key.replace("\n", {"crlf": "\r\n", "escaped": "\\n"}.get(form, "\n"))
    message = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: x\r\n\r\ntext\r\n"
    sealed = DkimSigner(domain="example.com", selector="s1", private_key=key)(message, DATE)
    assert verified(sealed)
    assert sealed.endswith(message)
    assert (
        f"t={int(DATE.timestamp())}" in email.message_from_bytes(sealed, policy=email.policy.default)["DKIM-Signature"]
    )
    assert key[40:60] not in repr(DkimSigner(domain="example.com", selector="s1", private_key=key))


def test_headers_that_the_transport_rewrites_are_not_signed() -> None:
    signer = DkimSigner(
        domain="example.com", selector="s1", private_key=pem(), rewrites=frozenset({"message-id", "date"})
    )
    data = signer(b"From: a@example.com\r\nDate: x\r\nMessage-ID: <1@x>\r\nSubject: s\r\n\r\ntext\r\n", DATE)
    assert verified(data.replace(b"<1@x>", b"<2@x>").replace(b"Date: x", b"Date: y"))


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"dkim_private_key": "no key"}, "dkim_private_key"),
        ({"dkim_private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, "dkim_private_key"),
        ({"dkim_domain": "exam ple.com"}, "dkim_domain"),
        ({"dkim_selector": "s1; h=x"}, "dkim_selector"),
    ],
)
def test_bad_settings_are_named_before_anything_is_sent(
    scene: Scene, smtp_sink: SmtpSink, more: dict[str, str], field: str
) -> None:
    connect(smtp_sink, **options(**more))
    with pytest.raises(ConfigError) as caught:
        send(scene)
    assert caught.value.field == field
    assert smtp_sink.sessions == 0


def test_half_of_it_is_named(smtp_sink: SmtpSink) -> None:
    connect(smtp_sink, flowrunner={"dkim_domain": "example.com", "dkim_selector": "s1"})
    with pytest.raises(MissingCredential, match="dkim_private_key"):
        _ = FlowRunnerSmtpHook("smtp_default").config


def test_the_key_is_nowhere(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    result = send(scene)
    from flowrunner_provider.runtime.masking import redact

    lines = [line for line in pem().splitlines() if "KEY" not in line and len(line) >= 16]  # a short end tells nothing
    shown = redact("\n".join(lines)) + str(result) + "".join(capfd.readouterr()) + str(scene.state.items())
    assert not any(line in shown for line in lines)


def test_a_missing_package_is_named(scene: Scene, monkeypatch: pytest.MonkeyPatch, smtp_sink: SmtpSink) -> None:
    monkeypatch.setitem(sys.modules, "dkim", None)
    with pytest.raises(MissingExtra, match=r"\[dkim\]"):
        send(scene)
    assert smtp_sink.sessions == 0
