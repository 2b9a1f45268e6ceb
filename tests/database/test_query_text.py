"""The end of a user's query, without any database."""

from __future__ import annotations

import pytest

from flowrunner_provider.database.query_text import strip_terminator


@pytest.mark.parametrize(
    ("query", "stripped"),
    [
        ("SELECT 1", "SELECT 1"),
        ("SELECT 1;\n", "SELECT 1"),
        ("SELECT 1 ; ;\n-- don't; really\n/* it's */ ;", "SELECT 1 "),
        ("SELECT 'it''s', \"a;\", $x$;--$x$ FROM t -- b'\n; -- c", "SELECT 'it''s', \"a;\", $x$;--$x$ FROM t -- b'\n"),
        ("SELECT [a b] FROM t; -- c", "SELECT [a b] FROM t"),
        ("SELECT ';-- x'", "SELECT ';-- x'"),
        ("SELECT '\\'; -- x'", "SELECT '\\'; -- x'"),
        ("/* a; -- b */ SELECT 1", "/* a; -- b */ SELECT 1"),
        ("SELECT 1 # don't\n WHERE a = 'x; -- y'", "SELECT 1 # don't\n WHERE a = 'x; -- y'"),
        ("SELECT [it's], '; -- x'", "SELECT [it's], '; -- x'"),
        ("SELECT 1 -- a\nFROM t", "SELECT 1 -- a\nFROM t"),
        ("SELECT 1;" + "/**/" * 1000 + "x", "SELECT 1;" + "/**/" * 1000 + "x"),
    ],
)
def test_the_terminator_and_the_comments_after_it_are_removed(query: str, stripped: str) -> None:
    assert strip_terminator(query) == stripped
