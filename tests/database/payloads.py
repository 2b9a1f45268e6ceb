"""Names that try to be SQL."""

from __future__ import annotations

from itertools import product

__all__ = ["PAYLOADS"]

_BREAKS = ['"', "'", "`", "]", '""', '"; ', "'; ", "`; ", "]; ", '") ', '\\"', "\\", "\u02ba", "\uff02", '"\n', '"."']
_TAILS = [
    "DROP TABLE victim; --", "DELETE FROM victim; --", "INSERT INTO victim VALUES (2)", "OR 1=1", "UNION SELECT 1",
    "--", "/*", "*/", "; SELECT pg_sleep(9)", "$1", "%s", "?",
]  # fmt: skip
_SINGLE = [
    "select", "SELECT", "table", "null", "a b", " a", "a ", "a.b", "a;b", "a,b", "a(b)", "a)", "1", "1=1", "%", "%%",
    "%(x)s", ":x", "$$", "$x$", "{}", "{0}", "a\tb", "a\rb", "a\nb", "\x7f", "\x01", "é", "e\u0301", "🙂", "\u202e",
    "\u2028", "sqlite_x", "pg_x", "x" * 63, "x" * 64, "é" * 31, "é" * 32, "", "\0", "a\0b", "\ud800", "a\udc00", "-- ",
    "/**/", "\\.", "\\N", "E'x'", "U&\"x\"", "x'00'",
]  # fmt: skip

PAYLOADS = [*dict.fromkeys([*_SINGLE, *(a + b for a, b in product(_BREAKS, _TAILS))])]
