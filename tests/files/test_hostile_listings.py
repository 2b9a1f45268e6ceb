"""Listings, headers and pages of a megabyte, made to keep a parser busy: the work grows with their length only.

A regular expression or a loop that looks at the rest of its input again and again holds a worker for hours, beyond
every deadline, as nothing can interrupt it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import FlowRunnerError
from flowrunner_provider.core.names import filename_from_disposition, safe_component
from flowrunner_provider.core.retry import parse_retry_after
from flowrunner_provider.core.secrets import is_sensitive_key, redact_url
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.data.readers import open_rows
from flowrunner_provider.files.stores.ftp_listing import fact_entry, list_entry, moment
from flowrunner_provider.files.stores.object_errors import code_in
from flowrunner_provider.files.stores.s3_answers import page_of
from flowrunner_provider.http.formats import parse_xml
from flowrunner_provider.http.paging import next_link
from flowrunner_provider.transport.http_digest import read_challenges
from flowrunner_provider.transport.http_errors import excerpt
from flowrunner_provider.transport.sftp_wire import Attributes, Violation, pack_attributes, pack_string, parse_names
from tests.support.growth import grows_like_a_line

UNIX = "-rw-r--r-- 1 u g "
Make = Callable[[int], Any]


def filled(before: str, unit: str, after: str = "") -> Make:
    """``unit`` as often as it takes."""
    return lambda size: before + unit * (size // len(unit)) + after


@pytest.mark.parametrize(
    "make",
    [
        filled("-rw-r--r-- 1 x", " "),
        filled("-rw-r--r-- 1", " "),
        filled(UNIX, "1 "),
        filled(UNIX, "1"),
        filled(UNIX, "x "),
        filled(UNIX + "1", " "),
        filled(UNIX, "1 Jan "),
        filled(UNIX, "1 Jan 1 "),
        filled(UNIX + "1 Jan 1", " "),
        filled("lrwxrwxrwx 1 u g 1 Jan 1 2026 a", " -> "),
        filled("01-01-20", " "),
        filled("01-01-20 10:10", " "),
        filled("01-01-20 10:10 1", " "),
        filled("total ", "1", "x"),
        filled("", "-"),
    ],
)
def test_a_line_of_list(make: Make) -> None:
    grows_like_a_line(lambda line: list_entry(line, "/"), make, refuses=FlowRunnerError)


@pytest.mark.parametrize(
    "make",
    [filled("", "type=file;", " a"), filled("type=file;modify=", "1", "; a"), filled("", ";="), filled("", "="),
     filled("type=dir; ", "../")],
)  # fmt: skip
def test_a_line_of_mlsd(make: Make) -> None:
    grows_like_a_line(lambda line: fact_entry(line, "/"), make, refuses=FlowRunnerError)
    grows_like_a_line(moment, make)


TIME = "2026-01-01T00:00:00.000Z"
ROW = f"<Contents><Key>{{}}</Key><Size>1</Size><LastModified>{TIME}</LastModified><ETag>e</ETag></Contents>"


def many_attributes(size: int) -> str:
    return "<ListBucketResult " + "".join(f'a{number}="b" ' for number in range(size // 10)) + "/>"


@pytest.mark.parametrize(
    "make",
    [
        filled("<ListBucketResult>", ROW.format("a"), "</ListBucketResult>"),
        filled("<ListBucketResult><EncodingType>url</EncodingType>" + ROW.partition("{}")[0], "%41",
               ROW.partition("{}")[2] + "</ListBucketResult>"),
        filled("<ListBucketResult>" + ROW.partition("{}")[0], "&lt;", ROW.partition("{}")[2] + "</ListBucketResult>"),
        filled("<ListBucketResult>", "<a>"),
        filled("<ListBucketResult ", "a=", "/>"),
        many_attributes,
        filled("<ListBucketResult>", "<CommonPrefixes><Prefix>a</Prefix></CommonPrefixes>", "</ListBucketResult>"),
        filled("", "<"),
    ],
)  # fmt: skip
def test_a_page_of_s3(make: Make) -> None:
    grows_like_a_line(lambda text: page_of(text.encode()), make, refuses=ValueError)


@pytest.mark.parametrize("make", [filled("", "<Code>"), filled("<Code>", "A"), filled("<a>", "<b/>", "</a>")])
def test_an_error_of_a_bucket(make: Make) -> None:
    """Azure's come in the same form."""
    grows_like_a_line(lambda text: code_in(text.encode()), make)


@pytest.mark.parametrize(
    "make", [filled("<a>", "<b/>", "</a>"), filled("", "<a>"), filled("<a>", "x<b/>", "</a>"), filled("<a>", "&lt;")]
)
def test_an_answer_in_xml(make: Make) -> None:
    grows_like_a_line(lambda text: parse_xml(text.encode(), "the answer"), make, refuses=FlowRunnerError)


def many_names(size: int) -> bytes:
    one = pack_string(b"abc") + pack_string(b"long") + pack_attributes(Attributes(*[None] * len(Attributes._fields)))
    return struct.pack(">I", size // len(one)) + one * (size // len(one))


def one_name(size: int) -> bytes:
    return (
        struct.pack(">I", 1)
        + pack_string(b"a" * size)
        + pack_string(b"")
        + pack_attributes(Attributes(*[None] * len(Attributes._fields)))
    )


@pytest.mark.parametrize("make", [many_names, one_name, lambda size: struct.pack(">I", 2**31) + bytes(size)])
def test_names_of_sftp(make: Make) -> None:
    grows_like_a_line(parse_names, make, refuses=Violation)


@pytest.mark.parametrize("make", [filled("", "a"), filled("", "../"), filled("", "%25"), filled("", "．．／"),
                                  filled("", "%u002e")])  # fmt: skip
def test_a_name(make: Make) -> None:
    grows_like_a_line(safe_component, make, refuses=FlowRunnerError)


@pytest.mark.parametrize(
    "make",
    [
        filled("", "1"), filled("", " "), filled("", ","), filled("", "("), filled("", "Jan "),
        filled("Mon, 01 Jan ", "1", " 00:00:00 GMT"), filled("Mon, 01 Jan 2026 00:00:00 ", "+"),
    ],
)  # fmt: skip
def test_retry_after(make: Make) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    grows_like_a_line(lambda value: parse_retry_after(value, now), make)


@pytest.mark.parametrize(
    "make",
    [
        filled("<u>", "; a "), filled("<u>", "; a ", '"'), filled("<u>;a", " ", "x"), filled("<u>", ";a=b ", '"'),
        filled("<u>;a= ", " ", '"'), filled("<u>", ";a", '"'), filled('<u>;a="', "b"), filled("", "<"),
        filled("", "<>"), filled("", "<u>,"), filled("<u>;rel=", "x;rel="), filled("", "<u>;rel=prev, "),
        filled("", " "),
        filled('<u>; rel="', "a ", '"'),
    ],
)  # fmt: skip
def test_a_link_header(make: Make) -> None:
    grows_like_a_line(lambda value: next_link([value]), make)


def test_a_link_header_is_read_as_before() -> None:
    value = '<https://a/1>; rel="prev" , <https://a/3> ;title="a, b; c" ; rel = "last next" ; type*=x'
    assert next_link([value]) == "https://a/3"
    assert next_link(["<https://a/2>;rel=next;", "<x>"]) is None
    assert next_link(["<https://a/2>;rel=next"]) == "https://a/2"


@pytest.mark.parametrize(
    "make",
    [
        filled("attachment", ";"), filled("attachment", ";a=b"), filled("attachment;", " "),
        filled('attachment;filename="', "\\"), filled('attachment;filename="', '\\"'), filled("attachment;a=", "="),
        filled("attachment;filename*=utf-8''", "%25"), filled("attachment;filename*=", "utf-8'"),
        filled('attachment;filename="', "../", '"'),
    ],
)  # fmt: skip
def test_a_content_disposition(make: Make) -> None:
    grows_like_a_line(filename_from_disposition, make, refuses=FlowRunnerError)


@pytest.mark.parametrize(
    "make",
    [
        filled("Digest ", "a=b,"), filled('Digest a="', "\\"), filled("Digest a", " "), filled("Digest ", "a= "),
        filled("", "a "), filled("Digest ", 'nonce="\\'), filled("Digest ", 'a="'), filled("Digest ", "a  ", '"'),
    ],
)  # fmt: skip
def test_a_challenge(make: Make) -> None:
    grows_like_a_line(lambda value: read_challenges([value]), make)


@pytest.mark.parametrize(
    "make",
    [
        filled("", "http://"), filled("http://", "a"), filled("http://a/?", "a=b&"), filled("", "?"), filled("", "://@"),
        filled("http://a/?", "aA", "=b"), filled("", "max tokens "), filled("conn", " "), filled("", "A"),
    ],
)  # fmt: skip
def test_what_is_looked_through_for_secrets(make: Make) -> None:
    grows_like_a_line(redact_url, make)
    grows_like_a_line(is_sensitive_key, make)
    grows_like_a_line(excerpt, make)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: ",".join(f"c{number}" for number in range(size // 8)) + "\n",
        filled("", "a,", "\n"), filled("", '"'), filled("", ",", "\n1\n"), filled("a\n", "\r"), filled('"', "a\n"),
        filled("a", " ", "\n1\n"),
    ],
)  # fmt: skip
def test_the_header_of_a_csv(tmp_path: Path, make: Make) -> None:
    def rows(text: str) -> None:
        (tmp_path / "a.csv").write_text(text, newline="")
        with open_rows(Dataset.from_value(str(tmp_path / "a.csv")), batch_rows=1000) as opened:
            for _ in opened:
                pass

    grows_like_a_line(rows, make, refuses=FlowRunnerError)
