"""SFTP messages come out as they went in, however they are cut; what does not add up is refused."""

from __future__ import annotations

import struct
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.transport.sftp_wire import (
    MAX_MESSAGE,
    Attributes,
    Kind,
    Splitter,
    StatusError,
    Violation,
    pack,
    pack_attributes,
    pack_name,
    pack_string,
    parse_attributes,
    parse_extensions,
    parse_handle,
    parse_names,
    parse_numbers,
    parse_status,
    parse_string,
)

U32 = st.integers(0, 2**32 - 1)
PAIRS = st.tuples(U32, U32)
ATTRIBUTES = st.builds(
    Attributes,
    size=st.none() | st.integers(0, 2**64 - 1),
    owner=st.none() | PAIRS,
    permissions=st.none() | U32,
    times=st.none() | PAIRS,
)
NAMES = st.binary(min_size=1).map(lambda name: name.decode("utf-8", "surrogateescape"))
MESSAGES = st.tuples(st.sampled_from([Kind.STATUS, Kind.HANDLE, Kind.DATA, Kind.NAME]), U32, st.binary(max_size=300))


def framed(kind: int, number: int, body: bytes) -> bytes:
    return pack(kind, number, pack_string(body) if kind == Kind.DATA else body)


@given(st.lists(MESSAGES, max_size=8), st.lists(st.integers(1, 40), min_size=1))
def test_messages_survive_any_cutting(messages, cuts):
    stream = b"".join(framed(*message) for message in messages)
    splitter, got, at = Splitter(), [], 0
    for cut in cuts * (1 + len(stream) // sum(cuts)):
        got += splitter.feed(stream[at : at + cut])
        at += cut
    assert got == messages


def test_a_message_that_has_begun_holds_back_only_itself():
    first, second = framed(Kind.DATA, 1, b"x" * 100), framed(Kind.STATUS, 2, b"\0" * 4)
    splitter = Splitter()
    assert [*splitter.feed(first + second[:12])] == [(Kind.DATA, 1, b"x" * 100)]
    assert [*splitter.feed(second[12:])] == [(Kind.STATUS, 2, b"\0" * 4)]


@given(ATTRIBUTES, st.binary(max_size=5), st.binary(max_size=5))
def test_attributes_come_back(attributes, before, after):
    packed = pack_attributes(attributes)
    assert parse_attributes(before + packed + after, len(before)) == (attributes, len(before) + len(packed))


def test_extended_attributes_are_passed_over():
    packed = struct.pack(">II", 0x80000001, 0) + struct.pack(">II", 7, 1) + pack_string(b"name") + pack_string(b"value")
    assert parse_attributes(packed) == (Attributes(size=7), len(packed))


@given(st.lists(st.tuples(NAMES, ATTRIBUTES), max_size=5))
def test_names_come_back(names):
    body = struct.pack(">I", len(names))
    for name, attributes in names:
        body += pack_name(name) + pack_string(b"-rw-r--r-- ...") + pack_attributes(attributes)
    assert parse_names(body) == names


@given(st.binary(max_size=80))
def test_any_bytes_are_understood_or_refused(body):
    numbers = partial(parse_numbers, count=4)
    for parse in (parse_attributes, parse_names, parse_handle, parse_status, parse_extensions, numbers):
        with suppress(Violation):
            parse(body)
    with suppress(Violation):
        list(Splitter().feed(body))


@given(ATTRIBUTES, st.data())
def test_what_is_cut_off_is_refused(attributes, data):
    packed = pack_attributes(attributes)
    with pytest.raises(Violation):
        parse_attributes(packed[: data.draw(st.integers(0, len(packed) - 1))])


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack(">IBI", 4, Kind.STATUS, 1),
        struct.pack(">IBI", MAX_MESSAGE + 1, Kind.STATUS, 1),
        b"Welcome to the machine!\r\n",
        struct.pack(">IBII", 100, Kind.DATA, 1, 92),
        struct.pack(">IBII", 100, Kind.DATA, 1, 2**32 - 1),
    ],
)
def test_a_length_that_cannot_be(stream):
    with pytest.raises(Violation):
        list(Splitter().feed(stream))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        struct.pack(">I", 2**32 - 1),
        struct.pack(">I", 1) + pack_string(b"name"),
        struct.pack(">I", 0) + b"more",
        struct.pack(">I", 1) + pack_string(b"") + pack_string(b"") + pack_attributes(Attributes()),
    ],
)
def test_names_that_do_not_add_up(body):
    with pytest.raises(Violation):
        parse_names(body)


def test_handles_have_an_end():
    assert parse_handle(pack_string(b"h" * 256)) == b"h" * 256
    for body in (pack_string(b"h" * 257), pack_string(b"h") + b"more", b"\0"):
        with pytest.raises(Violation):
            parse_handle(body)
    with pytest.raises(Violation):
        parse_string(b"\0\0\0\x05abc", 0)


def test_a_status_may_lack_words_and_language():
    assert parse_status(struct.pack(">I", 0)) is None
    for body in (struct.pack(">I", 4), struct.pack(">I", 4) + pack_string(b"")):
        assert (parse_status(body) or StatusError(0, "")).code == 4
    error = parse_status(struct.pack(">I", 3) + pack_string(b"not \xff here") + pack_string(b"en"))
    assert error is not None
    assert (error.code, error.reason) == (3, "not � here")


def test_a_name_that_no_bytes_stand_for():
    with pytest.raises(StatusError):
        pack_name("\ud800")
