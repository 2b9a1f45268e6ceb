"""The mails of a batch, read back by the standard library's parser."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.email.addresses import Mailbox, mailbox
from flowrunner_provider.email.attachments import Attachment
from flowrunner_provider.email.batch.row_mail import RowMail, RowMailBuilder, encode_attachment, parse_recipient

SENDER = Mailbox(name="Röbot", local="robot", domain="example.com")
FILE = Attachment(name="größe.csv", content_type="text/csv", data=bytes(range(256)) * 80)
DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.text(" .-=\r\n\tab", max_size=60)


def built(subject: str, text: str, html: str | None, *, files: int = 1, to: Mailbox | None = None) -> bytes:
    builder = RowMailBuilder(sender=SENDER, reply_to=(), parts=[encode_attachment(FILE)] * files, date=DATE)
    to = to or Mailbox(name="Doe, John", local="john", domain="example.com")
    mail = RowMail(sender=SENDER, to=to, subject=subject, text=text, html=html, headers=[("X-Row", "7")])
    data = builder.build(mail, "<1@example.com>")
    assert data == builder.build(mail, "<1@example.com>")
    return data


def parsed(data: bytes) -> Any:
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert not message.defects
    assert not any(part.defects for part in message.walk())
    return message


def lines(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


@given(text=TEXTS, html=st.none() | TEXTS, files=st.integers(0, 2))
def test_every_text_comes_back(text: str, html: str | None, files: int) -> None:
    data = built("Grüße", text, html, files=files)
    assert data.isascii()
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert b"\r" not in data.replace(b"\r\n", b"")
    assert max(map(len, data.split(b"\r\n"))) <= 998
    message = parsed(data)
    body = message.get_body(("plain",))
    assert lines(body.get_payload(decode=True).decode()) == lines(text)
    found = message.get_body(("html",))
    assert (None if found is None else lines(found.get_payload(decode=True).decode())) == (
        None if html is None else lines(html)
    )
    attached = list(message.iter_attachments()) if files else []
    assert [(part.get_filename(), part.get_payload(decode=True)) for part in attached] == [
        (FILE.name, FILE.data)
    ] * files


def test_the_headers() -> None:
    message = parsed(built("Your order, " + "a long one " * 20, "Hello", None))
    assert message["Subject"] == ("Your order, " + "a long one " * 20)
    assert [(box.display_name, box.addr_spec) for box in message["To"].addresses] == [("Doe, John", "john@example.com")]
    assert message["From"].addresses[0].display_name == "Röbot"
    assert (message["X-Row"], message["Message-ID"]) == ("7", "<1@example.com>")
    assert message["Date"].datetime == DATE


ADDRESSES = st.from_regex(r"[a-zA-Z0-9.+'_-]{1,12}@[a-zA-Z0-9.-]{1,14}\.[a-zA-Z]{1,5}", fullmatch=True)


@given(
    address=ADDRESSES
    | st.text(max_size=20)
    | st.sampled_from([f"{'a' * 65}@x.org", f"a@{'b' * 64}.org", "a@xn--p1ai.org"])
)
def test_the_quick_way_takes_what_the_thorough_one_takes(address: str) -> None:
    try:
        expected: Any = mailbox(address, "email")
    except ConfigError:
        expected = None
    try:
        found: Any = parse_recipient(address, "", "email")
    except ConfigError:
        found = None
    assert found == expected


@pytest.mark.parametrize("name", ["a\nBcc: x@y.org", "a\r\n", "=?utf-8?q?x?=", "a\x00", "a\u2028b"])
def test_a_name_is_no_way_to_other_headers(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        parse_recipient("a@example.com", name, "name")


@pytest.mark.parametrize("name", ['x" <evil@x.org>, "', "evil@x.org,", "x <evil@x.org> (", "a\\"])
def test_a_name_is_no_way_to_other_recipients(name: str) -> None:
    to = parse_recipient("a@example.com", name, "name")
    message = parsed(built("s", "t", None, to=to))
    assert [(box.display_name, box.addr_spec) for box in message["To"].addresses] == [(name, "a@example.com")]
