"""Search keys that nothing can break out of, and text in any charset."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.email.mailbox.files import file_name
from flowrunner_provider.email.mailbox.plan import ranges, unpacked
from flowrunner_provider.email.mailbox.search import MailSearch
from flowrunner_provider.email.mailbox.text import addresses, decoded_text, decoder_for, header_text, parameter
from tests.email.mailboxes import mail, reading, run
from tests.support.dovecot import Dovecot, Mailbox


@pytest.fixture
def box(dovecot: Dovecot) -> Iterator[Mailbox]:
    box = dovecot.mailbox()
    box.connection()
    box.put(
        mail("one", ("a.pdf", b"x" * 5000), subject='Rechnung "März" (2026) \\ 5%', X_Topic="sales"),
        mail("two", subject="Invoice", sender="Zoë Müller <zoe@example.org>"),
        flags="\\Seen",
    )
    box.put(mail("three", subject="Invoice), DELETED"), date="01-Feb-2026 23:30:00 -0500")
    return box


@pytest.mark.backend
@pytest.mark.parametrize(
    ("search", "found"),
    [
        ({}, [1, 2, 3]),
        ({"subject": 'Rechnung "März" (2026) \\ 5%'}, [1]),
        ({"subject": "märz", "from": "billing"}, [1]),
        ({"subject": "märz", "from": "Zoë"}, []),
        ({"from": "ZOË müller"}, [2]),
        ({"subject": "Invoice)"}, [3]),
        ({"subject": "x) OR ALL"}, []),
        ({"subject": '" ALL'}, []),
        ({"subject": "*"}, []),
        ({"text": "Text of two"}, [2]),
        ({"body": "Text of"}, [1, 2, 3]),
        ({"to": "team@"}, [1, 2, 3]),
        ({"header": {"X-Topic": "sales"}}, [1]),
        ({"header": {"X-Topic": ""}}, [1]),
        ({"unseen": True}, [3]),
        ({"unseen": False}, [1, 2]),
        ({"flagged": False, "answered": False}, [1, 2, 3]),
        ({"larger": 4000}, [1]),
        ({"smaller": 4000}, [2, 3]),
        ({"has_attachment": True}, [1]),
        ({"has_attachment": False}, [2, 3]),
        ({"keyword": "Nothing"}, []),
        ({"before": "2026-02-03"}, [3]),
        ({"before": datetime(2026, 2, 2, 4, 30, tzinfo=UTC)}, []),
        ({"since": "2026-02-02T04:30:00+00:00", "before": "2026-02-02T04:30:01Z"}, [3]),
        ({"since": date(2026, 2, 4)}, [1, 2]),
    ],
    ids=str,
)
def test_what_is_found(box: Mailbox, search: dict[str, Any], found: list[int]) -> None:
    result = run(reading(search=search, missing_ok=True))
    assert [row["uid"] for row in result["rows"]] == found
    assert box.uids(criteria="ALL") == [1, 2, 3]


@given(st.text(max_size=40), st.sampled_from(["from", "subject", "text", "to"]))
def test_no_text_becomes_a_command(text: str, field: str) -> None:
    """S8: whatever the text, the line has the same keys, and no line break."""
    try:
        criteria = MailSearch.of({field: text}).criteria()
    except ConfigError:
        return
    line = criteria.ascii.decode()
    assert "\r" not in line
    assert "\n" not in line
    if criteria.wide:
        assert criteria.wide == ((field.upper().encode(), text.encode()),)
        assert line == "UNDELETED"
        return
    head, quoted = line.split(" ", 2)[:2], line.split(" ", 2)[2]
    assert head == ["UNDELETED", field.upper()]
    assert quoted[0] == quoted[-1] == '"'
    assert quoted[1:-1].replace("\\\\", "").replace('\\"', "").count('"') == 0


@pytest.mark.parametrize(
    "search",
    [
        {"subject": "a\rb"}, {"subject": "a\nb"}, {"subject": "a\0b"}, {"subject": "a\u2028b"}, {"subject": ""},
        {"subject": "\ud800"}, {"subject": "x" * 2000}, {"subject": 5}, {"header": {"a b": "c"}}, {"header": {"": "c"}},
        {"header": {"X\r\nY": "c"}}, {"header": {"X": "a\r\nb"}}, {"keyword": "a b"}, {"keyword": "\\Seen"},
        {"keyword": ""}, {"larger": -1}, {"larger": True}, {"smaller": 1 << 40}, {"since": "now"},
        {"since": "2026-01-01T00:00:00"}, {"unseen": "yes"}, {"nonsense": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused(search: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        MailSearch.of(search)
    assert caught.value.remedy


def test_a_search_survives_json() -> None:
    search = {"from": "a", "since": date(2026, 1, 1), "before": datetime(2026, 2, 1, tzinfo=UTC), "header": {"X": "y"}}
    known = MailSearch.of(search)
    assert MailSearch.of(known.to_json()).criteria() == known.criteria()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?caf=C3=A9?=", "café"),
        ("=?UTF-8?B?w6k=?= =?utf-8?b?w6k=?=", "éé"),
        ("=?utf-8?b?w6?= =?utf-8?q?=A9?=", "é"),
        ("=?utf-8?q?=C3?= =?utf-8?q?=A9?=", "é"),
        ("=?iso-8859-1*de?q?f=FCr?= dich", "für dich"),
        ("=?windows-1252?q?=80?=", "€"),
        ("=?x-nobody?q?=C3=A9?=", "é"),
        ("=?utf-8?q?a_b?= c\r\n d", "a b c d"),
        ("=?utf-8?b?!!!?=", ""),
        ("=?utf-8?q?broken", "=?utf-8?q?broken"),
        ("=?punycode?q?" + "a" * 100 + "?=", "a" * 100),
        ("caf\udce9", "café"),
        ("caf\udcc3\udca9 =?utf-8?q?=C3=A9?=", "café é"),
        ("", ""),
    ],
)
def test_headers(raw: str, text: str) -> None:
    assert header_text(raw) == text


@given(st.binary(max_size=200), st.text(max_size=20))
def test_no_bytes_are_an_error(data: bytes, charset: str) -> None:
    assert isinstance(decoded_text(data, charset), str)
    raw = data.decode("ascii", "surrogateescape")
    assert header_text(raw).isprintable() or header_text(raw) is not None
    assert isinstance(addresses([raw]), list)
    assert isinstance(parameter([("name", raw)], "name"), str)
    for encoding in ("base64", "quoted-printable", "8bit", charset):
        decoder = decoder_for(encoding)
        assert isinstance(decoder.feed(data) + decoder.close(), bytes)


@given(st.binary(max_size=3000), st.sampled_from(["base64", "quoted-printable"]), st.integers(1, 90))
def test_encodings_come_undone_in_any_pieces(data: bytes, encoding: str, size: int) -> None:
    import base64
    import quopri

    encoded = base64.encodebytes(data) if encoding == "base64" else quopri.encodestring(data)
    encoded = encoded.replace(b"\n", b"\r\n") if encoding == "base64" else encoded
    decoder = decoder_for(encoding)
    pieces = [decoder.feed(encoded[start : start + size]) for start in range(0, len(encoded), size)]
    assert b"".join(pieces) + decoder.close() == data


def test_addresses() -> None:
    assert addresses(['"Doe, =?utf-8?q?J=C3=B6?=" <j@x.org>, team: a@b.c;, =?utf-8?q?Z?= <z@x>']) == [
        {"name": "Doe, Jö", "address": "j@x.org"},
        {"name": "", "address": "a@b.c"},
        {"name": "Z", "address": "z@x"},
    ]


@pytest.mark.parametrize(
    ("pairs", "name"),
    [
        ([("filename", "a.pdf")], "a.pdf"),
        ([("filename*", "utf-8''%C3%A4.pdf")], "ä.pdf"),
        ([("filename*0*", "utf-8''%C3"), ("filename*1*", "%A4.pdf")], "ä.pdf"),
        ([("filename*0", "a"), ("filename*1", "b.pdf")], "ab.pdf"),
        ([("FILENAME", "=?utf-8?q?=C3=A4.pdf?=")], "ä.pdf"),
        ([("filename*", "x-nobody''%ff.pdf")], "ÿ.pdf"),
        ([("filename*9*", "%")], "%"),
        ([("other", "x")], ""),
    ],
)
def test_names_in_every_spelling(pairs: list[tuple[str, str]], name: str) -> None:
    assert parameter(pairs, "filename") == name


@given(st.text(max_size=300))
def test_a_file_name_is_always_safe_and_has_its_key(shown: str) -> None:
    from flowrunner_provider.core.names import safe_component

    name = file_name(shown, "0123456789ab")
    assert safe_component(name) == name
    assert "0123456789ab" in name
    assert not name.startswith(("-", "."))
    assert len(name.encode()) < 180


@given(st.sets(st.integers(1, 500)))
def test_ranges_come_back(numbers: set[int]) -> None:
    assert unpacked(ranges(sorted(numbers))) == sorted(numbers)
