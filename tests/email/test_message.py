"""Messages: what is refused, and that what is built reads back as it was meant."""

from __future__ import annotations

import email
import email.policy
import email.utils
from dataclasses import replace
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.email.addresses import Mailbox, header_lines, mailboxes
from flowrunner_provider.email.attachments import Attachment
from flowrunner_provider.email.message import MAX_RECIPIENTS, Mail, build, compose
from flowrunner_provider.email.plain_text import html_to_text

DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PICTURE = Attachment(name="logo.png", content_type="image/png", data=b"\x89PNG\r\n" + bytes(range(256)))
TABLE = Attachment(name="Umsätze 2026.csv", content_type="text/csv", data="a;ü\r\n1;2\n".encode())


def mail(**changes: Any) -> Mail:
    return compose(**{"sender": "robot@example.com", "to": "a@example.com", "subject": "s", "text": "t", **changes})


def built(given: Mail) -> bytes:
    return build(given, "<key@example.com>", DATE)


def parsed(data: bytes) -> EmailMessage:
    return email.message_from_bytes(data, policy=email.policy.default)  # type: ignore[return-value]


def header_names(data: bytes) -> list[bytes]:
    """The headers of the message itself, by walking its lines: a second opinion without a parser."""
    head, _, _ = data.partition(b"\r\n\r\n")
    return [line.split(b":")[0] for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")]


def lines(text: str) -> str:
    """With the line ends of Python."""
    return text.replace("\r\n", "\n")


INJECTIONS = {
    "CR": "a\rBcc: x@evil.test", "LF": "a\nBcc: x@evil.test", "CRLF": "a\r\nBcc: x@evil.test",
    "CRLF CRLF": "a\r\n\r\n<h1>body</h1>", "folded": "a\r\n b", "NUL": "a\0b", "VT": "a\x0bb", "FF": "a\x0cb",
    "FS": "a\x1cb", "NEL": "a\x85b", "LS": "a\u2028Bcc: x@evil.test", "PS": "a\u2029Bcc: x@evil.test",
    "DEL": "a\x7fb", "tab": "a\tb", "ESC": "a\x1b[31m", "trailing LF": "a\n", "leading LF": "\na",
    "Q word": "=?utf-8?q?a=0D=0ABcc=3A_x=40evil.test?=", "B word": "=?UTF-8?B?YQ0KQmNjOiB4QGV2aWwudGVzdA==?=",
    "word inside": "hello =?us-ascii?Q?x?= there", "open word": "=?utf-8?q?never closed", "surrogate": "a\udc80b",
}  # fmt: skip


@pytest.mark.parametrize("value", INJECTIONS.values(), ids=INJECTIONS)
@pytest.mark.parametrize(
    "field", ["subject", "sender", "to", "cc", "bcc", "reply_to", "to name", "header", "header name"]
)
def test_header_injection_is_refused(field: str, value: str) -> None:
    changes: dict[str, Any] = {
        "to name": {"to": f"{value} <a@example.com>"},
        "header": {"headers": {"X-Topic": value}},
        "header name": {"headers": {value: "x"}},
    }.get(field, {field: value if field == "subject" else f"{value}@example.com"})
    with pytest.raises(ConfigError) as caught:
        mail(**changes)
    assert caught.value.field
    assert "evil" not in str(caught.value) or "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["To", "bcc", "BCC", "Subject", "From", "Sender", "Reply-To", "Cc", "Date", "Message-ID", "MIME-Version",
     "Content-Type", "content-transfer-encoding", "Return-Path", "Received", "Resent-To", "", "a b", "a:b", "é"],
)  # fmt: skip
def test_headers_of_ours_cannot_be_set(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mail(headers={name: "x"})
    assert caught.value.field == "headers"


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=120).filter(
    lambda text: "=?" not in text and not text.isspace()
)


def decoded(value: Any) -> str:
    return str(make_header(decode_header(str(value).replace("\r\n", ""))))


@given(subject=WORDS, name=WORDS, topic=WORDS)
def test_any_text_is_one_header_and_reads_back(subject: str, name: str, topic: str) -> None:
    """The number of headers never depends on their values, and no text becomes another address."""
    box = Mailbox(name=name, local="a" * 50, domain="example.com")
    other = Mailbox(name="Doe, John", local="j", domain="example.com")
    plain = mail(headers={"X-Topic": "x"}, cc="c@example.com")
    spoken = replace(plain, subject=subject, to=(box, other), headers=(("X-Topic", topic),))
    assert header_names(built(spoken)) == header_names(built(plain))
    raw = email.message_from_bytes(built(spoken), policy=email.policy.compat32)
    assert len(raw.items()) == len(header_names(built(plain)))
    assert decoded(raw["Subject"]).strip() == subject.strip()
    assert decoded(raw["X-Topic"]).strip() == topic.strip()
    pairs = email.utils.getaddresses([raw["To"].replace("\r\n", "")])
    assert [address for _, address in pairs] == [box.address, other.address]
    assert decoded(pairs[0][0]).split() == name.split()
    assert all(len(line) <= 998 for line in built(spoken).split(b"\r\n"))


def test_a_name_that_must_be_folded_keeps_its_quotes() -> None:
    """gh-121284: Python's own folding makes ``Doe, John`` two addresses here."""
    box = Mailbox(name="Doe, John", local="j" * 64, domain="a-rather-long-domain.example.com")
    message = parsed(header_lines("To", [box, box]) + b"\r\n")
    assert [(a.display_name, a.addr_spec) for a in message["To"].addresses] == [("Doe, John", box.address)] * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"Doe, John" <j@x>', [("Doe, John", "j@x")]),
        ("a@b.org, Ann B <c@d.org>", [("", "a@b.org"), ("Ann B", "c@d.org")]),
        ("Jürgen Müller <j@x.de>", [("Jürgen Müller", "j@x.de")]),
        ("info@exämple.de", [("", "info@xn--exmple-cua.de")]),
        ('"a b"@x.org', [("", '"a b"@x.org')]),
        ("a@[127.0.0.1]", [("", "a@[127.0.0.1]")]),
        (["a@b.org", "c@d.org"], [("", "a@b.org"), ("", "c@d.org")]),
    ],
)
def test_address_lists(text: Any, expected: list[tuple[str, str]]) -> None:
    assert [(box.name, box.address) for box in mailboxes(text, "to")] == expected


@pytest.mark.parametrize(
    "text",
    ["not an address", "a@b.c; d@e.f", "Team: a@b.c, d@e.f;", "<a@b.c", "a@b@c", "a@b.c d@e.f", "x <>", "a@", "@b",
     "foo, bar <a@b.c>", "a@b..c", ".a@b.c", "a", "<>", "a@-b.c", "a@b.c>", "(", '"', ",", "a" * 400 + "@b.c"],
)  # fmt: skip
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an address") as caught:
        mailboxes(["ok@example.com", text], "cc")
    assert caught.value.field == "cc"
    assert repr(text)[:50] in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_addresses_or_a_config_error(text: str) -> None:
    try:
        boxes = mailboxes(text, "to")
    except ConfigError:
        return
    assert all("@" in box.address and box.domain.isascii() for box in boxes)


@pytest.mark.parametrize(
    "changes",
    [{"to": ()}, {"to": ""}, {"sender": "a@b.c, d@e.f"}, {"sender": ""}, {"text": None}, {"text": 5},
     {"subject": 5}, {"to": 5}, {"to": [5]}, {"inline": {"x": PICTURE}}, {"html": "h", "inline": {"a b": PICTURE}},
     {"text": "\udc80"}, {"to": [f"u{n}@example.com" for n in range(MAX_RECIPIENTS + 1)]}],
)  # fmt: skip
def test_bad_input(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        mail(**changes)
    assert caught.value.field


def test_the_whole_message() -> None:
    whole = mail(
        sender="Büro <robot@example.com>", to='"Doe, John" <j@example.com>, a@example.com', cc="c@example.com",
        bcc=["secret@example.com", "a@example.com"], reply_to="r@example.com", subject="Umsätze für März 📈",
        html='<p>Grüße <img src="cid:logo" alt="Logo"></p>', text=None,
        attachments=[TABLE], inline={"logo": PICTURE}, headers={"X-Topic": "sales"},
    )  # fmt: skip
    data = built(whole)
    message = parsed(data)
    assert whole.recipients == ("j@example.com", "a@example.com", "c@example.com", "secret@example.com")
    assert b"secret" not in data
    assert b"bcc" not in data.lower()
    assert data.isascii()
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert message["Subject"] == "Umsätze für März 📈"
    assert message["From"].addresses[0].display_name == "Büro"
    assert message["Message-ID"] == "<key@example.com>"
    assert message["Date"].datetime == DATE
    assert message["X-Topic"] == "sales"
    assert not any(part.defects for part in message.walk())
    types = [part.get_content_type() for part in message.walk()]
    assert types == ["multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html",
                     "image/png", "text/csv"]  # fmt: skip
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert lines(plain.get_content()) == "Grüße Logo\n"
    assert lines(html.get_content()) == '<p>Grüße <img src="cid:logo" alt="Logo"></p>\n'
    (table,) = message.iter_attachments()
    assert (table.get_filename(), table.get_payload(decode=True)) == (TABLE.name, TABLE.data)
    picture = next(part for part in message.walk() if part["Content-ID"])
    assert (picture["Content-ID"], picture.get_payload(decode=True)) == ("<logo>", PICTURE.data)


def test_the_same_mail_is_the_same_bytes() -> None:
    changes: dict[str, Any] = {"html": "<b>x</b>", "attachments": [TABLE], "text": None}
    assert built(mail(**changes)) == built(mail(**changes))
    assert mail().fingerprint != mail(bcc="x@example.com").fingerprint
    other = Attachment(name=TABLE.name, content_type=TABLE.content_type, data=TABLE.data + b"x")
    assert mail(attachments=[TABLE]).fingerprint != mail(attachments=[other]).fingerprint


def test_a_body_cannot_end_its_own_part() -> None:
    """Boundaries depend on the content too, so no content can hold its own."""
    first = mail(html="<p>x</p>", text="x")
    boundary = parsed(built(first)).get_boundary()
    again = parsed(built(mail(html="<p>x</p>", text=f"x\n--{boundary}\nContent-Type: text/html\n\nevil")))
    assert [part.get_content_type() for part in again.walk()] == ["multipart/alternative", "text/plain", "text/html"]


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=300))
def test_bodies_keep_every_character(text: str) -> None:
    body = lines(parsed(built(mail(text=text))).get_content())
    assert body == (text if text.endswith("\n") else text + "\n")


def test_letters_before_the_at_need_smtputf8() -> None:
    data = built(mail(to="Jörg <jörg@example.com>"))
    assert mail(to="Jörg <jörg@example.com>").needs_utf8
    assert not mail(to="Jörg <j@exämple.com>").needs_utf8
    assert "<jörg@example.com>".encode() in data


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>Hi</h1><p>a <b>b</b><br>c</p>", "Hi\n\na b\nc\n"),
        ('<a href="https://x.org/y">here</a> <a href="https://x.org">https://x.org</a>',
         "here (https://x.org/y) https://x.org\n"),
        ("<style>p{}</style><script>evil()</script><title>t</title><p>x</p>", "x\n"),
        ("<pre>a\n  b</pre>c", "a\n  b\n\nc\n"),
        ("<ul><li>1<li>2</ul>", "- 1\n- 2\n"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a\tb\nc\n"),
        ("a &amp; b &lt;c&gt; &nbsp;d", "a & b <c> \xa0d\n"),
        ("", "\n"),
    ],
)  # fmt: skip
def test_plain_text(html: str, text: str) -> None:
    assert html_to_text(html) == text


@given(st.text(max_size=200))
def test_plain_text_takes_anything(html: str) -> None:
    assert html_to_text(f"<p>{html}").endswith("\n")
