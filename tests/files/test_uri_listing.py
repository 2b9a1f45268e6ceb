"""Addresses and patterns."""

from __future__ import annotations

import fnmatch
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.listing import Filter, matcher
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.uri import Location, apart, parse, split_glob


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/in", Location(scheme="file", path="/data/in")),
        ("/data/in/", Location(scheme="file", path="/data/in/")),
        ("file:///data/a b", Location(scheme="file", path="/data/a b")),
        ("file://localhost/data", Location(scheme="file", path="/data")),
        ("sftp://partner@/out/*.csv", Location(scheme="sftp", conn_id="partner", path="/out/*.csv")),
        ("sftp://partner@host.example/x", Location(scheme="sftp", conn_id="partner", host="host.example", path="/x")),
        ("sftp://partner@/~/out", Location(scheme="sftp", conn_id="partner", path="out")),
        ("sftp://partner@/~/", Location(scheme="sftp", conn_id="partner", path=".")),
        ("sftp://p@/a%20b?c#d", Location(scheme="sftp", conn_id="p", path="/a%20b?c#d")),
        ("/a@b/c", Location(scheme="file", path="/a@b/c")),
    ],
)
def test_parse(uri, expected):
    assert parse(uri) == expected


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("data/in", "not absolute"), ("", "no path"), ("sftp://partner@", "no path"), ("sftp:///out", "connection"),
        ("sftp://host/out", "connection"), ("gopher://x@/y", "file://, sftp://"), ("/a/../b", "steps up"),
        ("/a\0b", "NUL"), ("ldap://c@b/k", "no store 'ldap'"), ("file://elsewhere/x", "not absolute"),
    ],
)  # fmt: skip
def test_parse_refuses(uri, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse(uri, field="source")
    assert caught.value.field == "source"


@given(st.text())
def test_parse_never_raises_anything_else(text):
    with suppress(ConfigError):
        assert parse(text).path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b", ("/a/b", "")), ("/a/*.csv", ("/a", "*.csv")), ("/*/x", ("/", "*/x")), ("*.x", (".", "*.x")),
        ("/a/b?/c/**", ("/a", "b?/c/**")), ("in/[ab]", ("in", "[ab]")),
    ],
)  # fmt: skip
def test_split_glob(path, expected):
    assert split_glob(path) == expected


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.csv", ["a.csv", "a.b.csv"], [".a.csv", "d/a.csv", "a.csvx", "a_csv"]),
        ("**/*.csv", ["a.csv", "d/a.csv", "d/e/a.csv"], [".d/a.csv", "d/.a.csv"]),
        ("**", ["a", "d/a"], [".a", "d/.a"]),
        ("a**b", ["ab", "axxb"], ["a/b"]),
        ("?.txt", ["a.txt", "ü.txt"], ["ab.txt", "/.txt", "..txt"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[!a]x", ["bx"], ["ax", "/x"]),
        ("[]]", ["]"], ["["]),
        ("[^]", ["^"], ["a"]),
        ("d/*/f", ["d/e/f"], ["d/f", "d/e/g/f"]),
        ("a+(b)|c", ["a+(b)|c"], ["ab"]),
    ],
)
def test_glob(pattern, yes, no):
    match = matcher(pattern, "glob")
    assert [name for name in yes if not match(name)] == []
    assert [name for name in no if match(name)] == []


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_any_glob_compiles_or_is_refused(pattern, name):
    try:
        matcher(pattern, "glob")(name)
    except ConfigError:
        assert "[" in pattern


def test_regex():
    assert matcher(r"\d+\.csv", "regex")("12.csv")
    with pytest.raises(ConfigError, match="not a regex"):
        matcher("(", "regex")


def test_filter():
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def entry(age: float | None, size: int) -> Entry:
        modified = None if age is None else now - timedelta(seconds=age)
        return Entry(path="/f", name="f", size=size, modified=modified)

    assert Filter(now=now, min_age=timedelta(seconds=60))("f", entry(60, 0))
    assert not Filter(now=now, min_age=timedelta(seconds=60))("f", entry(59, 0))
    assert not Filter(now=now, min_age=timedelta(seconds=60))("f", entry(None, 0))
    assert Filter(now=now, newer_than=now - timedelta(seconds=5))("f", entry(4, 0))
    assert not Filter(now=now, newer_than=now - timedelta(seconds=5))("f", entry(5, 0))
    assert not Filter(now=now, min_size=2)("f", entry(0, 1))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("pattern", ["*_*_*_*_*_*_*.csv", "*a*_*_?_*_[_]*_*.csv", "**/*_*_*_*_*_*/x.csv"])
def test_a_name_cannot_make_a_glob_slow(pattern):
    """Names come from the far side: with backtracking these take hours."""
    match = matcher(pattern, "glob")
    assert not match("_" * 255)
    assert not match("a" + "_" * 250 + ".cs")


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*a*ab", ["aab", "xaxab", "aabab"], ["ab", "a/ab", "aaba"]),
        ("*/*.gz/*", ["a/b.gz/c", "a/b.gz.gz/c"], ["a/b.gz", "a/b/c.gz/d"]),
        ("*.tar.*.gz", ["a.tar.x.gz", "a.tar.tar.gz.gz"], ["a.tar.gz", "a.tar.x.gzip"]),
        ("*", ["a"], ["a/b", ".a"]),
        ("a*", ["a", "ab", "a.b"], ["ba", "a/b"]),
        ("*?*", ["a", "ab"], ["", "a/b"]),
    ],
)
def test_stars(pattern, yes, no):
    match = matcher(pattern, "glob")
    assert [name for name in yes if not match(name)] == []
    assert [name for name in no if match(name)] == []


@given(st.text(alphabet="ab*?", max_size=8), st.text(alphabet="ab", min_size=1, max_size=8))
def test_stars_match_as_in_the_standard_library(pattern, name):
    assert matcher(pattern.replace("**", "*"), "glob")(name) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a/", "/a/b/"), ("sftp://c@/~/", "sftp://c@/~/in/"), ("sftp://c@/~/in", "sftp://c@/~/"),
        ("/", "/a"), ("sftp://c@/~/in/", "sftp://c@/~/in/x/"),
    ],
)  # fmt: skip
def test_folders_in_one_another_are_refused(one, other):
    with pytest.raises(ConfigError):
        apart(parse(one), parse(other), "dest")


def test_folders_that_are_apart():
    apart(parse("/a/"), parse("/ab/"), "dest")
    apart(parse("sftp://c@/~/in"), parse("sftp://c@/~/out"), "dest")
    apart(parse("sftp://c@/~/in"), parse("sftp://d@/~/in"), "dest")
