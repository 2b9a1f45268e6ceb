"""Bodies as values, and documents that are attacks."""

from __future__ import annotations

import time

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.http.formats import MAX_DEPTH, detect, parse, parse_xml
from flowrunner_provider.transport.http import Response


def answer(content: bytes, kind: str = "") -> Response:
    return Response(200, {"Content-Type": kind}, "http://x/", content)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("application/json; charset=utf-8", "json"),
        ("application/problem+json", "json"),
        ("application/x-ndjson", "ndjson"),
        ("application/jsonl", "ndjson"),
        ("text/xml", "xml"),
        ("application/atom+xml;charset=utf-8", "xml"),
        ("application/xhtml+xml", "text"),
        ("image/svg+xml", "text"),
        ("text/csv; header=present", "csv"),
        ("text/html", "text"),
        ("application/octet-stream", "bytes"),
        ("", "bytes"),
    ],
)
def test_media_types(kind, found):
    assert detect(kind) == found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<a/>", {"a": None}),
        ("<a> x </a>", {"a": "x"}),
        ("<a b='1'/>", {"a": {"@b": "1"}}),
        ("<a b='1'>x<c/>y</a>", {"a": {"@b": "1", "#text": "xy", "c": None}}),
        ("<a><b>1</b><c>2</c><b>3</b><b/></a>", {"a": {"b": ["1", "3", None], "c": "2"}}),
        ("<s:a xmlns:s='urn:x'><s:b>&lt;&#65;</s:b></s:a>", {"s:a": {"@xmlns:s": "urn:x", "s:b": "<A"}}),
        ("<?xml version='1.0' encoding='latin-1'?><a>\xe4</a>", {"a": "ä"}),
        ("<!DOCTYPE a><a><![CDATA[<b>]]></a>", {"a": "<b>"}),
    ],
)
def test_xml_by_its_rule(text, value):
    assert parse_xml(text.encode("latin-1"), "x") == value


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
DTD = "<?xml version='1.0'?><!DOCTYPE a [{}]><a>{}</a>"
ATTACKS = [
    DTD.format('<!ENTITY l0 "ha">' + LAUGHS, "&l11;"),
    DTD.format(f'<!ENTITY l "{"x" * 100_000}">', "&l;" * 100_000),
    DTD.format('<!ENTITY x SYSTEM "file:///etc/passwd">', "&x;"),
    DTD.format('<!ENTITY x SYSTEM "http://127.0.0.1:9/">', "&x;"),
    DTD.format('<!ENTITY x PUBLIC "p" "http://127.0.0.1:9/">', "&x;"),
    DTD.format('<!ENTITY % x SYSTEM "http://127.0.0.1:9/x.dtd"> %x;', ""),
    DTD.format("<!ENTITY % x \"<!ENTITY y SYSTEM 'file:///etc/passwd'>\"> %x;", "&y;"),
    DTD.format('<!ENTITY x "harmless">', ""),
    DTD.format('<!NOTATION n SYSTEM "x"><!ENTITY x SYSTEM "y" NDATA n>', ""),
    DTD.format('<!ENTITY a "&b;"><!ENTITY b "&a;">', "&a;"),
    "<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/x.dtd'><a>&x;</a>",
    "<!DOCTYPE a [<!ATTLIST a b CDATA '&x;'>]><a/>",
    "<a>&undefined;</a>",
    "<a>" * 100_000,
    "<a>" * (MAX_DEPTH + 1) + "</a>" * (MAX_DEPTH + 1),
    "<a>\x00</a>",
    "<a b='1' b='2'/>",
    "<a></b>",
    "<?xml version='1.0' encoding='no-such'?><a/>",
    "",
]


@pytest.mark.parametrize("number", range(len(ATTACKS)))
def test_xml_attacks_are_refused_at_once(number):
    began = time.perf_counter()
    with pytest.raises((e.SecurityError, e.IntegrityError)) as caught:
        parse_xml(ATTACKS[number].encode(), "the answer")
    assert time.perf_counter() - began < 5
    assert caught.value.remedy
    assert "root:" not in str(caught.value)


def test_an_include_is_only_an_element():
    document = b"<a xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include href='file:///etc/passwd'/></a>"
    assert parse_xml(document, "x")["a"]["xi:include"] == {"@href": "file:///etc/passwd"}


@pytest.mark.parametrize(
    ("content", "how", "value"),
    [
        (b'\xef\xbb\xbfa,b\r\n1,"x\n,""y"\r\n\r\n2,\n', {}, [{"a": "1", "b": 'x\n,"y'}, {"a": "2", "b": ""}]),
        ("a;b\nä;1".encode(), {"delimiter": ";"}, [{"a": "ä", "b": "1"}]),
        (b"a,b\n", {}, []),
        (b"", {}, []),
    ],
)
def test_csv(content, how, value):
    assert parse(answer(content, "text/csv"), "csv", **how) == value


@pytest.mark.parametrize("content", [b"a,b\n1\n", b"a,a\n1,2\n", b"a,\n1,2\n", b'a,b\n1,"x', b'a,b\n1,"x"y\n'])
def test_irregular_csv_is_never_guessed(content):
    with pytest.raises(e.IntegrityError) as caught:
        parse(answer(content), "csv")
    assert caught.value.remedy


def test_ndjson():
    assert parse(answer(b'{"a": 1}\r\n\n[2]\n"x\xe2\x80\xa8"'), "ndjson") == [{"a": 1}, [2], "x\u2028"]
    with pytest.raises(e.IntegrityError, match="line 2"):
        parse(answer(b"1\n{"), "ndjson")


def test_auto_takes_the_type_and_nothing_for_nothing():
    assert parse(answer(b"<a>1</a>", "application/xml"), "auto") == {"a": "1"}
    assert parse(answer(b"", "application/json"), "auto") is None
