"""Derives the plain text of an HTML mail, for mail clients that do not show HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

__all__ = ["html_to_text"]

_HIDDEN = frozenset({"head", "script", "style", "title", "template"})
_LINES = frozenset({"br", "dd", "div", "dt", "footer", "header", "li", "section", "tr"})
_PARAGRAPHS = frozenset(
    ["article", "blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "ol", "p", "pre", "table", "ul"]
)  # fmt: skip
_BLANK = re.compile(r"[ \t\r\n\f]+")


def html_to_text(html: str) -> str:
    """Return the text of ``html``: one line per block, links followed by their URL, ``pre`` unchanged.

    :param html: a document or a fragment; broken markup is parsed as in browsers.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._newlines = 2  # how many the text ends with; two, so that it does not begin with any
        self._hidden = self._pre = 0
        self._links: list[tuple[str, int]] = []

    def text(self) -> str:
        return "".join(self._parts).rstrip() + "\n"

    def _break(self, newlines: int) -> None:
        if self._newlines < newlines:
            if self._parts and not self._pre:
                self._parts[-1] = self._parts[-1].rstrip(" ")
            self._parts.append("\n" * (newlines - self._newlines))
            self._newlines = newlines

    def _write(self, text: str) -> None:
        if text:
            self._parts.append(text)
            self._newlines = len(text) - len(text.rstrip("\n"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag == "br":
            self._write("\n")
        elif tag in _PARAGRAPHS or tag in _LINES:
            self._break(2 if tag in _PARAGRAPHS else 1)
        if tag == "pre":
            self._pre += 1
        elif tag == "li":
            self._write("- ")
        elif tag in ("td", "th") and not self._newlines:
            self._write("\t")
        elif tag == "img" and not self._hidden:
            self._write(values.get("alt") or "")
        elif tag == "a":
            self._links.append((values.get("href") or "", len(self._parts)))

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag == "a" and self._links:
            address, start = self._links.pop()
            shown = "".join(self._parts[start:]).strip()
            if address.startswith(("http://", "https://", "mailto:")) and shown not in (address, address[7:]):
                self._write(f" ({address})")
        elif tag in _PARAGRAPHS or (tag in _LINES and tag != "br"):
            self._break(2 if tag in _PARAGRAPHS else 1)
        if tag == "pre":
            self._pre = max(0, self._pre - 1)

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._pre:
            self._write(data)
            return
        text = _BLANK.sub(" ", data)
        ended = self._newlines or (self._parts and self._parts[-1].endswith((" ", "\t")))
        self._write(text.lstrip(" ") if ended else text)
