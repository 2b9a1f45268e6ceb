"""The text of a user's query, to be placed inside a statement of ours."""

from __future__ import annotations

import re

__all__ = ["strip_terminator"]

_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*(?:[^*]|\*(?!/))*\*/ )
    | (?P<semicolon> ; )
    | (?P<text> '(?:[^'\\]|'')*' | "[^"\\]*" | `[^`]*` | \[[^]'"]*\] | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<ambiguous> ['"`$\\\[\#] | /\* )
    | (?P<other> \w[\w$]* | \S )
    """,
    re.DOTALL | re.VERBOSE,
)
"""``ambiguous`` begins what the databases read differently, such as a string with a backslash."""


def strip_terminator(query: str) -> str:
    """Return the query without its final semicolon and the comments after it.

    If the databases differ in where a string of this query ends, comments after the semicolon are left in place.
    """
    end: int | None = None
    for token in _TOKEN.finditer(query):
        if token.lastgroup == "ambiguous":
            return query.rstrip().rstrip(";")
        if token.lastgroup == "semicolon":
            end = token.start() if end is None else end
        elif token.lastgroup != "comment":
            end = None
    return query.rstrip() if end is None else query[:end]
