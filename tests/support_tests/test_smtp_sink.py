"""The SMTP sink keeps what it accepts and fails as it is told."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.support.smtp_sink import AfterData, SmtpSink
from tests.support.tls import Tls


def mail(subject: str = "hello") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", subject
    message["Message-ID"] = f"<{subject}@example.com>"
    message.set_content("body\n.dot\n")
    return message


def client(sink: SmtpSink, timeout: float = 5.0) -> smtplib.SMTP:
    return smtplib.SMTP(sink.host, sink.port, timeout=timeout)


def test_accepted_mail_is_kept_as_it_came(smtp_sink: SmtpSink) -> None:
    with client(smtp_sink) as smtp:
        smtp.send_message(mail("one"), to_addrs=["b@example.com", "c@example.com"])
        smtp.send_message(mail("two"))
    first, second = smtp_sink.mails()
    assert first.recipients == ("b@example.com", "c@example.com")
    assert (first.sender, first.message["Message-ID"]) == ("a@example.com", "<one@example.com>")
    assert b"\r\n.dot\r\n" in first.data
    assert second.message["Subject"] == "two"
    assert smtp_sink.sessions == 1


def test_chosen_recipients_are_refused(smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse = {"bad@example.com": "550 5.1.1 unknown", "late@example.com": "451 4.7.1 later"}
    with client(smtp_sink) as smtp:
        refused = smtp.send_message(mail(), to_addrs=["b@example.com", "bad@example.com", "late@example.com"])
    assert {name: code for name, (code, _) in refused.items()} == {
        "bad@example.com": 550,
        "late@example.com": 451,
    }
    assert smtp_sink.mails()[0].recipients == ("b@example.com",)


@pytest.mark.parametrize(("action", "kept"), [(AfterData.DROP, 1), (AfterData.LOSE, 0)])
def test_the_reply_can_be_lost_with_or_without_the_mail(smtp_sink: SmtpSink, action: AfterData, kept: int) -> None:
    smtp_sink.after_data = [action]
    smtp = client(smtp_sink)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        smtp.send_message(mail())
    smtp.close()
    assert len(smtp_sink.mails()) == kept
    with client(smtp_sink) as again:
        again.send_message(mail())
    assert len(smtp_sink.mails()) == kept + 1


def test_hanging_keeps_the_mail_and_never_replies(smtp_sink: SmtpSink) -> None:
    smtp_sink.after_data = [AfterData.HANG]
    smtp = client(smtp_sink, timeout=0.3)
    with pytest.raises((TimeoutError, smtplib.SMTPServerDisconnected)):
        smtp.send_message(mail())
    smtp.close()
    assert len(smtp_sink.mails()) == 1


def test_data_can_be_refused(smtp_sink: SmtpSink) -> None:
    smtp_sink.after_data = ["452 4.3.1 full"]
    with client(smtp_sink) as smtp, pytest.raises(smtplib.SMTPDataError, match="full"):
        smtp.send_message(mail())
    assert smtp_sink.mails() == []


def test_starttls_and_auth(tmp_path: Path, tls: Tls) -> None:
    with SmtpSink(tmp_path / "mail", tls=tls.server_context(), starttls=True, users={"user": "password"}) as sink:
        with client(sink) as smtp, pytest.raises(smtplib.SMTPSenderRefused):
            smtp.send_message(mail())
        with client(sink) as smtp:
            smtp.starttls(context=tls.client_context())
            with pytest.raises(smtplib.SMTPAuthenticationError):
                smtp.login("user", "wrong")
        with client(sink) as smtp:
            smtp.starttls(context=tls.client_context())
            smtp.login("user", "password")
            smtp.send_message(mail())
        sink.after_data = [AfterData.DROP]
        with client(sink) as smtp:
            smtp.starttls(context=tls.client_context())
            smtp.login("user", "password")
            with pytest.raises(smtplib.SMTPServerDisconnected):
                smtp.send_message(mail("dropped"))
        assert [kept.message["Subject"] for kept in sink.mails()] == ["hello", "dropped"]
