"""What senders wrote, as text: any charset, any damage. Bad bytes are replaced and never an error."""

from __future__ import annotations

import binascii
import codecs
import quopri
import re
from collections.abc import Iterator
from email.utils import decode_params, getaddresses, unquote

__all__ = ["Decoder", "addresses", "decoded_text", "decoder_for", "header_text", "parameter"]

_ALIASES = {"ansi": "cp1252", "cp-850": "cp850", "unicode-1-1-utf-7": "utf-7", "x-unknown": "utf-8", "utf8mb4": "utf-8"}
_FORBIDDEN = frozenset({"idna", "mbcs", "oem", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"})
_BLANKS = re.compile(r"[\r\n\t ]+")
_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?]*)\?=", re.ASCII)
_WORDS = re.compile(rf"{_WORD.pattern}(?:\s+{_WORD.pattern})*", re.ASCII)
_RAW = re.compile("[\udc80-\udcff]")
_LONGEST_LINE = 65_536
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]+")


def _codec(charset: str) -> str:
    """The codec of a charset; UTF-8 for one that nobody knows."""
    name = charset.strip().strip("\"'").lower()
    try:
        found = codecs.lookup(_ALIASES.get(name, name)).name
        b"".decode(found)
    except (LookupError, ValueError):
        return "utf-8"
    return "utf-8" if found.replace("-", "_") in _FORBIDDEN else found


def decoded_text(data: bytes, charset: str = "") -> str:
    """The text: as it is declared, or as UTF-8 where only that fits, or with marks for what is lost."""
    codec = _codec(charset or "utf-8")
    for name in dict.fromkeys((codec, "utf-8")):
        try:
            return data.decode(name)
        except UnicodeError:
            continue
    codec = "cp1252" if codec in ("ascii", "utf-8") else codec
    return data.decode(codec, "replace")


def header_text(raw: str | None) -> str:
    """A header's value on one line, its encoded words (RFC 2047) read."""
    text = _WORDS.sub(_words, _ascii_or_decoded(raw or ""))
    return _BLANKS.sub(" ", text).strip()


def _words(match: re.Match[str]) -> str:
    """Encoded words that follow each other; a character may begin in one and end in the next."""
    text, pending, before = "", b"", ""
    for charset, encoding, content in _WORD.findall(match[0]):
        if charset.lower() != before:
            text, pending, before = text + decoded_text(pending, before), b"", charset.lower()
        if encoding in "bB":
            decoder = _Base64()
            pending += decoder.feed(content.encode()) + decoder.close()
        else:
            pending += quopri.decodestring(content, header=True)
    return text + decoded_text(pending, before)


def _ascii_or_decoded(text: str) -> str:
    """Headers that were read as ASCII may hold other bytes, as lone surrogates."""
    if text.isascii():
        return text
    return decoded_text(text.encode("utf-8", "surrogateescape" if _RAW.search(text) else "replace"))


def addresses(values: list[str]) -> list[dict[str, str]]:
    """Names and addresses of an address header."""
    try:
        found = getaddresses([_ascii_or_decoded(value) for value in values])
    except (ValueError, IndexError, TypeError, AttributeError, RecursionError):
        return []
    return [{"name": header_text(name), "address": header_text(address)} for name, address in found if name or address]


def parameter(pairs: list[tuple[str, str]], name: str) -> str:
    """A parameter of a MIME header, in every spelling: RFC 2231, encoded words, raw bytes."""
    found = [(key, value) for key, value in pairs if key.lower().split("*")[0] == name]
    if not found:
        return ""
    try:
        for key, value in decode_params([("", ""), *found])[1:]:
            if key.lower() == name:
                if isinstance(value, tuple):
                    return header_text(_collapsed(value))
                return header_text(value.removeprefix('"').removesuffix('"'))
    except (ValueError, LookupError, TypeError):
        pass
    return header_text(found[0][1])


def _collapsed(value: tuple[str | None, str | None, str]) -> str:
    charset, _, text = value
    return decoded_text(unquote(text).encode("latin-1", "replace"), charset or "")


class Decoder:
    """A content transfer encoding, undone piece by piece; 7bit, 8bit and binary are what they are."""

    def feed(self, data: bytes) -> bytes:
        return data

    def close(self) -> bytes:
        """What is left at the end."""
        return b""


class _Base64(Decoder):
    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._decoded(self._left + _NOT_BASE64.sub(b"", data)))

    def _decoded(self, text: bytes) -> Iterator[bytes]:
        # Padding inside ends one run of base64; some programs write several, one behind the other.
        *runs, text = text.split(b"=")
        yield from map(_unpadded, runs)
        whole = len(text) - len(text) % 4
        self._left = text[whole:]
        yield binascii.a2b_base64(text[:whole])

    def close(self) -> bytes:
        left, self._left = self._left, b""
        return _unpadded(left)


def _unpadded(run: bytes) -> bytes:
    """A run without its padding; a single character left over holds no byte."""
    if len(run) % 4 == 1:
        run = run[:-1]
    return binascii.a2b_base64(run + b"=" * (-len(run) % 4))


class _QuotedPrintable(Decoder):
    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> bytes:
        lines, newline, self._left = (self._left + data).rpartition(b"\n")
        if len(self._left) > _LONGEST_LINE:  # a line that does not end is not gathered; only what may be half an octet
            cut = (self._left + b"==").index(b"=", len(self._left) - 2)
            lines, newline, self._left = lines + newline + self._left[:cut], b"", self._left[cut:]
        return quopri.decodestring(lines + newline)

    def close(self) -> bytes:
        left, self._left = self._left, b""
        return quopri.decodestring(left)


def decoder_for(encoding: str) -> Decoder:
    """By the name of the encoding (RFC 2045); an unknown one is left as it is."""
    match encoding.strip().lower():
        case "base64":
            return _Base64()
        case "quoted-printable":
            return _QuotedPrintable()
        case _:
            return Decoder()
