"""What senders and servers may write to keep a reader of mail busy, or to break it: a megabyte costs a megabyte's work.

A mail that cannot be read must not keep the others from being read.
"""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes
from typing import Any

import pytest

from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError
from flowrunner_provider.email.mailbox.description import _POLICY, _date
from flowrunner_provider.email.mailbox.imap_errors import typed
from flowrunner_provider.email.mailbox.text import addresses, decoded_text, decoder_for, header_text, parameter
from tests.support.growth import grows_like_a_line

Make = Callable[[int], Any]


def filled(before: str, unit: str, after: str = "") -> Make:
    """``unit`` as often as it takes."""
    return lambda size: before + unit * (size // len(unit)) + after


@pytest.mark.parametrize(
    "make",
    [
        filled("", "=?"), filled("", "=?utf-8?q?"), filled("=?utf-8?q?a?=", " "), filled("", "=?utf-8?q?a?= "),
        filled("=?utf-8?b?", "QQ==", "?="), filled("=?utf-8?b?", "=", "?="), filled("", "=?a*"), filled("", " "),
        filled("", "\udc80"), filled("=?utf-8?q?", "=41", "?="), filled("", "=?utf-7?b?QQ==?="),
    ],
)  # fmt: skip
def test_a_header(make: Make) -> None:
    grows_like_a_line(header_text, make)


@pytest.mark.parametrize(
    "unit",
    ["(", ",", "<", '"', "\\", "a@b,", ":", ";", "@", ".", "[", "a:", "(a) ", " a", "<@a,", "()", "a:b;", "\udc80"],
)
def test_addresses(unit: str) -> None:
    """Headers are read up to 64 KiB; whatever stands there is no error."""
    grows_like_a_line(lambda value: addresses([value]), filled("", unit), largest=65_536)
    grows_like_a_line(_date, filled("Mon, 1 Jan 2026 ", unit), largest=65_536)


@pytest.mark.parametrize("unit", ["a: b\r\n", " ", "a", ":", "\r\n ", "a:\r\n", "\r"])
def test_the_headers_of_a_mail(unit: str) -> None:
    def read(raw: bytes) -> None:
        headers = message_from_bytes(raw, policy=_POLICY)
        header_text(headers["Subject"])
        addresses(headers.get_all("From", []))

    grows_like_a_line(read, lambda size: (unit * (size // len(unit))).encode(), largest=262_144)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: [(f"filename*{number}", "a") for number in range(size // 12)],
        lambda size: [(f"filename*{number}*", "%41") for number in range(size // 16)],
        lambda size: [("filename", '"' * size)],
        lambda size: [("filename*", "utf-8''" + "%41" * (size // 3))],
        lambda size: [("filename", "a")] * (size // 9),
    ],
)
def test_the_parameters_of_a_part(make: Make) -> None:
    grows_like_a_line(lambda pairs: parameter(pairs, "filename"), make, largest=262_144)


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
@pytest.mark.parametrize("unit", [b"QQ==", b"=", b"A", b"\n", b"=\n", b" ", b"=4", b"\xff"])
@pytest.mark.parametrize("piece", [1 << 20, 4096])
def test_a_body(encoding: str, unit: bytes, piece: int) -> None:
    def decode(data: bytes) -> None:
        decoder = decoder_for(encoding)
        for start in range(0, len(data), piece):
            decoder.feed(data[start : start + piece])
        decoder.close()

    grows_like_a_line(decode, lambda size: unit * (size // len(unit)))


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 70_000, 65_537])
@pytest.mark.parametrize("data", [b"=C3=A4" * 30_000, b"a" * 200_000, b"x=\n" * 40_000, b"ab=3D=\r\n" * 9_000])
def test_quoted_printable_is_the_same_in_pieces(piece: int, data: bytes) -> None:
    data = data if piece > 100 else data[:3_000]
    whole = decoder_for("quoted-printable")
    expected = whole.feed(data) + whole.close()
    decoder = decoder_for("quoted-printable")
    pieces = [decoder.feed(data[start : start + piece]) for start in range(0, len(data), piece)]
    assert b"".join(pieces) + decoder.close() == expected


def test_a_charset_that_nobody_knows() -> None:
    grows_like_a_line(lambda data: decoded_text(data, "utf-7"), lambda size: b"+AGE-" * (size // 5))
    grows_like_a_line(lambda data: decoded_text(data, "x" * 1000), lambda size: b"\xff" * size)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: b"1 (" + b"(" * size,
        lambda size: b"1 (FLAGS (" + b"a " * (size // 2) + b"))",
        lambda size: b'1 (X "' + b'\\"' * (size // 2) + b'")',
        lambda size: b"1 (UID 1 " + b"X 1 " * (size // 4) + b")",
        lambda size: b"1 (BODYSTRUCTURE (" + b'("A" "B" NIL NIL NIL "7BIT" 1)' * (size // 30) + b' "MIXED"))',
        lambda size: b"1 (BODYSTRUCTURE " + b"(" * size + b")" * size + b")",
        lambda size: b"1 (ENVELOPE (" + b"NIL " * (size // 4) + b"))",
        lambda size: b"1 (BODY[" + b"[" * size + b" 1)",
        lambda size: b'1 (INTERNALDATE "' + b"1" * size + b'")',
    ],
)
def test_an_answer_of_the_server(make: Make) -> None:
    from imapclient.response_parser import parse_fetch_response

    def read(answer: bytes) -> None:
        with typed("fetch from", "imap.example"):
            parse_fetch_response([answer])

    grows_like_a_line(read, make, refuses=FlowRunnerError, largest=262_144)


def test_the_numbers_that_a_search_finds() -> None:
    from imapclient.response_parser import parse_message_list

    grows_like_a_line(lambda answer: parse_message_list([answer]), lambda size: b"1 " * (size // 2))


def test_parts_within_parts_within_parts_are_an_error_of_ours() -> None:
    """One such mail is then asked for by itself, and the others are read."""
    with pytest.raises(IntegrityError), typed("fetch from", "imap.example"):
        raise RecursionError
